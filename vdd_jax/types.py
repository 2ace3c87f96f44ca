"""The words every file shares: axis letters, what a batch, a trajectory and a score function are.

Axis letters used in every docstring:

    B batch    T window (time steps)    Z experts    V samples per state
    A action   O observation            L length of an episode

A leading `...` stands for any batch axes. Actions and observations inside models are *scaled*
(see `vdd_jax.data.Scaler`); policies take and return the user's own units.
"""

from typing import NamedTuple, Protocol

import jax
import numpy as np

Array = jax.Array


class Trajectory(NamedTuple):
    """One demonstrated episode in the task's own units."""

    observations: np.ndarray  # `[L, O]`
    actions: np.ndarray  # `[L, A]`


class TaskSpec(NamedTuple):
    """What the rest of the library has to know about a task."""

    name: str
    observation_dim: int
    action_dim: int
    num_modes: int  # behaviours over which the task's entropy is taken
    episode_limit: int = 0  # control steps; 0: the task has no episodes
    control_hz: float = 0.0


class Batch(NamedTuple):
    """State-action pairs, scaled."""

    observation: Array  # `[B, O]`
    action: Array  # `[B, A]`


class ScoreFn(Protocol):
    """The score of the teacher diffused to noise level `t` of its schedule.

    Takes noised actions `x` `[V, B, A]`, the observations `[B, O]` they belong to and a time of
    the teacher's schedule that broadcasts against `[V, B]`; returns ∇_x log π_t(x|s), `[V, B, A]`.
    """

    def __call__(self, x: Array, observation: Array, t: Array) -> Array: ...
