"""Trunks: MLP and residual MLP, from observations `[..., O]` to features `[..., width]`."""

import flax.linen as nn
import jax
import jax.numpy as jnp

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

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = ACTIVATIONS[self.activation](nn.Dense(self.width)(x))
        return x


class ResidualMLP(nn.Module):
    """A linear embedding and `depth` pre-activation residual blocks of two layers."""

    width: int
    depth: int
    activation: str = "mish"

    @nn.compact
    def __call__(self, x):
        act = ACTIVATIONS[self.activation]
        if self.depth == 0:
            return x
        x = nn.Dense(self.width)(x)
        for _ in range(self.depth):
            h = nn.Dense(self.width)(act(x))
            x = x + nn.Dense(self.width)(act(h))
        return act(x)


BACKBONES = {"mlp": MLP, "residual_mlp": ResidualMLP}


def at_least_one_number(observation: jax.Array) -> jax.Array:
    """A constant 1 in place of an observation of size 0, so that layers have an input."""
    if observation.shape[-1]:
        return observation
    return jnp.ones((*observation.shape[:-1], 1), observation.dtype)
