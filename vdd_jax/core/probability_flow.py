"""Densities of a diffusion or flow teacher, by its probability-flow ODE with the exact divergence.

In y = x/α, noise r = σ/α (see samplers.py), and over log r, the ODE is dy/d log r = y − D(y, r)
with D = E[a|y]. A density carried along it changes as
d log p_r(y)/d log r = −(A − tr ∂D/∂y) (Chen et al. 2018; Song et al. 2021, equation 39), so that

    log p_low(y_low) = log p_high(y_high) + ∫ (A − tr ∂D/∂y) d log r, from low to high.

Solved by the classical Runge-Kutta method of order 4 on a geometric grid of r.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vdd_jax.core import mixture
from vdd_jax.core.mixture import Mixture

MAX_DIM = 16  # largest action: the divergence costs A + 1 passes of the network
# of the four stages: where in the step, by the slope before, and the weight of the slope there
RUNGE_KUTTA = (np.array([0.0, 0.5, 0.5, 1.0], np.float32), np.array([1, 2, 2, 1], np.float32) / 6)


def log_prob(
    denoise: Callable, y: jax.Array, low: float, high: float, prior: Mixture | None = None,
    num_steps: int = 32,
) -> jax.Array:
    """log density `[...]` of y = a + low ε, in nats, under the teacher at the noise ratio `low`.

    Args:
      denoise: (y `[..., A]`, scalar r) → E[a|y] `[..., A]`, each row from its own y alone.
      y: `[..., A]`.
      low, high: noise ratios; low > 0.
      prior: p_high, its batch axes broadcast against y's; None: N(0, (high² + 1) I), that of
        actions of mean 0 and spread 1 where `high` is far above 1. Its error is the result's.
      num_steps: of 4 calls each.

    Raises:
      ValueError: for actions of more than `MAX_DIM` numbers.
    """
    end, change = _integrate(denoise, y, low, high, num_steps)
    prior = _broad(y.shape[-1], high) if prior is None else prior
    return mixture.log_prob(prior, end) + change


def sample_and_log_prob(
    denoise: Callable, key: jax.Array, shape: tuple[int, ...], low: float, high: float,
    prior: Mixture | None = None, num_steps: int = 32,
) -> tuple[jax.Array, jax.Array]:
    """Samples y of the law whose density is `log_prob`, and the latter: `shape` and `shape[:-1]`.

    The prior's batch axes are the last of `shape[:-1]`; for the rest see `log_prob`.
    """
    prior = _broad(shape[-1], high) if prior is None else prior
    more = len(shape) - prior.log_weights.ndim
    start = mixture.sample(prior, key, shape[:more])
    y, change = _integrate(denoise, start, high, low, num_steps)
    return y, mixture.log_prob(prior, start) - change


def _broad(action_dim: int, high: float) -> Mixture:
    std = jnp.full((1, action_dim), jnp.hypot(high, 1.0))
    return mixture.uniform(jnp.zeros((1, action_dim)), std)


def _integrate(denoise, y, start, end, num_steps):
    """y at the noise ratio `end` from y at `start`, and ∫ (A − tr ∂D/∂y) d log r between them."""
    a = y.shape[-1]
    if a > MAX_DIM:
        raise ValueError(f"the exact divergence is for actions of at most {MAX_DIM} numbers, "
                         f"not {a}")
    directions = jnp.broadcast_to(
        jnp.eye(a).reshape(a, *(1,) * (y.ndim - 1), a), (a, *y.shape))

    def field(y, log_r):
        at = functools.partial(denoise, r=jnp.exp(log_r))
        clean, pull_back = jax.vjp(at, y)
        # rows do not see each other: one direction is pulled back through all of them at once
        rows, = jax.vmap(pull_back)(directions)
        return y - clean, a - jnp.einsum("i...i->...", rows)

    first = jnp.log(start)
    h = (jnp.log(end) - first) / num_steps

    def step(state, i):
        y, _ = state

        def stage(carry, at_and_weight):
            (slope, _), total = carry
            at, weight = at_and_weight
            slopes = field(y + at * h * slope, first + (i + at) * h)
            return (slopes, jax.tree.map(lambda t, k: t + h * weight * k, total, slopes)), None

        zeros = jax.tree.map(jnp.zeros_like, state)
        return jax.lax.scan(stage, (zeros, state), RUNGE_KUTTA)[0][1], None

    state = (y, jnp.zeros(y.shape[:-1], y.dtype))
    return jax.lax.scan(step, state, jnp.arange(num_steps, dtype=y.dtype))[0]
