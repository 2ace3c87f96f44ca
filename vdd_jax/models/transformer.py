"""A causal transformer that runs many sequences behind one prefix.

Pre-normalised blocks (GPT-2). A sequence is run either whole, or as N sequences behind a prefix
that they share, each as if it were alone: V queries behind one prefix cost V tokens, not V
sequences. Both ways are the same function (a test holds them equal). Of tokens whose output nobody
asks for, the last block computes queries, keys and values, and no more.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike as DType

from vdd_jax.models import features
from vdd_jax.models.attention import Behind, Whole
from vdd_jax.models.products import Dense, kernel_of, matmul
from vdd_jax.types import Context

_NORMAL = nn.initializers.normal(0.02)
_ALL = slice(None)


def gelu(x, kind: str):
    """By the error function (`erf`, PyTorch's default), or `tanh`, an approximation of it."""
    return nn.gelu(x, approximate=kind == "tanh")


class Apart(nn.Module):
    """A linear layer that leaves it to the caller to add its bias: (x W, b)."""

    features: int
    dtype: DType

    @nn.compact
    def __call__(self, x):
        kernel = kernel_of(self, _NORMAL, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return matmul(x, kernel.astype(self.dtype)), bias.astype(self.dtype)


class Block(nn.Module):
    width: int
    heads: int
    attention_dropout: float = 0.0
    dropout: float = 0.0
    dtype: DType = jnp.float32
    gelu: str = "tanh"
    fused: bool = False  # see `Behind.attend`

    @nn.compact
    def __call__(self, x, sight: Whole | Behind, ask: slice | None, train: bool):
        """Tokens `[..., S, D]` → those of `ask` (see models/attention.py)."""
        def dense(features, name):
            return Dense(features, kernel_init=_NORMAL, name=name, dtype=self.dtype)

        def rows(tokens):  # two axes leave a compiler no layouts to choose for a gradient
            return tokens.reshape(-1, tokens.shape[-1]) if train else tokens

        h = nn.LayerNorm(name="norm_1", dtype=self.dtype)(rows(x))
        qkv, bias = Apart(3 * self.width, self.dtype, name="query_key_value")(h)
        out = sight.attend(qkv.reshape(*x.shape[:-1], -1), bias, self.heads, ask,
                           nn.Dropout(self.attention_dropout, deterministic=not train), self.fused)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = rows(sight.asked(x, ask)) + drop(dense(self.width, "project")(rows(out)))
        h = nn.LayerNorm(name="norm_2", dtype=self.dtype)(x)
        h = dense(self.width, "down")(gelu(dense(4 * self.width, "up")(h), self.gelu))
        return (x + nn.Dropout(self.dropout, deterministic=not train)(h)).reshape(out.shape)


class Transformer(nn.Module):
    """`depth` blocks and a last normalisation; embedding tokens is the caller's."""

    width: int
    depth: int
    heads: int
    attention_dropout: float = 0.0
    dropout: float = 0.0
    dtype: DType = jnp.float32
    gelu: str = "tanh"
    fused: bool = False

    def setup(self):
        self.block = [
            Block(self.width, self.heads, self.attention_dropout, self.dropout, self.dtype,
                  self.gelu, self.fused)
            for _ in range(self.depth)]
        self.norm = nn.LayerNorm(dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, tokens, valid, ask: slice = _ALL, train: bool = False):
        """Tokens `[..., S, D]` → features of those of `ask`.

        Args:
          valid: `[..., S]` bool; nothing attends to a token that is not.
        """
        return self._run(tokens, Whole(_causal(valid)), _ALL, ask, train)

    def behind(self, prefix, prefix_valid, seen, tokens, valid, ask: slice = _ALL):
        """N sequences behind one prefix, tokens `[..., N, S, D]` → features of those of `ask`.

        Args:
          prefix, prefix_valid: `[..., P, D]`, `[..., P]` bool.
          seen: `[..., N, S, P]` bool, which of them each token attends to; broadcasts.
          valid: `[..., N, S]` bool, as above; broadcasts.
        """
        sight = Behind(_causal(prefix_valid), seen, _causal(valid))
        flat = tokens.reshape(*tokens.shape[:-3], -1, tokens.shape[-1])
        out = self._run(jnp.concatenate([prefix, flat], axis=-2), sight, None, ask, False)
        return out.reshape(*tokens.shape[:-2], -1, tokens.shape[-1])

    def _run(self, x, sight, every, ask, train):
        x = self.drop(x, deterministic=not train)
        for i, block in enumerate(self.block):
            x = block(x, sight, ask if i == self.depth - 1 else every, train)
        return self.norm(x)


def _causal(valid):
    """What each of the tokens `[..., S]` may attend to, `[..., S, S]`."""
    size = valid.shape[-1]
    own = jnp.tril(jnp.ones((size, size), bool)) & valid[..., None, :]
    # a token that is not valid still attends to itself: no row of the softmax is empty
    return own | jnp.eye(size, dtype=bool)


class StateTokens(nn.Module):
    """[goal…, s₁, …, s_T] as tokens; one linear layer embeds goals and states (as BESO).

    Where an episode has fewer observations than the window, the newest has the last place, or, with
    `places='first'`, the first one that was made the first place, as in a window cut short.
    """

    width: int
    history: str
    fourier: int
    max_window: int = 32
    dtype: DType = jnp.float32
    places: str = "last"

    @nn.compact
    def __call__(self, context: Context):
        """Tokens of the goal `[..., G, D]` and of the observations `[..., T, D]`, with their
        position embeddings; those of the observations `[..., T, D]` too, for the actions."""
        embed = Dense(self.width, kernel_init=_NORMAL, name="embed", dtype=self.dtype)
        positions = self.param("positions", _NORMAL, (self.max_window, self.width))
        positions = positions.astype(self.dtype)
        goal, window = context.goal, context.observations.shape[-2]
        if window > self.max_window or goal.shape[-2] > self.max_window:
            raise ValueError(f"the transformer has places for {self.max_window} observations")
        states = embed(features.per_step(context, self.history, self.fourier))
        if self.places == "first":
            places = jnp.cumsum(context.valid, axis=-1) - 1
            positions = positions[jnp.maximum(places, 0)]
        else:
            positions = positions[:window]
        states = states + positions
        if not goal.shape[-2]:
            return states[..., :0, :], states, positions
        still = Context(goal, jnp.zeros_like(goal), context.valid, goal, goal)
        goal_positions = self.param("goal_positions", _NORMAL, (self.max_window, self.width))
        goals = embed(features.per_step(still, self.history, self.fourier))
        goal_positions = goal_positions.astype(self.dtype)
        return goals + goal_positions[: goal.shape[-2]], states, positions


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
        ask = slice(goals.shape[-2], None) if self.per_step else slice(-1, None)
        out = Transformer(
            self.width, self.depth, self.heads, self.attention_dropout, self.dropout, self.dtype,
            name="transformer",
        )(tokens, seen, ask, train)
        return out if self.per_step else out[..., 0, :]
