"""The bars of figure 3 (the plot extra)."""

import math
import textwrap
from pathlib import Path

COLOURS = {"success": "tab:blue", "entropy": "tab:orange"}
COLUMNS = 3


def bars(panels: dict[str, dict[str, dict]], title: str, path: Path) -> str | None:
    """Success and entropy of every bar with their deviation; the base's label is bold, and – where
    there is no run.

    Args:
      panels: title → label → measures, with `base`.

    Returns:
      Why it was not drawn, without matplotlib.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")  # files only
        import matplotlib.pyplot as plt
        from matplotlib.patches import Patch
    except ModuleNotFoundError as error:
        return f"not drawn: {error.name} is missing; pip install 'vdd_jax[plot]'"
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.0 * rows + 0.5),
                                squeeze=False, sharey=True, layout="constrained")
    for axis, (name, of) in zip(axes.flat, panels.items(), strict=False):
        _panel(axis, name, of)
    for axis in axes.flat[len(panels):]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean over seeds")
    handles = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
    figure.suptitle(title, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return None


def _panel(axis, title, of):
    for i, (name, colour) in enumerate(COLOURS.items()):
        places = {label: place + 0.4 * i - 0.2 for place, label in enumerate(of)}
        cells = {label: bar[name] for label, bar in of.items() if name in bar}
        axis.bar([places[label] for label in cells], [cell["mean"] for cell in cells.values()],
                 0.38, color=colour)
        for label, place in places.items():
            if label not in cells:
                axis.text(place, 0, "–", ha="center", va="bottom", fontsize=14)
                continue
            mean, std = cells[label]["mean"], cells[label]["std"] or 0.0
            if std:
                axis.errorbar(place, mean, std, fmt="none", ecolor="0.2", capsize=3)
            axis.text(place, mean + std + 0.01, f"{mean:.2f}", ha="center", va="bottom",
                      fontsize=7.5)
    axis.set(title=title, xlim=(-0.6, len(of) - 0.4), ylim=(0, 1.15))
    axis.set_xticks(range(len(of)), [textwrap.fill(label, 9) for label in of])
    for tick, bar in zip(axis.get_xticklabels(), of.values(), strict=True):
        tick.set_fontweight("bold" if bar["base"] else "normal")
