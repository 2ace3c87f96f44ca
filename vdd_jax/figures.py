"""Figures of a run (the plot extra): the density with the experts over training, loss curves."""

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
from matplotlib.patches import Ellipse  # noqa: E402


def draw(config: ConfigDict, workdir: Path) -> list[Path]:
    """Draws every figure of a finished analytic run under `workdir/figures`."""
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    paths = []
    snapshots = sorted((workdir / "distill" / "snapshots").glob("*.npz"))
    if snapshots:
        paths.append(experts_over_training(config, snapshots, folder / "experts.png"))
    metrics = workdir / "metrics.jsonl"
    if metrics.exists():
        paths.append(curves(metrics, folder / "curves.png"))
    return paths


def experts_over_training(config: ConfigDict, snapshots: list[Path], path: Path) -> Path:
    """The teacher's density with every expert over training (the paper's figure 2).

    One column a snapshot, one row an observation; in 1-D, curves instead of ellipses.
    """
    task = problem.build(config)
    loaded = [dict(np.load(p)) for p in snapshots]
    rows = len(loaded[0]["means"]) if config.task.observation_dim else 1
    figure, axes = plt.subplots(
        rows, len(loaded), figsize=(2.6 * len(loaded), 2.7 * rows + 0.5), squeeze=False,
        sharex=True, sharey=True, layout="constrained",
    )
    for column, (snapshot, file) in enumerate(zip(loaded, snapshots, strict=True)):
        for row in range(rows):
            observation = jnp.asarray(snapshot["observation"][row])
            target = mixture.affine(
                task.teacher.density(task.scaler.scale_observation(observation)),
                task.scaler.action_std, task.scaler.action_mean,
            )
            student = Mixture(*(jnp.asarray(snapshot[k][row]) for k in Mixture._fields))
            axis = axes[row, column]
            if task.spec.action_dim == 2:
                _ellipses(axis, config, target, student)
            else:
                _lines(axis, config, target, student)
            if row == 0:
                axis.set_title(f"iteration {int(file.stem):,}", fontsize=10)
            if column == 0 and config.task.observation_dim:
                numbers = ", ".join(f"{v:.2f}" for v in observation)
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


def _ellipses(axis, config, target, student):
    reach = 1.3 * config.task.radius + 3 * config.task.mode_std
    line = jnp.linspace(-reach, reach, 160)
    grid = jnp.stack(jnp.meshgrid(line, line), -1)
    density = np.exp(np.asarray(mixture.log_prob(target, grid)))
    axis.imshow(density, extent=[-reach, reach] * 2, origin="lower", cmap="Greys")
    weights = np.exp(np.asarray(student.log_weights))
    full = not gaussian.is_diagonal(student.means, student.scale_tril)
    for z, (mean, tril) in enumerate(zip(student.means, student.scale_tril, strict=True)):
        factor = np.asarray(tril if full else jnp.diag(tril))
        axes, lengths, _ = np.linalg.svd(factor)
        angle = math.degrees(math.atan2(axes[1, 0], axes[0, 0]))
        opacity = float(np.clip(0.15 + 0.85 * weights[z] / weights.max(), 0, 1))
        colour = plt.get_cmap("tab20" if len(weights) > 10 else "tab10")(z % 20)
        axis.add_patch(Ellipse(
            np.asarray(mean), 4 * lengths[0], 4 * lengths[1], angle=angle, fill=False,
            edgecolor=colour, alpha=opacity, linewidth=1.6,
        ))
        axis.plot(*np.asarray(mean), ".", color=colour, alpha=opacity, markersize=4)
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="action 1",
             ylabel="action 2")
    axis.label_outer()


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


def curves(metrics: Path, path: Path) -> Path:
    """Metrics over iterations, from the JSON lines of a run."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    records = list({r["step"]: r for r in records if r["stage"] == "distill"}.values())
    names = [n for n in LABELS if any(n in r for r in records)]
    columns = 3
    figure, axes = plt.subplots(
        math.ceil(len(names) / columns), columns, figsize=(11, 2.6 * math.ceil(len(names) / 3)),
        squeeze=False, layout="constrained",
    )
    for axis, name in zip(axes.flat, names, strict=False):
        points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        axis.plot(*zip(*points, strict=True), marker=".", markersize=4)
        axis.set(xlabel="iteration", ylabel=LABELS[name])
        if name in ("noise", "fisher", "expert_grad_norm") and min(y for _, y in points) > 0:
            axis.set_yscale("log")
    for axis in axes.flat[len(names):]:
        axis.set_visible(False)
    figure.suptitle("Distillation")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
