"""The figures of an Avoiding run, from episodes, teachers and students made by hand."""

import json
import shutil
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.patches import Circle, Ellipse
from tiny_config import changed

from vdd_jax import config as config_lib
from vdd_jax import evaluate, figures, figures_avoiding, policy, problem
from vdd_jax.core import mixture, schedules
from vdd_jax.core.mixture import Mixture
from vdd_jax.data import Scaler
from vdd_jax.policy import History, Policy
from vdd_jax.tasks import avoiding
from vdd_jax.tasks.avoiding import Episodes, geometry
from vdd_jax.teachers import Teacher
from vdd_jax.types import Batch

pytest_plugins = "smoke_run"

L = 250  # recorded steps of an episode
SCALER = Scaler(jnp.zeros(2), jnp.full(2, 0.005), jnp.zeros(4), jnp.ones(4), jnp.ones(4))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, kept open for inspection; a warning is an error."""
    kept = []
    monkeypatch.setattr(figures.plt, "close", kept.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield kept
    monkeypatch.undo()
    for figure in kept:
        figures.plt.close(figure)


def not_blank(path):
    image = matplotlib.image.imread(path)[..., :3]
    return min(image.shape[:2]) > 100 and image.std() > 0.02


def configuration(**values):
    config = config_lib.default()
    config.task.update(name="avoiding", window=3)
    return changed(config, **values)


def episodes(ends, success, steps=8):
    """Straight ways from the start to `ends` `[N, 2]`, then nothing; modes 5, 6, …"""
    n, success = len(ends), np.asarray(success)
    share = np.minimum(np.arange(L) / steps, 1.0)[:, None]
    tcp = geometry.START + share * (np.asarray(ends)[:, None] - geometry.START)
    mask = np.broadcast_to(np.arange(L) < steps, (n, L))
    no = np.zeros(n, bool)
    return Episodes(success, ~success, no, no, np.full(n, steps), 5 + np.arange(n),
                    np.concatenate([tcp, tcp], -1), np.zeros((n, L, 2)), mask)


RAN = {
    "teacher": episodes([[0.3, 0.36], [0.5, -0.14]], [True, False]),
    "few_step_teacher": episodes([[0.5, -0.14], [0.5, -0.14]], [False, False]),
    "student": episodes([[0.9, 0.1], [0.3, 0.36], [0.7, 0.36]], [False, True, True]),
}


def report():
    """As evaluation writes it."""
    scores = {actor: avoiding.score(ran) for actor, ran in RAN.items()}
    scores["few_step_teachers"] = {"1": scores.pop("few_step_teacher")}
    scores["student"] |= {"kind": "vdd", "acting": "sampled_mean"}
    return scores


def weights(num_experts=3):
    """The first expert rules the first half of every way, the second the rest."""
    values = np.full((3, 8, num_experts), 0.3 / (num_experts - 1))
    values[:, :4, 0] = values[:, 4:, 1] = 0.7
    return values


def gaussians(log_weights, means, std):
    """A diagonal mixture of one std."""
    return Mixture(log_weights, means, jnp.full(means.shape, std))


def student_of(apply, **sizes):
    return Policy({}, SCALER, apply, 4, 2, **{"window": 3, **sizes})


def two_ways(variables, context):
    """A student that goes left or right by where it is."""
    x = context.observations[..., -1, 2]
    logits = jnp.stack([x, -x], -1) * 3
    means = jnp.broadcast_to(jnp.array([[-1.0, 2.0], [1.0, 2.0]]), (*x.shape, 2, 2))
    return gaussians(jax.nn.log_softmax(logits), means, 0.1)


def forked(width):
    """A problem whose teacher goes `width(window)` to the left or the right, scaled."""
    heights = np.repeat(np.linspace(-0.28, 0.36, 65), 3)
    x = np.tile([0.4, 0.5, 0.6], 65)
    newest = np.stack([x, heights, x, heights], -1)
    windows = jnp.asarray(np.repeat(newest[:, None], 3, 1), jnp.float32)
    context = SCALER.context(windows, past_actions=avoiding.past_actions(windows))

    def denoise(x, context, t):
        side = jnp.where(x[..., :1] > 0, 1.0, -1.0) * width(context.observations)[..., None]
        return jnp.concatenate([side, jnp.full_like(side, 2.0)], -1)

    teacher = Teacher(None, schedules.ve(0.05, 5.0), None, denoise)
    held_out = Batch(context, jnp.zeros((len(x), 2)))
    return problem.Problem(avoiding.SPEC, held_out, held_out, SCALER, teacher, {},
                           config_lib.default().teacher)


def test_episodes_are_read_as_evaluation_saved_them(tmp_path):
    """The actors that are drawn, the first episodes, every field in its place."""
    kept = {"teacher": RAN["teacher"], "teacher_1_steps": RAN["few_step_teacher"],
            "sampled_mean": RAN["student"], "sample": RAN["teacher"]}
    evaluate._save_episodes(tmp_path / "episodes.npz", kept)
    read = figures_avoiding.read_episodes(
        tmp_path / "episodes.npz", figures_avoiding.actors(report()))
    assert list(read) == ["teacher", "few_step_teacher", "student"]
    jax.tree.map(np.testing.assert_array_equal, read, RAN)


@pytest.mark.parametrize("steps", [8, L])
def test_a_way_ends_where_the_rod_ended(steps):
    """All positions before an action and, but for the limit, the one after the last."""
    way = figures_avoiding.path_of(episodes([[0.3, 0.36]], [True], steps), 0)
    assert way.shape == (min(steps + 1, L), 2)
    np.testing.assert_allclose(way[0], geometry.START)
    if steps < L:
        np.testing.assert_allclose(way[-1], [0.3, 0.36])


def test_trajectories_show_experts_and_failures(drawn, tmp_path):
    """Steps in their expert's colour, opaque by its gating; crosses where failures ended."""
    path = figures_avoiding.trajectories(report(), RAN, weights(), tmp_path / "trajectories.png")
    assert not_blank(path)
    panels = drawn[0].axes[:3]
    assert [a.get_title() for a in panels] == [
        "Teacher: success 0.50, entropy 0.00", "Teacher, one step: success 0.00, entropy 0.00",
        "Student: success 0.67, entropy 0.22"]
    assert all(a.get_xlabel() == "x (m)" for a in panels) and panels[0].get_ylabel() == "y (m)"
    ways = [c for c in panels[2].collections if isinstance(c, LineCollection)]
    assert len(ways) == 3
    colours = ways[0].get_colors()
    assert len(ways[0].get_segments()) == len(colours) == 8
    for z, part in ((0, colours[:4]), (1, colours[4:])):
        wanted = matplotlib.colors.to_rgba(figures.expert_colour(z, 3), 0.25 + 0.75 * 0.7)
        np.testing.assert_allclose(part, np.tile(wanted, (4, 1)))
    crosses = [[line for line in a.lines if line.get_marker() == "x"][0] for a in panels]
    assert [len(c.get_xdata()) for c in crosses] == [1, 2, 1]
    np.testing.assert_allclose(crosses[0].get_xydata(), [[0.5, -0.14]])
    # it left the corridor: marked at the edge of the picture
    np.testing.assert_allclose(crosses[2].get_xydata(), [[geometry.CORRIDOR_X[1], 0.1]])


