"""Rates and behaviour entropies that the planar tasks share."""

import math

import numpy as np

from vdd_jax.tasks.avoiding.score import wilson


def first_event(events: np.ndarray) -> np.ndarray:
    """`[N, K, J]` steps of first visits → the number k · J + j of the earliest one, `[N]`.

    −1 without any; of two at the same step the smaller number counts.
    """
    flat = np.asarray(events).reshape(len(events), -1)
    never = np.iinfo(np.int64).max
    steps = np.where(flat < 0, never, flat)
    return np.where((flat >= 0).any(1), steps.argmin(1), -1)


def pair_mode(events: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Which of two boxes went first, and into which of two targets: `[N]`, 2 · box + target.

    −1 unless the boxes end in different targets, and that box in that target.
    """
    first = first_event(events)
    straight = inside[:, 0, 0] & inside[:, 1, 1]
    crossed = inside[:, 0, 1] & inside[:, 1, 0]
    agrees = np.where((first == 0) | (first == 3), straight, crossed)
    return np.where((first >= 0) & agrees, first, -1)


def entropy(modes: np.ndarray, base: int) -> float:
    """Of the modes `[M]` that occur, in logarithms to `base`; −1 is no mode; 0 without any."""
    modes = np.asarray(modes)
    p = np.bincount(modes[modes >= 0])
    p = p[p > 0] / max(p.sum(), 1)
    return abs(float(-np.sum(p * np.log(p)) / math.log(base)))


def entropy_per_context(episodes, base: int, drop_failed: bool) -> float:
    """Mean over contexts of the entropy of the modes of successful episodes.

    `drop_failed`: whether a context without success is left out (0 if all are) or counts as 0.
    """
    values = []
    for context in np.unique(episodes.context):
        modes = episodes.mode[(episodes.context == context) & episodes.success]
        if (modes >= 0).any() or not drop_failed:
            values.append(entropy(modes, base))
    return float(np.mean(values)) if values else 0.0


def rates(episodes, num_modes: int) -> dict:
    """What every task reports; plain Python values, for JSON.

    Returns:
      `success`, `success_low`, `success_high` (Wilson's 95 % interval), `time_out`: shares of all
      episodes. `entropy_pooled`: of the modes of all successful episodes together, in logarithms
      to the number of modes. `modes_found`, `mode_histogram` (counts), `mean_steps`, `episodes`,
      `contexts`.

    Raises:
      ValueError: there are no episodes.
    """
    success = np.asarray(episodes.success, bool)
    if success.ndim != 1 or not len(success):
        raise ValueError(f"no episodes to score (success has shape {success.shape})")
    modes = np.asarray(episodes.mode)[success]
    histogram = np.bincount(modes[modes >= 0], minlength=num_modes)
    low, high = wilson(int(success.sum()), len(success))
    return {
        "success": float(success.mean()),
        "success_low": low,
        "success_high": high,
        "time_out": float(np.mean(episodes.timed_out)),
        "entropy_pooled": entropy(modes, num_modes),
        "modes_found": int(np.sum(histogram > 0)),
        "mode_histogram": [int(n) for n in histogram],
        "mean_steps": float(np.mean(episodes.steps)),
        "episodes": len(success),
        "contexts": len(np.unique(episodes.context)),
    }
