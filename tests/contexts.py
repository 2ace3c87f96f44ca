"""Windows of random observations, for tests of what looks at them."""

import jax
import jax.numpy as jnp
import numpy as np

from vdd_jax.data import Scaler
from vdd_jax.types import Context

SCALER = Scaler(*(jnp.asarray(v) for v in (
    [1.0, -2.0], [2.0, 0.5], [3.0, 0.0, -1.0], [4.0, 1.0, 0.5], [0.1, 0.2, 0.3])))
B, T, A = 4, 3, 2
OBS = 3


def raw(batch=(B,), window=T, goal=0, missing=0, seed=0) -> dict:
    """Arguments of `Scaler.context`; the first `missing` observations were not made."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(*batch, window, OBS)).astype(np.float32)
    valid = np.broadcast_to(np.arange(window) >= missing, (*batch, window))
    past = rng.normal(size=(*batch, window - 1, A)).astype(np.float32)
    goals = rng.normal(size=(*batch, goal, OBS)).astype(np.float32)
    return dict(observations=observations, valid=valid, past_actions=past, goal=goals)


def context(**values) -> Context:
    """The same, scaled."""
    return SCALER.context(**raw(**values))


def at_once(function, *given):
    """`function(*given)` as one program: not each of its operations compiled by itself."""
    return jax.jit(lambda: function(*given))()


def randomised(shapes, scale=0.5, seed=1):
    """Random parameters of these shapes: zero kernels would hide what is connected."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda v: jnp.asarray(scale * rng.normal(size=v.shape), v.dtype), shapes)
