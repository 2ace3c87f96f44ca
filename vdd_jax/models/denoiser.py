"""The teacher's network F(c_in x; log(r)/4, context) (see `core/preconditioning.py`).

Both networks split into `encode`, what depends on the context alone, and `query`, what depends on
the noised action. A distillation step asks many actions at one context: the first part is then
computed once.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike as DType

from vdd_jax.core import schedules
from vdd_jax.models import features, vision
from vdd_jax.models.backbones import ACTIVATIONS
from vdd_jax.models.products import Dense
from vdd_jax.models.seeing import Seeing
from vdd_jax.models.transformer import StateTokens, Transformer, gelu
from vdd_jax.types import Batch, Context, Observation

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
            return Dense(self.width, dtype=self.dtype)

        def blocks(n):
            return [(layer(), layer()) for _ in range(n)]

        self.first = layer()
        self.encoder = blocks(self.encoder_depth)
        self.from_code, self.from_action, self.from_noise = (layer() for _ in range(3))
        self.from_end = Dense(self.width, use_bias=False, kernel_init=nn.initializers.zeros,
                                 dtype=self.dtype)
        self.body = blocks(self.depth)
        self.last = Dense(self.action_dim, kernel_init=nn.initializers.zeros, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def _residual(self, x, blocks, train):
        act = ACTIVATIONS[self.activation]
        for up, down in blocks:
            x = x + down(self.drop(act(up(act(x))), deterministic=not train))
        return x

    def __call__(self, x, noise, context: Observation, train: bool = False, end=None):
        """F `[..., A]` for x `[..., A]`, noise = log(r)/4 `[...]`; the batch axes of `context`
        are the last ones of `[...]`, to which those of noise broadcast. A network that jumps from
        one noise level to another is told the other as `end`, of the shape of noise."""
        act = ACTIVATIONS[self.activation]
        code = self.first(features.flat_or_plain(context, self.history, self.fourier))
        code = self._residual(code, self.encoder, train)
        # log(r)/4 lies within about ±2
        level = self.from_noise(features.fourier(noise[..., None], 6))
        if end is not None:
            level = level + self.from_end(features.fourier(end[..., None], 6))
        h = self.from_action(x) + self.from_code(act(code)) + level
        return self.last(act(self._residual(h, self.body, train))).astype(jnp.float32)


class TransformerDenoiser(nn.Module):
    """The causal transformer of BESO over [σ, goal…, s₁, (a₁,) …, s_T, a_T].

    With `window='last'` the newest action is the only action token; with `window='all'`, as
    published, the past actions of the window are tokens too, noised at the same level. A state and
    its action share a position embedding; σ enters as log(r)/4 through a linear layer, or, where
    `step_of` finds the step of a chain from r, through sines of the step and an MLP (as DDPM).
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
    gelu: str = "tanh"
    positions: str = "last"  # see StateTokens
    head_width: int = 0  # of the hidden layer behind the transformer; 0: none
    activation: str = "silu"  # of that layer
    step_of: Callable | None = None  # r → step
    fused: bool = False  # attention by one kernel, for programs of one device

    def setup(self):
        self.states = StateTokens(self.width, self.history, self.fourier, dtype=self.dtype,
                                  places=self.positions)
        self.actions = Dense(self.width, kernel_init=_NORMAL, dtype=self.dtype)
        self.level = Dense(self.width, kernel_init=_NORMAL, dtype=self.dtype)
        self.level_hidden = Dense(2 * self.width, kernel_init=_NORMAL, dtype=self.dtype)
        self.end = Dense(self.width, use_bias=False, kernel_init=nn.initializers.zeros,
                            dtype=self.dtype)
        self.transformer = Transformer(
            self.width, self.depth, self.heads, self.attention_dropout, self.dropout, self.dtype,
            self.gelu, self.fused)
        self.hidden = Dense(self.head_width, kernel_init=_NORMAL, dtype=self.dtype)
        self.last = Dense(self.action_dim, kernel_init=_NORMAL, dtype=self.dtype)

    def _opening(self, noise, context: Context, end=None):
        """Tokens [σ, goal…] `[..., 1 + G, D]` and of the states `[..., T, D]`, and the position
        embeddings of the window's steps `[..., T, D]`."""
        goals, states, positions = self.states(context)
        if self.step_of is None:
            level = self.level(noise[..., None])
        else:
            steps = _sinusoidal(self.step_of(jnp.exp(4.0 * noise)), self.width)
            level = self.level(jax.nn.mish(self.level_hidden(steps)))
        if end is not None:
            level = level + self.end(end[..., None])
        level = jnp.broadcast_to(level[..., None, :], (*states.shape[:-2], 1, self.width))
        return jnp.concatenate([level, goals], axis=-2), states, positions

    def _before(self, noise, context: Context, past, end=None):
        """The tokens before the newest action `[..., P, D]`, whether each is valid `[..., P]`, and
        the position embeddings."""
        opening, states, positions = self._opening(noise, context, end)
        valid = jnp.broadcast_to(context.valid, states.shape[:-1])
        if self.window == "all":
            actions = self.actions(past) + positions[..., :-1, :]
            states = jnp.concatenate(
                [_in_turn(states[..., :-1, :], actions), states[..., -1:, :]], axis=-2)
            valid = jnp.concatenate(
                [jnp.repeat(valid[..., :-1], 2, axis=-1), valid[..., -1:]], axis=-1)
        valid = jnp.concatenate([jnp.ones(opening.shape[:-1], bool), valid], axis=-1)
        return jnp.concatenate([opening, states], axis=-2), valid, positions

    def _whole(self, prefix, valid, newest, ask: slice, train: bool):
        """F of the tokens `ask` of a prefix and the newest action's token `[..., D]`."""
        tokens = jnp.concatenate([prefix, newest[..., None, :]], axis=-2)
        valid = jnp.concatenate([valid, jnp.ones_like(valid[..., :1])], axis=-1)
        return self._answer(self.transformer(tokens, valid, ask, train))

    def _answer(self, out):
        """F `[..., A]` of what the transformer says, `[..., D]`."""
        if self.head_width:
            out = self.hidden(out)
            out = gelu(out, self.gelu) if self.activation == "gelu" else (
                ACTIVATIONS[self.activation](out))
        return self.last(out).astype(jnp.float32)

    def _alone(self, prefix, valid, seen, tokens):
        """F of single tokens `[..., N, D]`, each behind what it has `seen` of the prefix,
        `[..., N, P]`; broadcasts."""
        out = self.transformer.behind(prefix, valid, seen[..., None, :], tokens[..., None, :],
                                      jnp.ones((1, 1), bool))
        return self._answer(out[..., 0, :])

    def __call__(self, x, noise, context: Context, train: bool = False, past=None, end=None):
        """F `[..., A]` for the newest action x `[..., A]`.

        Args:
          noise: log(r)/4, `[B]` or scalar: one level for a window.
          past: noised past actions `[B, T - 1, A]`, scaled by c_in; for `window='all'` only.
          end: of a network that jumps from one level to another, the other, as `noise`.
        """
        prefix, valid, positions = self._before(noise, context, past, end)
        if train:  # one pass: the batch axes are those of the context
            newest = self.actions(x) + positions[..., -1, :]
            return self._whole(prefix, valid, newest, slice(-1, None), True)[..., 0, :]
        samples, back = _behind_batch(x, context, 1)
        tokens = self.actions(samples) + positions[..., None, -1, :]
        return back(self._alone(prefix, valid, valid[..., None, :], tokens))

    def each_action(self, x, noise, context: Context, past):
        """F of every action of the window, `[..., T, A]`, each behind the `past` ones before it
        ("teacher forcing"), not those of x: T calls with windows that end earlier, on one prefix.

        For `window='all'`. `x` is `[..., T, A]`; axes before those of the context (samples) are
        allowed.
        """
        prefix, valid, positions = self._before(noise, context, past)
        samples, back = _behind_batch(x, context, 2)  # `[B, V, T, A]`
        tokens = self.actions(samples) + positions[..., None, :, :]
        # the prefix ends with s₁, a₁, …, s_T; the action of step i sees it up to s_i
        size, window = prefix.shape[-2], x.shape[-2]
        end = size - 1 - 2 * jnp.arange(window)[::-1]
        seen = valid[..., None, :] & (jnp.arange(size) <= end[:, None])
        seen = jnp.broadcast_to(seen[..., None, :, :], (*tokens.shape[:-1], size))
        seen, flat = (v.reshape(*v.shape[:-3], -1, v.shape[-1]) for v in (seen, tokens))
        return back(self._alone(prefix, valid, seen, flat).reshape(samples.shape))

    def all_actions(self, x, noise, context: Context, train: bool = False):
        """F of every action of the window, `[..., T, A]`, each seeing the states and actions
        before it: the published training loss and joint score. `x` is `[..., T, A]`; axes before
        those of the context (samples) are allowed."""
        if x.ndim == context.observations.ndim:
            prefix, valid, positions = self._before(noise, context, x[..., :-1, :])
            newest = self.actions(x[..., -1, :]) + positions[..., -1, :]
            first = 2 + context.goal.shape[-2]  # [σ, goal…, s₁, a₁, …]
            return self._whole(prefix, valid, newest, slice(first, None, 2), train)
        # every sample has its own past; what it shares with the others ends with s₁
        samples, back = _behind_batch(x, context, 2)
        opening, states, positions = self._opening(noise, context)
        seen = jnp.concatenate(
            [jnp.ones(opening.shape[:-1], bool), context.valid[..., :1]], axis=-1)
        prefix = jnp.concatenate([opening, states[..., :1, :]], axis=-2)
        actions = self.actions(samples) + positions[..., None, :, :]
        states = jnp.broadcast_to(states[..., None, 1:, :], actions[..., 1:, :].shape)
        tokens = jnp.concatenate(
            [actions[..., :1, :], _in_turn(states, actions[..., 1:, :])], axis=-2)
        valid = jnp.repeat(context.valid, 2, axis=-1)[..., 1:]
        out = self.transformer.behind(
            prefix, seen, seen[..., None, None, :], tokens, valid[..., None, :],
            slice(0, None, 2))
        return back(self._answer(out))