def test_the_plane_has_six_cylinders_with_the_rods_ring(drawn, tmp_path):
    """Radius of the cylinder, and of touching it."""
    figures_avoiding.trajectories(report(), RAN, weights(), tmp_path / "trajectories.png")
    circles = [p for p in drawn[0].axes[0].patches if isinstance(p, Circle)]
    found = sorted((*c.center, c.radius) for c in circles)
    wanted = sorted((*centre, r + ring) for centre, r in
                    zip(geometry.CENTRES, geometry.RADII, strict=True) for ring in (0, 0.01))
    np.testing.assert_allclose(found, wanted)


def test_many_experts_leave_room_for_the_paths(drawn, tmp_path):
    """The legend names at most `NAMED`."""
    values = np.full((3, 8, 40), 0.01)
    values[np.arange(3)[:, None], np.arange(8), np.arange(24).reshape(3, 8)] = 0.6
    figures_avoiding.trajectories(report(), RAN, values, tmp_path / "trajectories.png")
    figure = drawn[0]
    [legend] = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    assert len(legend.get_texts()) == figures_avoiding.NAMED
    panels, inch = figure.axes[:3], figure.dpi
    boxes = [panel.get_window_extent() for panel in panels]
    assert all(box.width / inch > 3.5 and box.height / inch > 3.5 for box in boxes)
    titles = [panel.title.get_window_extent() for panel in panels]
    assert all(a.x1 < b.x0 for a, b in zip(titles, titles[1:], strict=False))
    below = legend.get_window_extent()
    assert below.y1 < min(panel.xaxis.label.get_window_extent().y0 for panel in panels)
    bar = figure.axes[-1]
    assert bar.xaxis.label.get_window_extent().x1 < below.x0 and below.x0 > boxes[1].x1


