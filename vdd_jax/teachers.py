"""Teachers as score functions in scaled actions: anything with ∇ log π_t(a|s) can be distilled."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from vdd_jax.core import mixture, schedules
from vdd_jax.core.mixture import Mixture
from vdd_jax.core.schedules import Schedule
from vdd_jax.data import Scaler
from vdd_jax.types import ScoreFn


class Teacher(NamedTuple):
    """A score and the schedule whose time it takes."""

    score: ScoreFn
    schedule: Schedule
    density: Callable[[jax.Array], Mixture] | None = None  # scaled observation → π, where known


def analytic(density: Callable[[jax.Array], Mixture], scaler: Scaler) -> Teacher:
    """The teacher of a known mixture, diffused exactly by the VE schedule.

    Args:
      density: observation `[..., O]` in the task's units → π(a|s) in the task's units.
      scaler: to the units the student works in.
    """
    schedule = schedules.ve(0.0, 80.0)

    def scaled(observation: jax.Array) -> Mixture:
        raw = density(scaler.unscale_observation(observation))
        return mixture.affine(
            raw, 1.0 / scaler.action_std, -scaler.action_mean / scaler.action_std
        )

    def score(x, observation, t):
        diffused = mixture.diffuse(scaled(observation), schedule.alpha(t), schedule.sigma(t))
        return mixture.score(diffused, x)

    return Teacher(score, schedule, scaled)
