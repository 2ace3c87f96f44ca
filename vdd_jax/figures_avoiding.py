"""Figures of an Avoiding run: the ways that the actors drive, and the density of an action.

Everything is drawn from a finished run: the episodes of its evaluation, its report, its
checkpoints. Positions are in metres, actions in millimetres.
"""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from ml_collections import ConfigDict

from vdd_jax import evaluate_closed_loop, figures, policy, problem, teachers
from vdd_jax.core import gaussian, mixture
from vdd_jax.core.mixture import Mixture
from vdd_jax.figures import plt
from vdd_jax.policy import History, Policy
from vdd_jax.tasks import avoiding
from vdd_jax.tasks.avoiding import Episodes, geometry
from vdd_jax.types import Context

EPISODES = 60  # drawn in a panel: more hide each other
HEIGHTS = (-0.2, -0.02, 0.16)  # metres; before each row, where its way is chosen
CANDIDATES = 32  # held-out states looked at for each height
SAMPLES = 256  # of the teacher, in each state
MM = 1e3  # metres to millimetres
BLUR = 0.3  # mm; experts may be narrower than a pixel
NATS = 6.0  # below its highest point, at which the picture of a density turns white
NAMED = 16  # experts in a legend, at most
SHOWN = 0.02  # the least gating weight of an expert that is named
MODE_COLOURS = plt.get_cmap("turbo", geometry.NUM_MODES)
FAILED = {"marker": "x", "color": "tab:red", "linestyle": "none", "markersize": 4.5,
          "markeredgewidth": 1.2}


def draw(config: ConfigDict, workdir: Path, folder: Path) -> list[Path]:
    """Draws what the run in `workdir` has results for, into `folder`."""
    if policy.directory_of(workdir) is None:
        return []
    task, student = problem.build(config, workdir), policy.load(workdir)
    with_density, paths = isinstance(student, Policy), []
    if with_density:
        states = choose_states(task, jax.random.key(config.seed))
        q = first_action(student, states.context, config.task.chunk)
        paths = [action_density(states, q, folder / "action_density.png")]
    report, stored = workdir / "report.json", workdir / "episodes.npz"
    if report.exists() and stored.exists():
        report = json.loads(report.read_text())
        episodes = read_episodes(stored, actors(report))
        goals = problem.goals(config)
        weights = gating(config, student, episodes["student"], goals) if with_density else None
        paths += [
            trajectories(report, episodes, weights, folder / "trajectories.png"),
            mode_histograms(report, folder / "mode_histograms.png"),
        ]
    return paths


class Actor(NamedTuple):
    """One of those that are drawn."""

    stored: str  # its name in `episodes.npz`
    title: str
    report: dict  # its part of the report


def actors(report: dict) -> dict[str, Actor]:
    """The teacher, with the fewest steps too, and the student."""
    student = report["student"]
    found = {"teacher": Actor("teacher", "Teacher", report["teacher"])}
    if few := report["few_step_teachers"]:
        n = min(few, key=int)
        title = "Teacher, one step" if n == "1" else f"Teacher, {n} steps"
        found["few_step_teacher"] = Actor(
            evaluate_closed_loop.teacher_name(int(n)), title, few[n])
    title = "Student" if student["kind"] == "vdd" else student["kind"].upper()
    return found | {"student": Actor(student["acting"], title, student)}


def read_episodes(path: Path, actors: dict[str, Actor]) -> dict[str, Episodes]:
    """The first `EPISODES` episodes of every actor that is drawn."""
    with np.load(path) as file:
        return {name: Episodes(*(file[f"{actor.stored}.{field}"][:EPISODES]
                                 for field in Episodes._fields)) for name, actor in actors.items()}


def gating(config: ConfigDict, student: Policy, episodes: Episodes, goals=None) -> np.ndarray:
    """q(z|s) of the student as it was asked along its own episodes, `[N, L, Z]`.

    L is the length of the longest episode. An action of a chunk belongs to the state in which
    the chunk was asked for. `goals` `[M, G, O]`, raw, as in `closed_loop.of_student`.
    """
    n, longest = len(episodes.steps), int(episodes.steps.max())
    asked = np.arange(longest) // config.task.execute_steps * config.task.execute_steps
    index = asked[:, None] + np.arange(1 - student.window, 1)
    observations = episodes.observations[:, np.clip(index, 0, None)]  # [N, L, T, O]
    valid = np.broadcast_to(index >= 0, observations.shape[:-1])
    if goals is not None:
        goals = jnp.asarray(goals)[np.arange(n) % len(goals), None]
        goals = jnp.broadcast_to(goals, (n, longest, *goals.shape[2:]))
    q = student.mixture(History(observations, valid, avoiding.past_actions(observations), goals))
    return np.exp(np.asarray(q.log_weights))


