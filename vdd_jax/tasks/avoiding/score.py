"""The benchmark's numbers for a set of Avoiding episodes."""

import math

import numpy as np

from vdd_jax.tasks.avoiding.geometry import NUM_MODES
from vdd_jax.tasks.avoiding.simulator import Episodes


def score(episodes: Episodes) -> dict:
    """Rates, and the diversity of the successful episodes; plain Python values, for JSON.

    Returns:
      `success`, `success_low`, `success_high` (Wilson's 95 % interval), `collision`, `time_out`,
      `left_corridor`: shares of all episodes. `entropy`: of the modes of successful episodes, in
      logarithms to base 24 (0 without success). `modes_found`: how many of the 24 they show.
      `mode_histogram`: 24 counts. `mean_steps`: of all episodes. `episodes`: N.

    Raises:
      ValueError: there are no episodes, or one of the fields is not one-dimensional.
    """
    success = np.asarray(episodes.success, bool)
    if success.ndim != 1 or not len(success):
        raise ValueError(f"no episodes to score (success has shape {success.shape})")
    modes = np.asarray(episodes.mode)[success]
    histogram = np.bincount(modes[modes >= 0], minlength=NUM_MODES)
    p = histogram[histogram > 0] / max(histogram.sum(), 1)
    low, high = wilson(int(success.sum()), len(success))
    return {
        "success": float(success.mean()),
        "success_low": low,
        "success_high": high,
        "collision": float(np.mean(episodes.collided)),
        "time_out": float(np.mean(episodes.timed_out)),
        "left_corridor": float(np.mean(episodes.left_corridor)),
        "entropy": abs(float(-np.sum(p * np.log(p)) / math.log(NUM_MODES))),
        "modes_found": int(np.sum(histogram > 0)),
        "mode_histogram": [int(n) for n in histogram],
        "mean_steps": float(np.mean(episodes.steps)),
        "episodes": len(success),
    }


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a rate; its ends stay within [0, 1] also at rates of 0 and 1."""
    rate, weight = successes / trials, z * z / trials
    centre = (rate + weight / 2) / (1 + weight)
    half = math.sqrt(rate * (1 - rate) * weight + weight * weight / 4) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)
