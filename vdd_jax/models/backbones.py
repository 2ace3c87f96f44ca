"""Trunks: MLP and residual MLP, from observations `[..., O]` to features `[..., width]`.

Everywhere in `models`, `dtype` is the type that layers compute in; parameters are float32.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike as DType

from vdd_jax.models.products import Dense

ACTIVATIONS = {
    "gelu": nn.gelu,
    "mish": jax.nn.mish,
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
}


class MLP(nn.Module):
    """`depth` layers of `width` with an activation after each; depth 0 is the identity."""

    width: int
    depth: int
    activation: str = "mish"
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = ACTIVATIONS[self.activation](Dense(self.width, dtype=self.dtype)(x))
        return x


class ResidualMLP(nn.Module):
    """A linear embedding and `depth` pre-activation residual blocks of two layers."""

    width: int
    depth: int
    activation: str = "mish"
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x):
        act = ACTIVATIONS[self.activation]
        if self.depth == 0:
            return x
        x = Dense(self.width, dtype=self.dtype)(x)
        for _ in range(self.depth):
            h = Dense(self.width, dtype=self.dtype)(act(x))
            x = x + Dense(self.width, dtype=self.dtype)(act(h))
        return act(x)


def wide(x: jax.Array) -> jax.Array:
    """What layers computed, in float32 at least: float64 stays what it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


BACKBONES = {"mlp": MLP, "residual_mlp": ResidualMLP}


def at_least_one_number(observation: jax.Array) -> jax.Array:
    """A constant 1 in place of an observation of size 0, so that layers have an input."""
    if observation.shape[-1]:
        return observation
    return jnp.ones((*observation.shape[:-1], 1), observation.dtype)