def path_of(episodes: Episodes, n: int) -> np.ndarray:
    """Where the rod was in episode n, the place where it ended included, `[steps + 1, 2]`."""
    return episodes.observations[n, : episodes.steps[n] + 1, 2:]


def trajectories(report: dict, episodes: dict[str, Episodes], weights: np.ndarray | None,
                 path: Path) -> Path:
    """The ways of teacher, few-step teacher and student (the paper's figure 4).

    They are coloured by their mode; where the student has experts, each step of its by the expert
    of highest gating probability, which is its opacity.

    Args:
      report: of the run.
      episodes: of `actors(report)`.
      weights: the student's gating, see `gating`, `[N, L, Z]`; None without experts.
    """
    # placed by hand: no layout of matplotlib holds axes of equal units and what is below them
    low, high = _limits_of_plane()
    width, gap, below = 4.0, 0.15, 0.9  # inches
    height = width * (high - low)[1] / (high - low)[0]
    drawn = actors(report)
    figure = plt.figure(figsize=(len(drawn) * (width + gap) - gap, below + height))
    for i, (name, (_, title, of)) in enumerate(drawn.items()):
        left = i * (width + gap)
        axis = _add_axes(figure, left, below, width, height)
        plane(axis)
        axis.set_title(f"{title}: success {of['success']:.2f}, entropy {of['entropy']:.2f}",
                       fontsize=11)
        if name == "student" and weights is not None:
            beside = _add_axes(figure, left, 0, width, below - 0.5)
            _paths_by_expert(axis, beside, episodes[name], weights)
        else:
            _paths_by_mode(axis, episodes[name])
        if i:
            axis.set(ylabel="", yticklabels=[])
    colours = plt.cm.ScalarMappable(plt.Normalize(-0.5, geometry.NUM_MODES - 0.5), MODE_COLOURS)
    columns = len(drawn) - (weights is not None)
    place = _add_axes(figure, 0, below - 0.7, columns * (width + gap) - gap, 0.18)
    bar = figure.colorbar(colours, cax=place, orientation="horizontal",
                          ticks=[*range(0, geometry.NUM_MODES, 4), geometry.NUM_MODES - 1])
    bar.set_label("mode (12 and more: right of the first cylinder), grey: failed; "
                  "×: end of a failed episode")
    return _save(figure, path)


def _save(figure, path):
    # axes of equal units are not always left the room for their labels
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path


def plane(axis) -> None:
    """Cylinders, each with the ring in which the rod touches it; start and finish."""
    for centre, radius in zip(geometry.CENTRES, geometry.RADII, strict=True):
        axis.add_patch(Circle(centre, radius + geometry.ROD_RADIUS, color="0.88", zorder=0))
        axis.add_patch(Circle(centre, radius, color="0.45", zorder=0.5))
    axis.axhline(geometry.FINISH_Y, color="0.3", linestyle="--", linewidth=1, zorder=0)
    low, high = _limits_of_plane()
    axis.text(low[0] + 0.01, geometry.FINISH_Y + 0.006, "finish", fontsize=8, color="0.3")
    axis.plot(*geometry.START, "k^", markersize=5, zorder=4)
    axis.annotate("start", geometry.START, (8, -3), textcoords="offset points", fontsize=8)
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xlabel="x (m)",
             ylabel="y (m)")


def _limits_of_plane():
    """The corners of what is drawn, in metres: least `[2]` and greatest `[2]`."""
    (left, right), bottom = geometry.CORRIDOR_X, geometry.START[1] - 0.03
    return np.array([left, bottom]), np.array([right, geometry.FINISH_Y + 0.04])


def _paths_by_mode(axis, episodes):
    for n, success in enumerate(episodes.success):
        colour = MODE_COLOURS(int(episodes.mode[n])) if success else "0.5"
        axis.plot(*path_of(episodes, n).T, color=colour, linewidth=0.9, alpha=0.7)
    _crosses(axis, episodes)


