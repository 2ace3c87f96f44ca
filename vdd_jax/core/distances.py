"""Distances between samples."""

import jax
import jax.numpy as jnp


def sliced_wasserstein(x: jax.Array, y: jax.Array, key: jax.Array, projections: int = 64):
    """Sliced 2-Wasserstein distance of two sets of V samples at each state, `[...]`.

    The root of the mean, over random directions, of the squared distance between the sorted
    projections (Bonneel et al. 2015); in the units of the samples.

    Args:
      x, y: `[V, ..., A]`, the same V.
    """
    directions = jax.random.normal(key, (projections, x.shape[-1]))
    directions = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)

    def along(direction):
        gap = jnp.sort(x @ direction, axis=0) - jnp.sort(y @ direction, axis=0)
        return jnp.mean(jnp.square(gap), axis=0)

    return jnp.sqrt(jnp.mean(jax.lax.map(along, directions), axis=0))
