"""The words every file shares: axis letters, what a batch, a trajectory and a score function are.

Axis letters used in every docstring:

    B batch    T window (time steps)    Z experts    V samples per state
    A action   O observation            L length of an episode
    H chunk (actions at once)           G observations in a goal
    C cameras   S pixels of a side      F features

A leading `...` stands for any batch axes. Actions and observations inside models are *scaled*
(see `vdd_jax.data.Scaler`); policies take and return the user's own units.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

HISTORIES = ("absolute", "differences")  # how networks see a window, see models/features.py


class DataError(ValueError):
    """Demonstrations that cannot be used; the text is for the user."""


class Trajectory(NamedTuple):
    """One demonstrated episode in the task's own units."""

    observations: np.ndarray  # `[L, O]`
    actions: np.ndarray  # `[L, A]`
    images = None  # those of a SeenTrajectory


class SeenTrajectory(Trajectory):
    """With what cameras saw: `images` `[L, C, S, S, 3]` uint8, with each observation, or a
    `vdd_jax.frames.Stored`, which reads them."""

    def __new__(cls, observations, actions, images):
        trajectory = super().__new__(cls, observations, actions)
        trajectory.images = images
        return trajectory


Alike = tuple[tuple[tuple[int, ...], ...], ...]  # of each kind the things, of each its positions


class TaskSpec(NamedTuple):
    """What the rest of the library has to know about a task."""

    name: str
    observation_dim: int
    action_dim: int
    num_modes: int  # behaviours over which the task's entropy is taken
    episode_limit: int = 0  # control steps; 0: the task has no episodes
    control_hz: float = 0.0
    tangents: tuple[int, ...] = ()  # columns of an observation that are tan of an angle
    images: tuple[int, ...] = ()  # (C, S, S, 3), seen beside an observation; (): none
    alike: Alike = ()  # what may exchange its numbers in an observation, see `exchange.orders`
    # (i, j): where number i is, as seen from number j; what networks may be shown besides
    relative: tuple[tuple[int, int], ...] = ()


class Context(NamedTuple):
    """What an action depends on in tasks with time, scaled: a window that ends now, and a goal.

    The first steps of an episode have no full window: there the first observation is repeated and
    `valid` is False.
    """

    observations: Array  # `[..., T, O]`, oldest first
    steps: Array  # `[..., T, O]`, change since the observation before, its own scale; 0 where none
    valid: Array  # `[..., T]` bool, which of the observations were made
    past_actions: Array  # `[..., T - 1, A]`, what followed the observations before the newest
    goal: Array  # `[..., G, O]`, observations to reach; G = 0 without goals
    images: Array | None = None  # `[..., T, C, S, S, 3]` uint8, until their features are observed

    def with_features(self, features: Array) -> "Context":
        """What was seen in the images, `[..., T, F]`, as more observed numbers in their place."""
        made = self.valid[..., 1:] & self.valid[..., :-1]
        change = jnp.diff(features, axis=-2) * made[..., None]
        change = jnp.concatenate([jnp.zeros_like(features[..., :1, :]), change], axis=-2)
        return self._replace(
            observations=jnp.concatenate([self.observations, features], axis=-1),
            steps=jnp.concatenate([self.steps, change], axis=-1), images=None)


Observation = Array | Context  # `[..., O]` where a task has neither history nor goal


class Batch(NamedTuple):
    """State-action pairs, scaled."""

    observation: Observation  # with batch axes `[B]`
    action: Array  # `[B, A]`; A is chunk length × action size


class ScoreFn(Protocol):
    """The score of the teacher diffused to noise level `t` of its schedule.

    Takes noised actions `x` `[V, B, A]`, the observations (batch axes `[B]`) they belong to and a
    time of the teacher's schedule that broadcasts against `[V, B]`; returns ∇_x log π_t(x|s),
    `[V, B, A]`.
    """

    def __call__(self, x: Array, observation: Observation, t: Array) -> Array: ...