def _paths_by_expert(axis, beside, episodes, weights):
    experts, opacity = weights.argmax(-1), weights.max(-1)
    num = weights.shape[-1]
    for n, steps in enumerate(episodes.steps):
        way = path_of(episodes, n)
        segments = np.stack([way[:-1], way[1:]], 1)
        colours = [(*figures.expert_colour(z, num)[:3], 0.25 + 0.75 * a)  # none invisible
                   for z, a in zip(experts[n, :steps], opacity[n, :steps], strict=True)]
        axis.add_collection(LineCollection(segments, colors=colours[: len(segments)],
                                           linewidths=1.1))
    _crosses(axis, episodes)
    driven = np.concatenate([e[:s] for e, s in zip(experts, episodes.steps, strict=True)])
    share = np.bincount(driven, minlength=num) / len(driven)
    named = [z for z in np.sort(np.argsort(-share)[:NAMED]) if share[z] >= 0.005]
    handles = [Line2D([], [], color=figures.expert_colour(z, num), label=f"{z} ({share[z]:.0%})")
               for z in named]
    beside.set_axis_off()
    beside.legend(
        handles=handles, ncols=4, fontsize=8, loc="upper center", borderaxespad=0,
        title="likeliest expert (its share of steps); opacity: its gating", title_fontsize=8,
    )


def _crosses(axis, episodes):
    ends = [path_of(episodes, n)[-1] for n, success in enumerate(episodes.success) if not success]
    # what ended outside the axes is marked at their edge, with a whole cross
    low, high = np.transpose([axis.get_xlim(), axis.get_ylim()])
    ends = np.clip(np.reshape(ends, (-1, 2)), low, high)
    axis.plot(*ends.T, **FAILED, clip_on=False, zorder=5)


def mode_histograms(report: dict, path: Path) -> Path:
    """How often each mode is among the successful episodes of each actor."""
    drawn = list(actors(report).values())
    figure, axes = plt.subplots(1, len(drawn), figsize=(1 + 4 * len(drawn), 3.2), sharey=True,
                                layout="constrained")
    modes = np.arange(geometry.NUM_MODES)
    for axis, (_, title, of) in zip(axes, drawn, strict=True):
        counts = np.asarray(of["mode_histogram"])
        axis.bar(modes, counts, color=MODE_COLOURS(modes))
        even = counts.sum() / geometry.NUM_MODES
        axis.axhline(even, color="k", linestyle="--", linewidth=1, label=f"uniform ({even:.1f})")
        axis.set_title(f"{title}: entropy {of['entropy']:.2f}, {of['modes_found']} of "
                       f"{geometry.NUM_MODES} modes")
        axis.set(xlabel="mode", xticks=modes[::4], xlim=(-0.7, geometry.NUM_MODES - 0.3))
        axis.legend(fontsize=8)
    axes[0].yaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel(f"successes in {report['student']['episodes']} episodes")
    return _save(figure, path)


class States(NamedTuple):
    """Held-out states and the teacher's actions in them."""

    context: Context  # scaled, batch axes `[K]`
    seen: np.ndarray  # `[K, T, O]`, the windows in metres
    actions: np.ndarray  # `[S, K, 2]`, the first of what the teacher samples, millimetres


def choose_states(task: problem.Problem, key: jax.Array) -> States:
    """One held-out state for each of `HEIGHTS`: where the teacher's actions are spread most.

    In most states one way is as good as chosen; of the `CANDIDATES` states nearest to each height
    this takes the one that shows several. The student has no say in it.
    """
    newest = task.scaler.unscale_observation(task.held_out.observation.observations[:, -1])
    distance = np.abs(np.asarray(newest[:, 3])[:, None] - np.array(HEIGHTS))
    rows = np.argsort(distance, axis=0)[:CANDIDATES].T.ravel()
    near = jax.tree.map(lambda v: v[rows], task.held_out.observation)
    size = task.held_out.action.shape[-1]
    scaled = jax.jit(lambda key: teachers.sample(
        task.teacher, task.teacher_config, near, key, (SAMPLES, len(rows)), size))(key)
    actions = MM * np.asarray(task.scaler.unscale_action(scaled))[..., : task.spec.action_dim]
    spread = actions.var(axis=0).sum(-1).reshape(len(HEIGHTS), -1)
    best = spread.argmax(1) + spread.shape[1] * np.arange(len(HEIGHTS))
    context = jax.tree.map(lambda v: v[best], near)
    seen = np.asarray(task.scaler.unscale_observation(context.observations))
    return States(context, seen, actions[:, best])


