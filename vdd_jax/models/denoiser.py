"""The teacher's network F(c_in x; log(r)/4, context) (see `core/preconditioning.py`).

Both networks split into `encode`, what depends on the context alone, and `query`, what depends on
the noised action. A distillation step asks many actions at one context: the first part is then
computed once.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike as DType

from vdd_jax.models import features
from vdd_jax.models.backbones import ACTIVATIONS
from vdd_jax.models.transformer import StateTokens, Transformer
from vdd_jax.types import Batch, Context

_NORMAL = nn.initializers.normal(0.02)


class MLPDenoiser(nn.Module):
    """Residual MLPs: one encodes the context, one denoises the newest action given the code."""

    action_dim: int
    width: int = 256
    depth: int = 2
    encoder_depth: int = 2
    history: str = "differences"
    fourier: int = 4
    dropout: float = 0.0
    activation: str = "mish"
    dtype: DType = jnp.float32

    def setup(self):
        def layer():
            return nn.Dense(self.width, dtype=self.dtype)

        def blocks(n):
            return [(layer(), layer()) for _ in range(n)]

        self.first = layer()
        self.encoder = blocks(self.encoder_depth)
        self.from_code, self.from_action, self.from_noise = (layer() for _ in range(3))
        self.body = blocks(self.depth)
        self.last = nn.Dense(self.action_dim, kernel_init=nn.initializers.zeros, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def _residual(self, x, blocks, train):
        act = ACTIVATIONS[self.activation]
        for up, down in blocks:
            x = x + down(self.drop(act(up(act(x))), deterministic=not train))
        return x

    def __call__(self, x, noise, context: Context, train: bool = False):
        """F `[..., A]` for x `[..., A]`, noise = log(r)/4 `[...]`; the batch axes of `context`
        are the last ones of `[...]`, to which those of noise broadcast."""
        act = ACTIVATIONS[self.activation]
        code = self.first(features.flat(context, self.history, self.fourier))
        code = self._residual(code, self.encoder, train)
        # log(r)/4 lies within about ±2
        level = self.from_noise(features.fourier(noise[..., None], 6))
        h = self.from_action(x) + self.from_code(act(code)) + level
        return self.last(act(self._residual(h, self.body, train))).astype(jnp.float32)


class TransformerDenoiser(nn.Module):
    """The causal transformer of BESO over [σ, goal…, s₁, (a₁,) …, s_T, a_T].

    With `window='last'` the newest action is the only action token; with `window='all'`, as
    published, the past actions of the window are tokens too, noised at the same level. A state and
    its action share a position embedding; σ enters as log(r)/4 through a linear layer.
    """

    action_dim: int
    width: int = 72
    depth: int = 4
    heads: int = 4
    window: str = "last"
    history: str = "absolute"
    fourier: int = 0
    attention_dropout: float = 0.0
    dropout: float = 0.0
    dtype: DType = jnp.float32

    def setup(self):
        self.states = StateTokens(self.width, self.history, self.fourier, dtype=self.dtype)
        self.actions = nn.Dense(self.width, kernel_init=_NORMAL, dtype=self.dtype)
        self.level = nn.Dense(self.width, kernel_init=_NORMAL, dtype=self.dtype)
        self.transformer = Transformer(
            self.width, self.depth, self.heads, self.attention_dropout, self.dropout, self.dtype
        )
        self.last = nn.Dense(self.action_dim, kernel_init=_NORMAL, dtype=self.dtype)

    def _prefix(self, noise, context: Context, past):
        """Tokens before the newest action `[B, P, D]`, whether each is valid `[B, P]`, and the
        position embedding of the newest step `[D]`."""
        goals, states, positions = self.states(context)
        batch = states.shape[:-2]
        level = jnp.broadcast_to(self.level(noise[..., None])[..., None, :],
                                 (*batch, 1, self.width))
        valid = context.valid
        if self.window == "all":
            size = states.shape[-2]
            actions = self.actions(past) + positions[:-1]
            body = jnp.stack([states[..., :-1, :], actions], axis=-2)
            body = body.reshape(*batch, 2 * (size - 1), self.width)
            body = jnp.concatenate([body, states[..., -1:, :]], axis=-2)
            valid = jnp.concatenate(
                [jnp.repeat(valid[..., :-1], 2, axis=-1), valid[..., -1:]], axis=-1
            )
        else:
            body = states
        ones = jnp.ones((*batch, 1 + goals.shape[-2]), bool)
        valid = jnp.concatenate([ones, jnp.broadcast_to(valid, (*batch, valid.shape[-1]))], -1)
        return jnp.concatenate([level, goals, body], axis=-2), valid, positions[-1]

    def __call__(self, x, noise, context: Context, train: bool = False, past=None):
        """F `[..., A]` for the newest action x `[..., A]`.

        Args:
          noise: log(r)/4, `[B]` or scalar: one level for a window.
          past: noised past actions `[B, T - 1, A]`, scaled by c_in; for `window='all'` only.
        """
        tokens, valid, position = self._prefix(noise, context, past)
        newest = self.actions(x) + position
        if train:  # one pass: the batch axes are those of the context
            size = tokens.shape[-2]
            tokens = jnp.concatenate([tokens, newest[..., None, :]], axis=-2)
            valid = jnp.concatenate([valid, jnp.ones_like(valid[..., :1])], axis=-1)
            out, _ = self.transformer(tokens, valid, train=True)
            return self.last(out[..., size, :]).astype(jnp.float32)
        _, caches = self.transformer(tokens, valid)
        one = jnp.ones((*newest.shape[:-1], 1), bool)
        out, _ = self.transformer(newest[..., None, :], one, caches, valid)
        return self.last(out[..., 0, :]).astype(jnp.float32)

    def all_actions(self, x, noise, context: Context, train: bool = False):
        """F of every action of the window, `[..., T, A]`, each seeing the states and actions
        before it: the published training loss and joint score. `x` is `[..., T, A]`; axes before
        those of the context (samples) are allowed."""
        past, newest = x[..., :-1, :], x[..., -1, :]
        lead = x.ndim - context.observations.ndim
        if lead:  # every sample has its own past: no shared prefix
            context = jax.tree.map(
                lambda v: jnp.broadcast_to(v, (*x.shape[:lead], *v.shape)), context
            )
            noise = jnp.broadcast_to(noise, x.shape[:-2])
        tokens, valid, position = self._prefix(noise, context, past)
        last = self.actions(newest) + position
        tokens = jnp.concatenate([tokens, last[..., None, :]], axis=-2)
        valid = jnp.concatenate([valid, jnp.ones_like(valid[..., :1])], axis=-1)
        out, _ = self.transformer(tokens, valid, train=train)
        first = 2 + context.goal.shape[-2]
        return self.last(out[..., first::2, :]).astype(jnp.float32)


def build(config, action_dim: int, dtype: DType = jnp.float32) -> nn.Module:
    """The network that `config.teacher` describes; it computes in `dtype` and answers in
    float32."""
    shared = dict(action_dim=action_dim, width=config.width, depth=config.depth,
                  history=config.history, fourier=config.fourier, dropout=config.dropout,
                  dtype=dtype)
    if config.backbone == "mlp":
        return MLPDenoiser(encoder_depth=config.encoder_depth, activation=config.activation,
                           **shared)
    return TransformerDenoiser(heads=config.heads, window=config.window,
                               attention_dropout=config.attention_dropout, **shared)


def encoder_as_trunk(params: dict) -> dict:
    """What encodes the context in an `MLPDenoiser`, as parameters of a `ResidualMLP`: the same
    function of the same features, when history, frequencies and activation are the same."""
    trunk, i = {"Dense_0": params["first"]}, 0
    while f"encoder_{i}_0" in params:
        trunk[f"Dense_{2 * i + 1}"] = params[f"encoder_{i}_0"]
        trunk[f"Dense_{2 * i + 2}"] = params[f"encoder_{i}_1"]
        i += 1
    return trunk


def whole_window(config) -> bool:
    """Whether all actions of a window are diffused together (`config` is `config.teacher`)."""
    return config.backbone == "transformer" and config.window == "all"


def window_actions(batch: Batch) -> jax.Array:
    """All actions of the window, the newest last, `[B, T, A]`."""
    newest = batch.action[..., None, :]
    return jnp.concatenate([batch.observation.past_actions, newest], axis=-2)


def init(config, model: nn.Module, key: jax.Array, example: Batch):
    """Fresh parameters; `example` is a batch of one."""
    if whole_window(config):
        return model.init(key, window_actions(example), jnp.zeros(1), example.observation,
                          method=model.all_actions)["params"]
    return model.init(key, example.action, jnp.zeros(1), example.observation)["params"]