def test_histograms_are_those_of_the_report(drawn, tmp_path):
    """A bar for each mode, and the line of an even spread."""
    path = figures_avoiding.mode_histograms(report(), tmp_path / "mode_histograms.png")
    assert not_blank(path)
    student = drawn[0].axes[2]
    heights = [bar.get_height() for bar in student.patches]
    assert len(heights) == 24 and heights[6] == heights[7] == 1 and sum(heights) == 2
    np.testing.assert_allclose(student.lines[0].get_ydata(), 2 / 24)
    assert student.get_title() == "Student: entropy 0.22, 2 of 24 modes"


def feature(observations, valid, goal):
    """A number that differs for every window and goal, scaled."""
    seen = jnp.sum(observations * jnp.arange(1, 13).reshape(3, 4), (-1, -2))
    return seen + jnp.sum(valid, -1) + goal[..., 0, 0]


@pytest.mark.parametrize("execute_steps", [1, 2])
def test_gating_is_that_of_the_windows_the_student_was_asked_with(execute_steps):
    """Windows, validity, goals and chunks as in the simulator: rebuilt from its own episodes."""
    config = configuration(task__chunk=2, task__execute_steps=execute_steps)
    goals = jnp.arange(12.0).reshape(3, 1, 4)

    def act(history, valid, key):
        goal = goals[jnp.arange(len(history)) % 3]
        action = 1e-4 * feature(history, valid, goal)
        return jnp.broadcast_to(action[:, None, None], (len(history), 2, 2))

    def apply(variables, context):
        value = feature(context.observations, context.valid, context.goal)
        log_weights = jax.nn.log_softmax(jnp.stack([value, jnp.zeros_like(value)], -1) / 10)
        return gaussians(log_weights, jnp.zeros((*value.shape, 2, 4)), 1.0)

    scaler = jax.tree.map(lambda v: v, SCALER)._replace(
        action_mean=jnp.zeros(4), action_std=jnp.ones(4))
    student = student_of(apply, chunk=2, goal_length=1).replace(scaler=scaler)
    ran = jax.jit(partial(avoiding.rollout, act, num_episodes=5, window=3, episode_limit=6,
                          execute_steps=execute_steps))(jax.random.key(0))
    ran = jax.tree.map(np.asarray, ran)
    found = figures_avoiding.gating(config, student, ran, goals)
    assert found.shape == (5, 6, 2) and ran.mask.all()
    wanted = jax.nn.sigmoid(1e4 * ran.actions[..., 0] / 10)
    assert np.std(wanted) > 0.05
    np.testing.assert_allclose(found[..., 0], wanted, atol=1e-4)


@pytest.mark.parametrize("full", [True, False])
def test_marginal_of_the_first_action(full):
    """Covariance of the first two of four numbers, weights and means unchanged."""
    factor = np.tril(np.arange(1.0, 17.0).reshape(4, 4))
    tril = factor if full else np.diagonal(factor)
    q = Mixture(jnp.log(jnp.array([0.3, 0.7])), jnp.arange(8.0).reshape(2, 4),
                jnp.broadcast_to(tril, (2, *tril.shape)))
    first = figures_avoiding.marginal(q, 2)
    covariance = (factor @ factor.T if full else np.diag(tril**2))[:2, :2]
    got = first.scale_tril[0] if full else jnp.diag(first.scale_tril[0])
    np.testing.assert_allclose(got @ got.T, covariance)
    np.testing.assert_allclose(first.means, [[0, 1], [4, 5]])
    np.testing.assert_allclose(first.log_weights, q.log_weights)


