"""Analytic tasks `toy` (a ring of Gaussians in 2-D) and `toy1d` (a row of them in 1-D).

The teacher's density is known exactly, so that a student can be judged by KL. With
`observation_dim > 0` the target moves with the observation o ~ U[−1, 1]^O: the ring turns by
π/4 · o₁ and its radius breathes by the factor 1 + 0.3 · o_O (the last entry, which is o₁ itself
when O = 1); the row shifts by radius/2 · o₁ and stretches likewise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vdd_jax.core import mixture
from vdd_jax.core.mixture import Mixture
from vdd_jax.types import TaskSpec


def spec(task) -> TaskSpec:
    """The sizes that follow from `config.task`."""
    return TaskSpec(
        task.name, task.observation_dim, 2 if task.name == "toy" else 1, task.num_modes
    )


def density(task) -> Callable[[jax.Array], Mixture]:
    """The exact π(a|s), as a function of observations `[..., O]` in the task's units.

    Args:
      task: `config.task`: `name`, `num_modes` M, `radius`, `mode_std`, `mode_weights` (M numbers
        that sum to 1, or empty for equal ones), `observation_dim` O.
    """
    m = task.num_modes
    weights = jnp.asarray(task.mode_weights or (1.0 / m,) * m)
    if task.name == "toy":
        angles = 2 * jnp.pi * jnp.arange(m) / m
        centres = task.radius * jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)
    elif m > 1:
        centres = jnp.linspace(-task.radius, task.radius, m)[:, None]
    else:
        centres = jnp.zeros((1, 1))
    a = centres.shape[-1]

    def at(observation: jax.Array) -> Mixture:
        batch = observation.shape[:-1]
        means = jnp.broadcast_to(centres, (*batch, m, a))
        if task.observation_dim:
            first, last = observation[..., 0], observation[..., -1]
            if a == 2:
                cos, sin = jnp.cos(jnp.pi / 4 * first), jnp.sin(jnp.pi / 4 * first)
                turn = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
                means = jnp.einsum("...ij,...zj->...zi", turn, means)
            else:
                means = means + 0.5 * task.radius * first[..., None, None]
            means = means * (1 + 0.3 * last[..., None, None])
        return Mixture(
            jnp.broadcast_to(jnp.log(weights), (*batch, m)),
            means,
            jnp.full((*batch, m, a), task.mode_std, means.dtype),
        )

    return at


def demonstrations(task, key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """Observations `[N, O]` and one action of π for each, `[N, A]`."""
    observation_key, action_key = jax.random.split(key)
    observation = jax.random.uniform(observation_key, (num, task.observation_dim), minval=-1.0)
    return observation, mixture.sample(density(task)(observation), action_key)
