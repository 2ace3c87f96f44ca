"""The student: a Gaussian mixture of experts over actions, from observations in one pass.

Two kinds share this file and one interface (`__call__` → `Mixture`):

* `independent=False`: one trunk, stacked expert heads (as published).
* `independent=True`: every expert has a trunk of its own; their parameters are stacked on a
  leading axis Z, so that they can be sharded over devices, and no expert's update touches
  another's parameters.

The parameters fall in two trees, `experts` and `gating`, each with an optimiser of its own. The
gating reads features through a stop-gradient; the loss of the experts gives it no gradient.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike as DType

from vdd_jax.core import gaussian
from vdd_jax.core.mixture import Mixture
from vdd_jax.models import features as feature_lib
from vdd_jax.models.backbones import BACKBONES, wide
from vdd_jax.models.products import Dense
from vdd_jax.models.transformer import ContextTransformer
from vdd_jax.types import Context


def _uniform_bias(bound):
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


class Expert(nn.Module):
    """One head: features `[..., D]` → mean `[..., A]`, raw scale `[..., A]`, raw tril."""

    action_dim: int
    full: bool
    trunk: nn.Module | None
    body: nn.Module
    init_spread: float
    dtype: DType

    @nn.compact
    def __call__(self, features):
        if self.trunk is not None:
            features = self.trunk(features)
        h = self.body(features)
        # A small kernel on the last layer alone: experts start at their biases, spread out.
        small = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")
        mean = Dense(
            self.action_dim, kernel_init=small, bias_init=_uniform_bias(self.init_spread),
            name="mean", dtype=self.dtype,
        )(h)
        num_off = self.action_dim * (self.action_dim - 1) // 2 if self.full else 0
        scale = Dense(
            self.action_dim + num_off, kernel_init=small, name="scale", dtype=self.dtype)(h)
        # means, factors and weights are not bfloat16 whatever the layers compute in
        return wide(mean), wide(scale), features


class Experts(nn.Module):
    """All experts, vmapped over the axis Z of their parameters."""

    action_dim: int
    num_experts: int
    independent: bool
    full: bool
    make_trunk: callable
    make_head: callable
    init_spread: float
    init_std: float
    std_floor: float
    dtype: DType

    @nn.compact
    def __call__(self, observation, train=False):
        """`[..., O]` → means `[..., Z, A]`, factors, features of the trunk `[..., D]`."""
        shared = observation if self.independent else (
            _call(self.make_trunk(name="trunk"), observation, train))
        stacked = nn.vmap(
            Expert,
            in_axes=None,
            out_axes=(-2, -2, -2),
            axis_size=self.num_experts,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        mean, raw, _ = stacked(
            self.action_dim,
            self.full,
            self.make_trunk(parent=None) if self.independent else None,
            self.make_head(parent=None),
            self.init_spread,
            self.dtype,
            name="experts",
        )(shared if self.independent else shared.reshape(-1, shared.shape[-1]))
        if not self.independent:
            mean, raw = (v.reshape(*shared.shape[:-1], *v.shape[1:]) for v in (mean, raw))
        scale_tril = build_scale_tril(raw, self.action_dim, self.init_std, self.std_floor)
        return mean, scale_tril, shared


def _call(trunk, x, train):
    return trunk(x, train) if isinstance(trunk, ContextTransformer) else trunk(x)


def build_scale_tril(raw, action_dim: int, init_std: float, std_floor: float):
    """The factor `[..., A, A]` (or its diagonal `[..., A]`) from raw outputs `[..., A + ...]`.

    L = diag(s) (I + N) with s = init_std · exp(raw), N strictly lower triangular: an off-diagonal
    is relative to its row, so that the same numbers mean the same shape at every scale. The
    floor is one of the *eigenvalues* of L Lᵀ: std_floor² I is added to it. A floor on the
    diagonal of L would not bound them. Raw numbers are softly bounded (|log s/init_std| < 15,
    |N| < 30), so that no step of an optimiser leads to a factor that float32 cannot hold.
    """
    scale = init_std * jnp.exp(_bounded(raw[..., :action_dim], 15.0))
    if raw.shape[-1] == action_dim:
        return jnp.hypot(scale, std_floor) if std_floor else scale
    rows, columns = np.tril_indices(action_dim, -1)  # known when compiled: not the device's work
    unit = jnp.zeros((*raw.shape[:-1], action_dim, action_dim), raw.dtype)
    unit = unit.at[..., rows, columns].set(_bounded(raw[..., action_dim:], 30.0))
    unit = unit + jnp.eye(action_dim)
    tril = scale[..., :, None] * unit
    if not std_floor:
        return tril
    return gaussian.diffuse_tril(scale, tril, jnp.ones(()), jnp.asarray(std_floor))


def _bounded(x, bound: float):
    return bound * jnp.tanh(x / bound)


class Gating(nn.Module):
    """log q(z|s): an MLP on the features of the trunk; starts uniform."""

    num_experts: int
    body: nn.Module
    dtype: DType

    @nn.compact
    def __call__(self, features):
        h = self.body(features)
        logits = Dense(self.num_experts, kernel_init=nn.initializers.zeros, name="logits",
                          dtype=self.dtype)(h)
        return nn.log_softmax(wide(logits))


class MixtureOfExperts(nn.Module):
    """q(a|s). See the file's head; every size is documented in `vdd_jax.config_keys`."""

    action_dim: int
    num_experts: int
    covariance: str = "full"
    independent: bool = False
    history: str = "differences"
    fourier: int = 4
    trunk: str = "mlp"
    trunk_width: int = 64
    trunk_depth: int = 2
    heads: int = 4
    attention_dropout: float = 0.0
    dropout: float = 0.0
    head: str = "mlp"
    head_width: int = 64
    head_depth: int = 1
    gating: str = "learned"
    gating_width: int = 64
    gating_depth: int = 2
    activation: str = "mish"
    init_spread: float = 1.0
    init_std: float = 1.0
    std_floor: float = 1e-4
    per_step: bool = False
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, observation, train: bool = False) -> Mixture:
        """Mixture with the batch axes of the observation; with `per_step` (transformer) one for
        every observation of the window, `[..., T]`."""
        if self.trunk == "transformer":
            x = observation
        else:
            x = feature_lib.flat_or_plain(observation, self.history, self.fourier)

        def make_trunk(**kw):
            if self.trunk == "transformer":
                return ContextTransformer(
                    self.trunk_width, self.trunk_depth, self.heads, self.history, self.fourier,
                    self.attention_dropout, self.dropout, self.per_step, self.dtype, **kw,
                )
            return BACKBONES[self.trunk](
                self.trunk_width, self.trunk_depth, self.activation, self.dtype, **kw
            )

        def make_head(**kw):
            return BACKBONES[self.head](
                self.head_width, self.head_depth, self.activation, self.dtype, **kw)

        means, scale_tril, features = Experts(
            self.action_dim, self.num_experts, self.independent, self.covariance == "full",
            make_trunk, make_head, self.init_spread, self.init_std, self.std_floor, self.dtype,
            name="experts",
        )(x, train)
        if self.gating == "uniform":
            log_weights = jnp.full(means.shape[:-1], -jnp.log(float(self.num_experts)))
            return Mixture(log_weights, means, scale_tril)
        # With independent experts there are no shared features: the gating is an MLP of its own.
        body = BACKBONES["mlp"](
            self.gating_width, self.gating_depth, self.activation, self.dtype, parent=None)
        features = jax.lax.stop_gradient(features)
        if isinstance(observation, Context) and self.trunk != "transformer":
            # When to change course is decided by the gating alone: it needs more than what the
            # experts' trunk happens to keep.
            features = jnp.concatenate([features, x], axis=-1)
        log_weights = Gating(self.num_experts, body, self.dtype, name="gating")(features)
        return Mixture(log_weights, means, scale_tril)

    @nn.nowrap
    def apply_one(self, params: dict, observation, expert) -> Mixture:
        """q(a|s, z) of the expert with index `expert`, a scalar: a mixture of one, for which the
        others are not computed. `params` as `apply` is given them."""
        stacked = jax.tree.map(lambda v: jax.lax.dynamic_slice_in_dim(v, expert, 1),
                               params["experts"]["experts"])
        alone = self.clone(num_experts=1, gating="uniform")
        return alone.apply(
            {"params": {"experts": {**params["experts"], "experts": stacked}}}, observation)


def split_expert(params: dict, source, target, shift_source, shift_target) -> dict:
    """Parameters in which expert `target` is a copy of expert `source`, both means shifted.

    Works on the stacked axis Z alone, so for every trunk and head; the gating weight of `source`
    is halved and shared.

    Args:
      params: `{'experts': …, 'gating': …}` of a `MixtureOfExperts`.
      source, target: scalar integers.
      shift_source, shift_target: `[A]`, added to the means everywhere.
    """
    stacked = jax.tree.map(lambda v: v.at[target].set(v[source]), params["experts"]["experts"])
    bias = stacked["mean"]["bias"]
    bias = bias.at[source].add(shift_source).at[target].add(shift_target)
    stacked = {**stacked, "mean": {**stacked["mean"], "bias": bias}}
    params = {**params, "experts": {**params["experts"], "experts": stacked}}
    if "gating" not in params:
        return params
    logits = params["gating"]["logits"]
    half = logits["bias"][source] - jnp.log(2.0)
    logits = {
        "kernel": logits["kernel"].at[:, target].set(logits["kernel"][:, source]),
        "bias": logits["bias"].at[source].set(half).at[target].set(half),
    }
    return {**params, "gating": {**params["gating"], "logits": logits}}