def _sinusoidal(x, width: int):
    """sin and cos of x `[...]` times numbers from 1 down to 1e-4, `[..., width]`, as positions
    are embedded by Vaswani et al. 2017."""
    half = width // 2
    angles = x[..., None] * jnp.exp(-math.log(1e4) / max(half - 1, 1) * jnp.arange(half))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _in_turn(states, actions):
    """[s, a, s, a, …] of `[..., S, D]` each."""
    both = jnp.stack([states, actions], axis=-2)
    return both.reshape(*both.shape[:-3], -1, both.shape[-1])


def _behind_batch(x, context: Context, size: int):
    """Samples `[V…, *batch, …]`, whose last `size` axes are of one sample and `batch` the axes of
    the context → `[*batch, V, …]`, as sequences behind a prefix lie, and the way back."""
    rank = context.observations.ndim - 2
    rest = x.shape[x.ndim - rank - size:]

    def back(found):
        return jnp.moveaxis(found, rank, 0).reshape(x.shape)

    return jnp.moveaxis(x.reshape(-1, *rest), 0, rank), back


def build(config, action_dim: int, dtype: DType = jnp.float32, fused: bool = False,
          images: bool = False) -> nn.Module:
    """The network that `config.teacher` describes; it computes in `dtype` and answers in
    float32. `fused`: it will run on one device, where its attention may be one kernel. `images`:
    its contexts have them, and it learns to see (`models/seeing.py`)."""
    if images:
        return Seeing(vision.encoder(config, dtype), build(config, action_dim, dtype, fused))
    shared = dict(action_dim=action_dim, width=config.width, depth=config.depth,
                  history=config.history, fourier=config.fourier, dropout=config.dropout,
                  activation=config.activation, dtype=dtype)
    if config.backbone == "mlp":
        return MLPDenoiser(encoder_depth=config.encoder_depth, **shared)
    step_of = None
    if config.noise_embedding == "sinusoidal":
        betas = {"ddpm_cosine": schedules.cosine_betas, "ddpm_linear": schedules.linear_betas}
        step_of = schedules.vp_discrete(betas[config.schedule](config.num_train_steps)).time
    return TransformerDenoiser(
        heads=config.heads, window=config.window, attention_dropout=config.attention_dropout,
        gelu=config.gelu, positions=config.positions, head_width=config.head_width,
        step_of=step_of, fused=fused, **shared)


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
