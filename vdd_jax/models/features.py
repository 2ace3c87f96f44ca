"""What a network is shown of a context: positions, Fourier features, steps between observations.

Fourier features let a small network draw sharp boundaries in space (Tancik et al. 2020).
`history='differences'` shows the steps between the observations of the window rather than the
observations before the newest: neighbouring observations are nearly equal, and what tells one
history from another is how they differ.
"""

import jax
import jax.numpy as jnp

from vdd_jax.models.backbones import at_least_one_number
from vdd_jax.types import Context, Observation


def fourier(x: jax.Array, num_frequencies: int) -> jax.Array:
    """sin and cos of 2^k π x / 2, k < K: `[..., D]` → `[..., 2 K D]`."""
    if not num_frequencies:
        return jnp.zeros((*x.shape[:-1], 0), x.dtype)
    angle = x[..., None] * (jnp.pi / 2) * 2.0 ** jnp.arange(num_frequencies)
    angle = angle.reshape(*x.shape[:-1], -1)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def per_step(context: Context, history: str, num_frequencies: int) -> jax.Array:
    """One row for each observation of the window, `[..., T, F]`, for sequence models."""
    parts = [context.observations, fourier(context.observations, num_frequencies)]
    if history == "differences":
        parts.append(context.steps)
    return jnp.concatenate(parts, axis=-1)


def flat_or_plain(observation: Observation, history: str, num_frequencies: int) -> jax.Array:
    """All in one row, `[..., F]`, of a window, or of a plain observation `[..., O]` as it is."""
    if isinstance(observation, Context):
        return flat(observation, history, num_frequencies)
    return at_least_one_number(observation)


def flat(context: Context, history: str, num_frequencies: int) -> jax.Array:
    """All in one row, `[..., F]`, for MLPs."""
    newest = context.observations[..., -1, :]
    before = context.observations[..., :-1, :]
    past = context.steps if history == "differences" else (
        jnp.where(context.valid[..., :-1, None], before, 0.0))  # what was not observed is not shown
    parts = [newest, fourier(newest, num_frequencies)]
    if history == "differences":
        past = past[..., 1:, :]
    for rows in (past, context.goal):
        parts.append(rows.reshape(*rows.shape[:-2], -1))
    parts.append(context.valid[..., :-1].astype(newest.dtype))
    # Without the barrier XLA turns the first layer into one small product for each part, and the
    # latency of a single action is mostly such overhead.
    return jax.lax.optimization_barrier(jnp.concatenate(parts, axis=-1))
