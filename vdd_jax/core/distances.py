"""Distances between samples."""

import jax
import jax.numpy as jnp
import numpy as np


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


BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)  # of the kernels of `mmd`, in median distances


def mmd(x: jax.Array, y: jax.Array, bandwidths: tuple[float, ...] | None = None) -> jax.Array:
    """Squared maximum mean discrepancy of two laws at each state, from samples, `[...]`.

    E k(x, x') + E k(y, y') − 2 E k(x, y) for the mean k of Gaussian kernels
    exp(−d²/(2h²)), by the unbiased estimate (Gretton et al. 2012, equation 3): between equal laws
    it is 0 on average, hence sometimes below 0, and the mean over states is unbiased too. Without
    unit, at most 2.

    Args:
      x: `[V, ..., A]`, V ≥ 2.
      y: `[W, ..., A]`, W ≥ 2: of the reference, which sets the bandwidths.
      bandwidths: h of each kernel in the units of the samples; None: `BANDWIDTHS` times the
        median distance of two samples of y, at each state.
    """
    states = y.shape[1:-1]

    def of_state(samples):
        x, y = samples
        within = _pairs(_squared_distances(y, y))
        widths = (jnp.asarray(BANDWIDTHS) * jnp.median(jnp.sqrt(within)) if bandwidths is None
                  else jnp.asarray(bandwidths))
        # of a reference that is a single point: kernels that tell equal from unequal
        widths = jnp.maximum(jnp.square(widths), jnp.finfo(y.dtype).tiny)

        def mean_kernel(squared):
            each = jax.lax.map(lambda width: jnp.mean(jnp.exp(-0.5 * squared / width)), widths)
            return jnp.mean(each)

        return (mean_kernel(_pairs(_squared_distances(x, x))) + mean_kernel(within)
                - 2 * mean_kernel(_squared_distances(x, y)))

    def by_state(samples):
        samples = samples.reshape(len(samples), -1, samples.shape[-1])
        return jnp.swapaxes(samples, 0, 1)

    # one state after the other: the V² distances of all at once would be gigabytes
    return jax.lax.map(of_state, (by_state(x), by_state(y))).reshape(states)


def _squared_distances(x, y):
    return jnp.sum(jnp.square(x[:, None] - y[None]), axis=-1)


def _pairs(squared):
    """The entries `[V (V − 1)/2]` of two different samples."""
    return squared[np.triu_indices(len(squared), 1)]
