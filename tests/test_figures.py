"""The figures, from snapshots made by hand and from a finished run."""

import json

import matplotlib.image
import numpy as np
import pytest
from matplotlib.patches import Ellipse
from PIL import Image
from tiny_config import tiny

from vdd_jax import figures

pytest_plugins = "smoke_run"

TRIL = np.array([[0.5, 0.0], [0.4, 0.2]])


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, kept open for inspection."""
    kept = []
    monkeypatch.setattr(figures.plt, "close", kept.append)
    yield kept
    monkeypatch.undo()
    for figure in kept:
        figures.plt.close(figure)


def snapshot(path, size, observation_dim, full):
    """Three observations, two experts of unequal weight."""
    means = np.broadcast_to(np.arange(2 * size, dtype=float).reshape(2, size), (3, 2, size))
    tril = TRIL[:size, :size] if full else np.diagonal(TRIL)[:size]
    np.savez(
        path, observation=np.zeros((3, observation_dim)), means=means,
        log_weights=np.log(np.broadcast_to([0.8, 0.2], (3, 2))),
        scale_tril=np.broadcast_to(tril, (3, 2, *tril.shape)),
    )
    return path


def not_blank(path):
    image = matplotlib.image.imread(path)[..., :3]
    return min(image.shape[:2]) > 100 and image.std() > 0.02


@pytest.mark.parametrize("full", [True, False])
def test_ellipses_are_two_standard_deviations_of_the_experts(drawn, tmp_path, full):
    """Centre, axes and angle: the covariance read back from an ellipse is L Lᵀ."""
    config = tiny(task__observation_dim=0)
    path = figures.experts_over_training(
        config, [snapshot(tmp_path / "00000000.npz", 2, 0, full)], tmp_path / "experts.png")
    assert not_blank(path)
    (axis,) = drawn[0].axes
    ellipses = [p for p in axis.patches if isinstance(p, Ellipse)]
    assert len(ellipses) == 2
    tril = TRIL if full else np.diag(np.diagonal(TRIL))
    for ellipse, mean in zip(ellipses, [[0, 1], [2, 3]], strict=True):
        np.testing.assert_allclose(ellipse.center, mean)
        angle = np.radians(ellipse.angle)
        axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        lengths = np.array([ellipse.width, ellipse.height]) / 4  # diameter to one std
        covariance = axes @ np.diag(lengths**2) @ axes.T
        np.testing.assert_allclose(covariance, tril @ tril.T, atol=1e-5)
    assert ellipses[0].get_alpha() > ellipses[1].get_alpha()  # heavier, more opaque


def test_one_column_a_snapshot_one_row_an_observation(drawn, tmp_path):
    """Titles name the iterations, in order; the teacher is drawn at its observation."""
    files = [snapshot(tmp_path / f"{step:08d}.npz", 2, 1, True) for step in (0, 1500)]
    figures.experts_over_training(tiny(), files, tmp_path / "experts.png")
    axes = drawn[0].axes
    assert len(axes) == 6
    assert [axis.get_title() for axis in axes[:2]] == ["iteration 0", "iteration 1,500"]
    image = axes[0].get_images()[0].get_array()
    row, column = np.unravel_index(np.argmax(image), image.shape)
    reach = axes[0].get_xlim()[1]
    x, y = (2 * reach * i / 159 - reach for i in (column, row))
    assert abs(abs(x) - 2) < 0.15 and abs(y) < 0.15  # a mode of the ring at rest: (±2, 0)


def test_in_one_dimension_curves(drawn, tmp_path):
    """The student's curve is its density; the teacher's area is there."""
    config = tiny(task__name="toy1d", task__observation_dim=0)
    path = figures.experts_over_training(
        config, [snapshot(tmp_path / "00000000.npz", 1, 0, True)], tmp_path / "experts.png")
    assert not_blank(path)
    (axis,) = drawn[0].axes
    assert len(axis.collections) == 1 and len(axis.lines) == 3
    student, first, second = (np.asarray(line.get_xydata()) for line in axis.lines)
    step = student[1, 0] - student[0, 0]
    np.testing.assert_allclose(student[:, 1].sum() * step, 1.0, atol=1e-2)
    np.testing.assert_allclose(first[:, 1] + second[:, 1], student[:, 1], atol=1e-5)


def test_curves_take_the_last_word_of_every_step(drawn, tmp_path):
    """A resumed run has logged steps twice; null values are gaps, other stages are left out."""
    records = [
        {"stage": "distill", "step": 10, "nll": 9.0},
        {"stage": "distill", "step": 20, "nll": 8.0, "fisher": 0.1},
        {"stage": "distill", "step": 10, "nll": 3.0, "fisher": 0.5},
        {"stage": "distill", "step": 30, "nll": None, "fisher": 0.01},
        {"stage": "teacher", "step": 40, "nll": 1.0},
    ]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(r) + "\n" for r in records))
    assert not_blank(figures.curves(metrics, tmp_path / "curves.png"))
    lines = {axis.get_ylabel(): sorted(map(tuple, axis.lines[0].get_xydata()))
             for axis in drawn[0].axes if axis.get_visible()}
    assert lines == {
        figures.LABELS["nll"]: [(10, 3.0), (20, 8.0)],
        figures.LABELS["fisher"]: [(10, 0.5), (20, 0.1), (30, 0.01)],
    }


def test_a_finished_run_has_its_figures(finished):
    """One PNG of the experts with a column for each snapshot, one of the curves; not blank."""
    folder = finished.workdir / "figures"
    assert {p.name for p in folder.iterdir()} == {"experts.png", "curves.png"}
    assert all(not_blank(p) for p in folder.iterdir())
    steps = [int(p.stem) for p in sorted(finished.workdir.glob("distill/snapshots/*.npz"))]
    assert steps == [0, 400, 800]
    logged = {json.loads(line)["step"]
              for line in (finished.workdir / "metrics.jsonl").read_text().splitlines()}
    assert logged == {400, 800}


def test_snapshots_are_in_the_tasks_units(finished, policy):
    """The last one is the finished policy at its observations."""
    last = dict(np.load(finished.workdir / "distill" / "snapshots" / "00000800.npz"))
    q = policy.mixture(last["observation"])
    for name, value in q._asdict().items():
        np.testing.assert_allclose(last[name], value, rtol=1e-3, atol=1e-4)


def test_nothing_to_draw_is_no_error(tmp_path):
    """A run without snapshots and metrics gives no figures."""
    assert figures.draw(tiny(), tmp_path) == []


@pytest.mark.parametrize("num_experts", [8, 16])
def test_no_expert_is_grey(num_experts):
    """Grey is for obstacles and for what failed; as long as there are colours none comes twice."""
    colours = [figures.expert_colour(z, num_experts)[:3] for z in range(num_experts)]
    assert all(max(c) - min(c) > 0.1 for c in colours)
    assert len(set(colours)) == num_experts


def test_the_moving_picture_has_a_frame_for_each_snapshot(drawn, tmp_path):
    """In their order, each with its own experts; the last one stays."""
    snapshots = [snapshot(tmp_path / f"{step:08d}.npz", 2, 0, True) for step in (0, 10)]
    moved = dict(np.load(snapshots[1]))
    np.savez(snapshots[1], **{**moved, "means": moved["means"] + 5})
    path = figures.moving_experts(
        tiny(task__observation_dim=0, task__radius=6.0), snapshots, tmp_path / "moving.gif")
    with Image.open(path) as picture:
        assert picture.n_frames == 2  # equal frames are one, which stays longer
        durations, frames = [], []
        for i in range(picture.n_frames):
            picture.seek(i)
            durations.append(picture.info["duration"])
            frames.append(np.asarray(picture.convert("RGB"), float))
    assert durations[1] > 3 * durations[0]
    assert all(frame.std() > 5 for frame in frames) and np.abs(frames[0] - frames[1]).max() > 50
    (axis,) = drawn[0].axes
    assert [p.center[0] for p in axis.patches] == [5, 7]
