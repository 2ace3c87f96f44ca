"""A causal transformer that runs many sequences behind one cached prefix.

Pre-normalised blocks (GPT-2). A sequence is run either whole, or as a prefix that leaves its keys
and values behind, to which N sequences are then added, each as if it were alone: V queries over one
prefix cost V tokens, not V sequences. Both ways are the same function (a test holds them equal).
Of tokens whose output nobody asks for, the last block computes keys and values, and no more.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike as DType

from vdd_jax.models import features
from vdd_jax.types import Context

_NORMAL = nn.initializers.normal(0.02)
_ALL = slice(None)
NONE = slice(0, 0)  # of a prefix, only the caches are wanted


def gelu(x, kind: str):
    """By the error function (`erf`, PyTorch's default), or `tanh`, an approximation of it."""
    return nn.gelu(x, approximate=kind == "tanh")


class Block(nn.Module):
    width: int
    heads: int
    attention_dropout: float = 0.0
    dropout: float = 0.0
    dtype: DType = jnp.float32
    gelu: str = "tanh"

    @nn.compact
    def __call__(self, x, own, cache=None, seen=None, ask: slice = _ALL, train: bool = False):
        """Tokens `[..., N, S, D]` of N sequences → those of `ask`, and (keys, values) of all,
        each `[..., N, S, heads, D/heads]`.

        Args:
          own: `[..., N, S, S]` bool, what each token may attend to in its sequence; axes before the
            last two broadcast.
          cache: (keys, values) `[..., P, heads, D/heads]` of a prefix of all N sequences.
          seen: `[..., N, S, P]` bool, what each token may attend to in the prefix; broadcasts.
        """
        def dense(features, name, scale=1.0):
            return nn.Dense(features, kernel_init=nn.initializers.normal(0.02 * scale), name=name,
                            dtype=self.dtype)

        def masked(logits, mask):
            mask = mask if mask.shape[-2] == 1 else mask[..., ask, :]
            return jnp.where(mask[..., None, :, :, :], logits * scale, -1e9)

        scale = 1.0 / math.sqrt(self.width // self.heads)
        h = nn.LayerNorm(name="norm_1", dtype=self.dtype)(x)
        qkv = dense(3 * self.width, "query_key_value")(h)
        q, k, v = (part.reshape(*h.shape[:-1], self.heads, self.width // self.heads)
                   for part in jnp.split(qkv, 3, axis=-1))
        x, q = x[..., ask, :], q[..., ask, :, :]
        # a prefix is not copied for its N sequences: they are rows of one product with it
        logits = masked(jnp.einsum("...nihd,...njhd->...hnij", q, k), own)
        if cache is not None:
            earlier = masked(jnp.einsum("...nihd,...phd->...hnip", q, cache[0]), seen)
            logits = jnp.concatenate([earlier, logits], axis=-1)
        attention = nn.Dropout(self.attention_dropout, deterministic=not train)(
            jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(self.dtype)
        )
        cached = 0 if cache is None else cache[0].shape[-3]
        out = jnp.einsum("...hnij,...njhd->...nihd", attention[..., cached:], v)
        if cache is not None:
            out = out + jnp.einsum("...hnip,...phd->...nihd", attention[..., :cached], cache[1])
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = x + drop(dense(self.width, "project")(out.reshape(*out.shape[:-2], self.width)))
        h = nn.LayerNorm(name="norm_2", dtype=self.dtype)(x)
        h = dense(self.width, "down")(gelu(dense(4 * self.width, "up")(h), self.gelu))
        return x + nn.Dropout(self.dropout, deterministic=not train)(h), (k, v)


class Transformer(nn.Module):
    """`depth` blocks and a last normalisation; embedding tokens is the caller's."""

    width: int
    depth: int
    heads: int
    attention_dropout: float = 0.0
    dropout: float = 0.0
    dtype: DType = jnp.float32
    gelu: str = "tanh"

    def setup(self):
        self.block = [
            Block(self.width, self.heads, self.attention_dropout, self.dropout, self.dtype,
                  self.gelu)
            for _ in range(self.depth)]
        self.norm = nn.LayerNorm(dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, tokens, valid, ask: slice = _ALL, train: bool = False):
        """Tokens `[..., S, D]` → features of those of `ask`, and the caches of all blocks.

        Args:
          valid: `[..., S]` bool; nothing attends to a token that is not.
        """
        out, caches = self._run(tokens[..., None, :, :], valid[..., None, :], None, None, ask,
                                train)
        return out[..., 0, :, :], jax.tree.map(lambda v: v[..., 0, :, :, :], caches)

    def behind(self, caches, seen, tokens, valid, ask: slice = _ALL):
        """N sequences behind one prefix, tokens `[..., N, S, D]` → features of those of `ask`.

        Args:
          caches: of a call with the prefix, of P tokens.
          seen: `[..., N, S, P]` bool, which of them each token attends to; broadcasts.
          valid: `[..., N, S]` bool, as above.
        """
        return self._run(tokens, valid, caches, seen, ask, False)[0]

    def _run(self, x, valid, caches, seen, ask, train):
        size = x.shape[-2]
        own = jnp.tril(jnp.ones((size, size), bool)) & valid[..., None, :]
        # a token that is not valid still attends to itself: no row of the softmax is empty
        own = own | jnp.eye(size, dtype=bool)
        x, new = self.drop(x, deterministic=not train), []
        for i, block in enumerate(self.block):
            x, kv = block(x, own, None if caches is None else caches[i], seen,
                          ask if i == self.depth - 1 else _ALL, train)
            new.append(kv)
        return self.norm(x), tuple(new)


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
        embed = nn.Dense(self.width, kernel_init=_NORMAL, name="embed", dtype=self.dtype)
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
        out, _ = Transformer(
            self.width, self.depth, self.heads, self.attention_dropout, self.dropout, self.dtype,
            name="transformer",
        )(tokens, seen, ask, train)
        return out if self.per_step else out[..., 0, :]