def test_first_action_is_the_policys_in_millimetres():
    """Mean and std of the policy's own mixture, times a thousand."""
    task, student = forked(lambda seen: seen[..., -1, 2]), student_of(two_ways)
    context = jax.tree.map(lambda v: v[:4], task.held_out.observation)
    got = figures_avoiding.first_action(student, context, 1)
    wanted = student.mixture(History(context.observations, context.valid))
    np.testing.assert_allclose(got.means, 1e3 * wanted.means, rtol=1e-5)
    np.testing.assert_allclose(got.scale_tril, 1e3 * wanted.scale_tril, rtol=1e-5)
    np.testing.assert_allclose(got.log_weights, wanted.log_weights, rtol=1e-5)


def test_states_are_where_the_teacher_is_undecided():
    """One near each height; of those the one of the widest fork; samples in millimetres."""
    chosen = figures_avoiding.choose_states(
        forked(lambda seen: 2 - 10 * (seen[..., -1, 2] - 0.5) ** 2), jax.random.key(0))
    newest = chosen.seen[:, -1]
    assert chosen.seen.shape == (3, 3, 4)
    np.testing.assert_allclose(newest[:, 2], 0.5)
    np.testing.assert_allclose(newest[:, 3], figures_avoiding.HEIGHTS, atol=0.06)
    assert chosen.actions.shape == (figures_avoiding.SAMPLES, 3, 2)
    np.testing.assert_allclose(np.abs(chosen.actions), 10.0, rtol=1e-5)  # 2 · 5 mm
    share = np.mean(chosen.actions[..., 0] > 0, axis=0)
    assert np.all((share > 0.3) & (share < 0.7))
    np.testing.assert_allclose(chosen.context.observations, chosen.seen)  # the scaler's units


def test_action_density_shows_student_and_teacher(drawn, tmp_path):
    """The picture is highest at the heavy expert; ellipses, samples and names are there."""
    task, student = forked(lambda seen: jnp.ones(seen.shape[:-2])), student_of(two_ways)
    states = figures_avoiding.choose_states(task, jax.random.key(0))
    q = figures_avoiding.first_action(student, states.context, 1)
    path = figures_avoiding.action_density(states, q, tmp_path / "action_density.png")
    assert not_blank(path)
    for k, axis in enumerate(drawn[0].axes[1:]):
        image = axis.get_images()[0]
        left, right, bottom, top = image.get_extent()
        height = np.asarray(image.get_array())
        row, column = np.unravel_index(np.argmax(height), height.shape)
        at = [np.linspace(left, right, height.shape[1])[column],
              np.linspace(bottom, top, height.shape[0])[row]]
        heavy = np.argmax(q.log_weights[k])
        np.testing.assert_allclose(at, q.means[k, heavy], atol=0.1)
        assert sum(isinstance(p, Ellipse) for p in axis.patches) == 2
        np.testing.assert_allclose(axis.lines[0].get_xydata(), states.actions[:, k])
        assert f"expert {heavy} (" in axis.get_legend().get_texts()[1].get_text()
        assert axis.get_ylabel() == f"{'ABC'[k]}: action in y (mm)"
    assert drawn[0].axes[1].get_xlabel() == "action in x (mm)"
    normalised = np.exp(figures_avoiding._blurred(q, np.array([-9.0, 5.0]), np.array([9.0, 15.0])))
    np.testing.assert_allclose(normalised.sum((1, 2)) * 18 * 10 / 299**2, 1.0, atol=1e-2)


def test_experts_narrower_than_a_pixel_are_seen(drawn, tmp_path):
    """A student that has collapsed on points, far from the teacher's samples."""
    task = forked(lambda seen: jnp.ones(seen.shape[:-2]))
    states = figures_avoiding.choose_states(task, jax.random.key(0))
    q = figures_avoiding.first_action(student_of(two_ways), states.context, 1)
    q = mixture.affine(q, jnp.full(2, 1e-3), jnp.array([-40.0, 5.0]))
    figures_avoiding.action_density(states, q, tmp_path / "action_density.png")
    for k, axis in enumerate(drawn[0].axes[1:]):
        image = axis.get_images()[0]
        assert np.mean(np.asarray(image.get_array()) > image.norm.vmin) > 1e-4
        assert axis.get_xlim()[0] < q.means[k, :, 0].min()


