"""Figures of a run (the plot extra): the density with the experts over training, loss curves.

What only a task can draw stands in files of their own (`figures_avoiding.py`).
"""

import json
import math
from pathlib import Path

import jax.numpy as jnp
import matplotlib
import numpy as np
from ml_collections import ConfigDict

from vdd_jax import problem
from vdd_jax.core import gaussian, mixture
from vdd_jax.core.mixture import Mixture

matplotlib.use("Agg")  # files only: works without a display

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib import animation  # noqa: E402
from matplotlib.patches import Ellipse  # noqa: E402


def draw(config: ConfigDict, workdir: Path) -> list[Path]:
    """Draws every figure that what is saved in `workdir` allows, under `workdir/figures`."""
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    paths = []
    snapshots = sorted((workdir / "distill" / "snapshots").glob("*.npz"))
    if problem.is_analytic(config):
        if snapshots:
            paths.append(experts_over_training(config, snapshots, folder / "experts.png"))
        teacher_metrics = None
    else:
        if config.task.name == "avoiding":
            from vdd_jax import figures_avoiding  # which draws with what is in this file

            paths += figures_avoiding.draw(config, workdir, folder)
        teacher_metrics = problem.teacher_workdir(config, workdir) / "metrics.jsonl"
    if drawn := curves(workdir / "metrics.jsonl", folder / "curves.png", teacher_metrics):
        paths.append(drawn)
    return paths


def experts_over_training(config: ConfigDict, snapshots: list[Path], path: Path) -> Path:
    """The teacher's density with every expert over training (the paper's figure 2).

    One column a snapshot, one row an observation; in 1-D, curves instead of ellipses.
    """
    task = problem.build(config, path.parent)  # an analytic teacher is in no workdir
    loaded = [dict(np.load(p)) for p in snapshots]
    rows = len(loaded[0]["means"]) if config.task.observation_dim else 1
    figure, axes = plt.subplots(
        rows, len(loaded), figsize=(2.6 * len(loaded), 2.7 * rows + 0.5), squeeze=False,
        sharex=True, sharey=True, layout="constrained",
    )
    for column, (snapshot, file) in enumerate(zip(loaded, snapshots, strict=True)):
        for row in range(rows):
            target, student = _at(task, snapshot, row)
            axis = axes[row, column]
            if task.spec.action_dim == 2:
                _ellipses(axis, config, target, student)
            else:
                _lines(axis, config, target, student)
            if row == 0:
                axis.set_title(f"iteration {int(file.stem):,}", fontsize=10)
            if column == 0 and config.task.observation_dim:
                numbers = ", ".join(f"{v:.2f}" for v in snapshot["observation"][row])
                axis.set_ylabel(f"observation ({numbers})\n" + axis.get_ylabel())
    what = "ellipses: two standard deviations of an expert, opacity by gating weight"
    if task.spec.action_dim == 1:
        what = "grey: teacher, black: student, colours: weighted experts"
    figure.suptitle(
        f"Teacher's density and the student's {config.student.num_experts} experts ({what})",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def moving_experts(config: ConfigDict, snapshots: list[Path], path: Path,
                   seconds: float = 0.35) -> Path:
    """The teacher's density and the experts' ellipses as a moving picture (GIF), one frame a
    snapshot, at the first observation; for actions `[2]`.

    Args:
      seconds: that a frame stays; the last one stays four times as long.
    """
    task = problem.build(config, path.parent)
    figure, axis = plt.subplots(figsize=(3.6, 3.9), layout="constrained")
    frames = [*snapshots, *snapshots[-1:] * 3]

    def show(frame):
        axis.clear()
        with np.load(frames[frame]) as snapshot:
            target, student = _at(task, snapshot, 0)
        _ellipses(axis, config, target, student)
        axis.set_title(f"iteration {int(frames[frame].stem):,}", fontsize=10)

    animation.FuncAnimation(figure, show, frames=len(frames)).save(
        path, writer=animation.PillowWriter(fps=1 / seconds), dpi=80)
    plt.close(figure)
    return path


def _at(task: problem.Problem, snapshot, row: int) -> tuple[Mixture, Mixture]:
    """Teacher and student at observation `row` of a snapshot, in the task's units."""
    observation = jnp.asarray(snapshot["observation"][row])
    target = mixture.affine(
        task.teacher.density(task.scaler.scale_observation(observation)),
        task.scaler.action_std, task.scaler.action_mean,
    )
    return target, Mixture(*(jnp.asarray(snapshot[k][row]) for k in Mixture._fields))


def _ellipses(axis, config, target, student):
    reach = 1.3 * config.task.radius + 3 * config.task.mode_std
    line = jnp.linspace(-reach, reach, 160)
    grid = jnp.stack(jnp.meshgrid(line, line), -1)
    density = np.exp(np.asarray(mixture.log_prob(target, grid)))
    axis.imshow(density, extent=[-reach, reach] * 2, origin="lower", cmap="Greys")
    ellipses(axis, student)
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="action 1",
             ylabel="action 2")
    axis.label_outer()