def first_action(student: Policy, context: Context, chunk: int) -> Mixture:
    """q over the first action of a chunk, in millimetres, batch axes those of `context`."""
    q = jax.jit(student.apply)({"params": student.params}, context)
    q = mixture.affine(q, MM * student.scaler.action_std, MM * student.scaler.action_mean)
    return marginal(q, q.means.shape[-1] // chunk)


def marginal(q: Mixture, size: int) -> Mixture:
    """The law of the first `size` numbers. The factor is triangular: its corner is theirs."""
    corner = q.scale_tril[..., :size]
    if not gaussian.is_diagonal(q.means, q.scale_tril):
        corner = corner[..., :size, :]
    return Mixture(q.log_weights, q.means[..., :size], corner)


def action_density(states: States, q: Mixture, path: Path) -> Path:
    """The student's density of an action in some states, its experts and the teacher's samples.

    Args:
      states: K of them.
      q: the student there, over actions `[2]` in millimetres, batch axes `[K]`.
    """
    low, high = _limits(states.actions, q)
    size = (high - low) * min(4.8 / (high - low)[0], 2.8 / (high - low)[1])  # inches of a panel
    num, step, side = len(states.seen), size[1] + 0.2, 4.4
    height = max(num * step, side)
    # placed by hand: no layout of matplotlib holds axes of equal units and legends beside them
    figure = plt.figure(figsize=(side + 1 + size[0], height))
    letters = "ABCDEFGH"[:num]
    _map(_add_axes(figure, 0, (height - side) / 2, side, side), states.seen, letters)
    pictures = _blurred(q, low, high)
    for k, letter in enumerate(letters):  # from below upwards, as on the map
        axis = _add_axes(figure, side + 1, k * step, *size)
        axis.imshow(pictures[k], extent=np.stack([low, high], 1).ravel(), origin="lower",
                    cmap="Greys", vmin=pictures[k].max() - NATS, vmax=pictures[k].max() + NATS,
                    interpolation="bilinear", aspect="auto")
        _experts_and_samples(axis, Mixture(*(v[k] for v in q)), states.actions[:, k])
        axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]),
                 ylabel=f"{letter}: action in y (mm)")
        if k:
            axis.set_xticklabels([])
        else:
            axis.set_xlabel("action in x (mm)")
    axis.set_title(f"Grey: student's log density (blurred by {BLUR} mm)\n"
                   "ellipses: 2 std of an expert, rings: its mean, the larger the heavier",
                   fontsize=10)
    return _save(figure, path)


def _add_axes(figure, left, bottom, width, height):
    """Axes at a place in inches; the room for their labels is added when the figure is saved."""
    box = np.array([left, bottom, width, height])
    return figure.add_axes(box / np.tile(figure.get_size_inches(), 2))


def _map(axis, seen, letters):
    """Where the states are: the rod in the windows `seen` `[K, T, O]`."""
    plane(axis)
    axis.set_title("States: the rod in held-out demonstrations", fontsize=10)
    for way, letter in zip(seen[..., 2:], letters, strict=True):
        axis.plot(*way.T, "k.-", linewidth=1, markersize=3)
        axis.annotate(letter, way[-1], (-14, 3), textcoords="offset points", weight="bold")


def _blurred(q, low, high):
    """Log densities `[K, Y, X]` of `q`, batch axes `[K]`, between two corners."""
    x, y = (np.linspace(a, b, 300) for a, b in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(x, y), -1).astype(np.float32)[:, :, None]
    height = jax.jit(lambda q: mixture.log_prob(mixture.diffuse(q, 1.0, BLUR), grid))(q)
    return np.moveaxis(np.asarray(height), -1, 0)


def _limits(actions, q):
    """The corners of what is worth seeing, `[2]` each: nearly all samples, the heavy experts."""
    heavy = np.asarray(q.log_weights) > np.log(SHOWN)
    points = np.concatenate([
        np.quantile(actions.reshape(-1, 2), [0.005, 0.995], axis=0), np.asarray(q.means)[heavy]])
    return points.min(0) - 3.0, points.max(0) + 3.0


def _experts_and_samples(axis, q, actions):
    """One state: `q` without batch axes, `actions` `[S, 2]` of the teacher."""
    axis.plot(*actions.T, "k.", markersize=2, alpha=0.6)
    figures.ellipses(axis, q)
    weights = np.exp(np.asarray(q.log_weights))
    handles = [Line2D([], [], color="k", marker=".", linestyle="none", markersize=3,
                      label="teacher's samples")]
    for z in np.argsort(-weights)[: NAMED // 2]:
        colour = figures.expert_colour(z, len(weights))
        if weights[z] >= SHOWN:
            handles.append(Line2D([], [], color=colour, label=f"expert {z} ({weights[z]:.0%})"))
            axis.plot(*q.means[z], "o", color=colour, markersize=3 + 12 * weights[z] ** 0.5,
                      fillstyle="none", markeredgewidth=1.2)
    axis.legend(handles=handles, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