def lines_of(figure):
    return {axis.get_ylabel(): [sorted(map(tuple, line.get_xydata())) for line in axis.lines]
            for axis in figure.axes if axis.get_visible()}


TEACHER = [{"stage": "teacher", "step": s, "loss": 1 / s, "held_out_loss": 2 / s, "grad_norm": 1.0}
           for s in (10, 20, 30)]
DISTILL = [{"stage": "distill", "step": s, "nll": -s / 10} for s in (10, 20)]


def jsonl(path, records, end=""):
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + end)
    return path


def test_curves_of_both_stages(drawn, tmp_path):
    """Training and held-out loss share a panel; the stages have a title each."""
    metrics = jsonl(tmp_path / "metrics.jsonl", TEACHER + DISTILL)
    assert not_blank(figures.curves(metrics, tmp_path / "curves.png", metrics))
    lines = lines_of(drawn[0])
    assert lines["denoising loss"] == [[(s, c / s) for s in (10, 20, 30)] for c in (1, 2)]
    assert lines["gradient norm"] == [[(10, 1), (20, 1), (30, 1)]]
    assert lines[figures.LABELS["nll"]] == [[(10, -1), (20, -2)]]
    assert [f.get_suptitle() for f in drawn[0].subfigs] == [
        "Training of the teacher", "Distillation"]


def test_the_teachers_curves_may_be_of_another_run(drawn, tmp_path):
    """Where the teacher comes from another workdir, its losses do too."""
    ours = jsonl(tmp_path / "ours.jsonl", DISTILL)
    theirs = jsonl(tmp_path / "theirs.jsonl", TEACHER)
    figures.curves(ours, tmp_path / "curves.png", theirs)
    assert len(lines_of(drawn[0])["denoising loss"][0]) == 3
    figures.curves(ours, tmp_path / "curves.png", tmp_path / "none.jsonl")
    assert list(lines_of(drawn[1])) == [figures.LABELS["nll"]]


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_half_a_line_is_no_error(tmp_path, cut):
    """A kill leaves one at the end; a resumed run goes on behind it."""
    half = json.dumps(DISTILL[1])[:cut]
    metrics = jsonl(tmp_path / "metrics.jsonl", DISTILL[:1], half)
    assert figures.read_metrics(metrics, "distill") == DISTILL[:1]
    with metrics.open("a") as file:  # the next record is spoilt, those after it are not
        file.write("".join(json.dumps({**DISTILL[0], "step": s}) + "\n" for s in (20, 30)))
    assert [r["step"] for r in figures.read_metrics(metrics, "distill")] == [10, 30]


def test_without_records_there_are_no_curves(tmp_path):
    """Neither a file nor an error."""
    metrics = jsonl(tmp_path / "metrics.jsonl", [], '{"sta')
    assert figures.curves(metrics, tmp_path / "curves.png") is None
    assert not (tmp_path / "curves.png").exists()


def test_what_is_missing_is_not_drawn(drawn, tmp_path, monkeypatch):
    """Without a student nothing, without episodes the density alone."""
    assert figures.draw(configuration(), tmp_path) == []
    (tmp_path / "distill" / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(problem, "build", lambda config, workdir: forked(
        lambda seen: jnp.ones(seen.shape[:-2])))
    monkeypatch.setattr(policy, "load", lambda workdir: student_of(two_ways))
    drawn_here = figures.draw(configuration(), tmp_path)
    assert drawn_here == [tmp_path / "figures" / "action_density.png"]


def test_a_finished_run_has_its_figures(drawn, finished_avoiding, tmp_path):
    """All four, also where a kill has left half a line among the metrics."""
    workdir = shutil.copytree(finished_avoiding.workdir, tmp_path / "run")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "dis')
    paths = figures.draw(finished_avoiding.config, workdir)
    assert {p.name for p in paths} == {
        "trajectories.png", "mode_histograms.png", "action_density.png", "curves.png"}
    assert all(not_blank(p) for p in paths)
    titles = [axis.get_title() for figure in drawn for axis in figure.axes]
    success = finished_avoiding.report["student"]["success"]
    assert any(t.startswith(f"Student: success {success:.2f}") for t in titles)