def ellipses(axis, student: Mixture) -> None:
    """Two standard deviations of every expert of one mixture over actions `[2]`.

    The more opaque, the heavier.
    """
    weights = np.exp(np.asarray(student.log_weights))
    full = not gaussian.is_diagonal(student.means, student.scale_tril)
    for z, (mean, tril) in enumerate(zip(student.means, student.scale_tril, strict=True)):
        factor = np.asarray(tril if full else jnp.diag(tril))
        axes, lengths, _ = np.linalg.svd(factor)
        angle = math.degrees(math.atan2(axes[1, 0], axes[0, 0]))
        opacity = float(np.clip(0.15 + 0.85 * weights[z] / weights.max(), 0, 1))
        colour = expert_colour(z, len(weights))
        axis.add_patch(Ellipse(
            np.asarray(mean), 4 * lengths[0], 4 * lengths[1], angle=angle, fill=False,
            edgecolor=colour, alpha=opacity, linewidth=1.6,
        ))
        axis.plot(*np.asarray(mean), ".", color=colour, alpha=opacity, markersize=4)


def expert_colour(z: int, num_experts: int) -> tuple:
    """The colour of an expert, the same in every figure of a run."""
    name, size = ("tab20", 20) if num_experts > 10 else ("tab10", 10)
    kept = [i for i in range(size) if i * 20 // size not in (14, 15)]  # grey is for other things
    return plt.get_cmap(name)(kept[z % len(kept)])


def _lines(axis, config, target, student):
    reach = 2.2 * config.task.radius + 4 * config.task.mode_std
    line = jnp.linspace(-reach, reach, 800)[:, None]
    axis.fill_between(line[:, 0], np.exp(mixture.log_prob(target, line)), color="0.8")
    axis.plot(line[:, 0], np.exp(mixture.log_prob(student, line)), "k", linewidth=1)
    weighted = np.exp(student.log_weights + mixture.component_log_prob(student, line))
    axis.plot(line[:, 0], weighted, linewidth=0.8)
    axis.set(xlabel="action", ylabel="density")
    axis.label_outer()


LABELS = {
    "noise": "noise level σ/α",
    "nll": "NLL of held-out actions (nats)",
    "fisher": "diffused Fisher divergence",
    "expert_grad_norm": "gradient norm, experts",
    "gating_loss": "gating cross-entropy (nats)",
    "entropy_gating": "gating entropy (nats)",
}
LOSSES = {"loss": "training", "held_out_loss": "held out (averaged weights)"}  # one panel
LOGARITHMIC = {"noise", "fisher", "expert_grad_norm", *LOSSES, "grad_norm"}


def curves(metrics: Path, path: Path, teacher_metrics: Path | None = None) -> Path | None:
    """Metrics over iterations, from the JSON lines of a run; None where there are none.

    Args:
      metrics: of the run.
      path: of the figure.
      teacher_metrics: of the run that trained the teacher, where it is learned.
    """
    teacher = read_metrics(teacher_metrics, "teacher") if teacher_metrics else []
    parts = [
        ("Training of the teacher", teacher, [
            ("denoising loss", LOSSES), ("gradient norm", {"grad_norm": ""})]),
        ("Distillation", read_metrics(metrics, "distill"), [
            (label, {name: ""}) for name, label in LABELS.items()]),
        ("Student from scratch", read_metrics(metrics, "from_scratch"), [
            ("loss", {"loss": ""}), ("gradient norm", {"grad_norm": ""}),
            *((label, {name: ""}) for name, label in LABELS.items() if name != "fisher")]),
    ]
    parts = [(title, records, [panel for panel in panels if _logged(records, panel[1])])
             for title, records, panels in parts]
    parts = [part for part in parts if part[2]]
    if not parts:
        return None
    heights = [2.6 * math.ceil(len(panels) / 3) for *_, panels in parts]
    figure = plt.figure(figsize=(11, sum(heights)), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)
    subfigures = figure.subfigures(len(parts), height_ratios=heights, squeeze=False)[:, 0]
    for subfigure, (title, records, panels) in zip(subfigures, parts, strict=True):
        columns = min(len(panels), 3)
        axes = subfigure.subplots(math.ceil(len(panels) / columns), columns, squeeze=False).flat
        for axis, (label, names) in zip(axes, panels, strict=False):
            _curve(axis, records, label, names)
        for axis in axes[len(panels):]:
            axis.set_visible(False)
        subfigure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def read_metrics(metrics: Path, stage: str) -> list[dict]:
    """The records of a stage in the order of their steps; the last word counts for each step.

    A line that is no JSON is skipped: a killed run leaves half a line, at the end or, once
    resumed, with the next record behind it.
    """
    records = {}
    for line in metrics.read_text(errors="replace").splitlines() if metrics.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["stage"] == stage:
            records[record["step"]] = record
    return [records[step] for step in sorted(records)]


def _logged(records, names):
    return any(r.get(name) is not None for r in records for name in names)


def _curve(axis, records, label, names):
    """One panel: a line for each of `names`, a dictionary from metric to legend."""
    values = []
    for name, legend in names.items():
        points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), marker=".", markersize=4, label=legend)
            values += [y for _, y in points]
    axis.set(xlabel="iteration", ylabel=label)
    # the ticks of a logarithmic axis of less than half a decade cannot be read
    if LOGARITHMIC.issuperset(names) and min(values) > 0 and max(values) > 3 * min(values):
        axis.set_yscale("log")
    if len(names) > 1:
        axis.legend(fontsize=8)
