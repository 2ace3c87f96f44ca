"""A causal transformer whose last token can be asked many times over one cached prefix.

Pre-normalised blocks (GPT-2). A sequence is run either whole, or as a prefix that leaves its keys
and values behind, to which single tokens are then added: V queries over one prefix cost V tokens,
not V sequences. Both ways are the same function (a test holds them equal).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike as DType

from vdd_jax.models import features
from vdd_jax.types import Context

_NORMAL = nn.initializers.normal(0.02)


class Block(nn.Module):
    width: int
    heads: int
    attention_dropout: float = 0.0
    dropout: float = 0.0
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x, mask, cache=None, train: bool = False):
        """Tokens `[..., S, D]` → the same, and their (keys, values) `[..., S, heads, D/heads]`.

        Args:
          mask: `[..., S, P + S]` bool, what each token may attend to, of the P cached tokens and
            the S new ones; broadcasts against the batch axes.
          cache: (keys, values) of P earlier tokens; their batch axes broadcast against x's.
        """
        def dense(features, name, scale=1.0):
            return nn.Dense(features, kernel_init=nn.initializers.normal(0.02 * scale), name=name,
                            dtype=self.dtype)

        h = nn.LayerNorm(name="norm_1", dtype=self.dtype)(x)
        q, k, v = (
            dense(self.width, name)(h).reshape(*h.shape[:-1], self.heads, -1)
            for name in ("query", "key", "value")
        )
        scale = 1.0 / math.sqrt(self.width // self.heads)
        logits = jnp.einsum("...ihd,...jhd->...hij", q, k) * scale
        if cache is not None:
            earlier = jnp.einsum("...ihd,...jhd->...hij", q, cache[0]) * scale
            logits = jnp.concatenate([earlier, logits], axis=-1)
        logits = jnp.where(mask[..., None, :, :], logits, -1e9)
        attention = nn.Dropout(self.attention_dropout, deterministic=not train)(
            jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(self.dtype)
        )
        num_cached = 0 if cache is None else cache[0].shape[-3]
        out = jnp.einsum("...hij,...jhd->...ihd", attention[..., num_cached:], v)
        if cache is not None:
            out = out + jnp.einsum("...hij,...jhd->...ihd", attention[..., :num_cached], cache[1])
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = x + drop(dense(self.width, "project")(out.reshape(*out.shape[:-2], -1)))
        h = nn.LayerNorm(name="norm_2", dtype=self.dtype)(x)
        h = dense(self.width, "down")(nn.gelu(dense(4 * self.width, "up")(h)))
        return x + nn.Dropout(self.dropout, deterministic=not train)(h), (k, v)


class Transformer(nn.Module):
    """`depth` blocks and a last normalisation; embedding tokens is the caller's."""

    width: int
    depth: int
    heads: int
    attention_dropout: float = 0.0
    dropout: float = 0.0
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, tokens, valid, caches=None, valid_cached=None, train: bool = False):
        """Tokens `[..., S, D]` → features `[..., S, D]` and the caches of all blocks.

        Args:
          valid: `[..., S]` bool; nothing attends to a token that is not.
          caches: of an earlier call for a prefix of P tokens, whose `valid_cached` `[..., P]`.
        """
        size = tokens.shape[-2]
        mask = jnp.tril(jnp.ones((size, size), bool)) & valid[..., None, :]
        # a token that is not valid still attends to itself: no row of the softmax is empty
        mask = mask | jnp.eye(size, dtype=bool)
        if caches is not None:
            shape = jnp.broadcast_shapes(mask.shape[:-2], valid_cached.shape[:-1])
            earlier = jnp.broadcast_to(
                valid_cached[..., None, :], (*shape, size, valid_cached.shape[-1])
            )
            mask = jnp.concatenate(
                [earlier, jnp.broadcast_to(mask, (*shape, size, size))], axis=-1
            )
        x = nn.Dropout(self.dropout, deterministic=not train)(tokens)
        new = []
        for i in range(self.depth):
            cache = None if caches is None else caches[i]
            x, kv = Block(
                self.width, self.heads, self.attention_dropout, self.dropout, self.dtype,
                name=f"block_{i}",
            )(x, mask, cache, train)
            new.append(kv)
        return nn.LayerNorm(name="norm", dtype=self.dtype)(x), tuple(new)


class StateTokens(nn.Module):
    """[goal…, s₁, …, s_T] as tokens; one linear layer embeds goals and states (as BESO)."""

    width: int
    history: str
    fourier: int
    max_window: int = 32
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, context: Context):
        """Tokens of the goal `[..., G, D]` and of the observations `[..., T, D]`, with their
        position embeddings; those of the observations `[T, D]` too, for the actions."""
        embed = nn.Dense(self.width, kernel_init=_NORMAL, name="embed", dtype=self.dtype)
        positions = self.param("positions", _NORMAL, (self.max_window, self.width))
        positions = positions.astype(self.dtype)
        goal, window = context.goal, context.observations.shape[-2]
        if window > self.max_window or goal.shape[-2] > self.max_window:
            raise ValueError(f"the transformer has places for {self.max_window} observations")
        states = embed(features.per_step(context, self.history, self.fourier))
        states = states + positions[:window]
        if not goal.shape[-2]:
            return states[..., :0, :], states, positions[:window]
        still = Context(goal, jnp.zeros_like(goal), context.valid, goal, goal)
        goal_positions = self.param("goal_positions", _NORMAL, (self.max_window, self.width))
        goals = embed(features.per_step(still, self.history, self.fourier))
        goal_positions = goal_positions.astype(self.dtype)
        return goals + goal_positions[: goal.shape[-2]], states, positions[:window]


class ContextTransformer(nn.Module):
    """The student's trunk: the causal transformer over [goal…, s₁, …, s_T].

    Features of the newest observation `[..., D]`, or of all, `[..., T, D]`.
    """

    width: int
    depth: int
    heads: int
    history: str
    fourier: int
    attention_dropout: float = 0.0
    dropout: float = 0.0
    per_step: bool = False
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, context: Context, train: bool = False):
        goals, states, _ = StateTokens(
            self.width, self.history, self.fourier, dtype=self.dtype, name="tokens")(context)
        tokens = jnp.concatenate([goals, states], axis=-2)
        seen = jnp.concatenate([jnp.ones(goals.shape[:-1], bool), context.valid], axis=-1)
        out, _ = Transformer(
            self.width, self.depth, self.heads, self.attention_dropout, self.dropout, self.dtype,
            name="transformer",
        )(tokens, seen, train=train)
        return out[..., goals.shape[-2] :, :] if self.per_step else out[..., -1, :]
