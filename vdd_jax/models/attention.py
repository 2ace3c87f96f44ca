"""Attention among a few tokens: one sequence, or many behind one prefix.

Policies attend among a dozen tokens of a few heads, which libraries for long texts do not do well.
What is computed is the same everywhere; how, depends on the device: a CPU and a TPU take matrix
products, a CUDA device one kernel for all (`models/short_attention.py`), or, where gradients are
wanted, products and sums of single numbers: a matrix product of six rows leaves it idle.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdd_jax.models import short_attention
from vdd_jax.models.backbones import wide

_NEVER = -1e9  # a logit that leaves no weight
_FEW = 16  # tokens, up to which a CUDA device does without matrix products


def _split(qkv, heads: int):
    """Queries, keys and values in one array `[..., S, 3 D]` → each `[..., S, heads, D/heads]`."""
    return (part.reshape(*part.shape[:-1], heads, -1) for part in jnp.split(qkv, 3, axis=-1))


class Whole(NamedTuple):
    """One sequence."""

    own: jax.Array  # `[..., S, S]` bool, what each token may attend to

    def attend(self, qkv, bias, heads: int, ask: slice, drop, fused: bool = False):
        """`[..., S, 3 D]`, `[3 D]` → `[..., S', D]` of the tokens `ask`; `drop` is for the
        weights. There is no fused way."""
        q, k, v = _split(qkv + bias, heads)
        return _attend(q[..., ask, :, :], k, v, self.own[..., ask, :], drop)

    def asked(self, x, ask: slice):
        """Of tokens `[..., S, D]` those of `ask`."""
        return x[..., ask, :]


class Behind(NamedTuple):
    """A prefix of P tokens and N sequences of S tokens, each as if it alone were behind it: one
    after the other in one array `[..., P + N S, D]`."""

    before: jax.Array  # `[..., P, P]` bool, what each token of the prefix may attend to
    seen: jax.Array  # `[..., N, S, P]` bool, what of it the others may attend to; broadcasts
    own: jax.Array  # `[..., N, S, S]` bool, and of their own sequence; broadcasts

    def attend(self, qkv, bias, heads: int, ask: slice | None, drop, fused: bool = False):
        """`[..., P + N S, 3 D]`, `[3 D]` → `[..., P + N S, D]`, or `[..., N S', D]` of the tokens
        `ask` of each sequence alone; no weights are dropped.

        `fused`: by the kernel, on a CUDA device, where it can be. A compiler does not know how to
        split a kernel over devices: for programs of one device.
        """
        plain = functools.partial(self._plain, heads=heads, ask=ask)
        if not fused or not short_attention.fits(qkv, heads):
            return plain(qkv, bias)

        def by_kernel(qkv, bias):
            out = short_attention.attend(qkv, bias, self._mask(qkv.shape[-2]), heads, _masked)
            return out if ask is None else self.asked(out, ask)

        return jax.lax.platform_dependent(qkv, bias, cuda=by_kernel, default=plain)

    def asked(self, x, ask: slice | None):
        """Of all tokens those of `ask` of each sequence, `[..., N S', D]`; None: all there are."""
        if ask is None:
            return x
        sequences = self._sequences(x[..., self.before.shape[-1]:, :])[..., ask, :]
        return sequences.reshape(*x.shape[:-2], -1, x.shape[-1])

    def _sequences(self, x, axis: int = -2):
        """`[..., N S, …]` → `[..., N, S, …]`; `axis` is that of N S."""
        axis, size = axis % x.ndim, self.own.shape[-1]
        return x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1:])

    def _plain(self, qkv, bias, heads, ask):
        q, k, v = _split(qkv + bias, heads)
        end = self.before.shape[-1]
        before = tuple(part[..., :end, :, :] for part in (q, k, v))
        q, k, v = (self._sequences(part[..., end:, :, :], -3) for part in (q, k, v))
        rows = slice(None) if ask is None else ask
        q, own, seen = q[..., rows, :, :], self.own, self.seen
        own, seen = (m if m.shape[-2] == 1 else m[..., rows, :] for m in (own, seen))
        scale = 1.0 / math.sqrt(q.shape[-1])
        # a prefix is not copied for its N sequences: they are rows of one product with it
        to_before = jnp.einsum("...nihd,...phd->...hnip", q, before[1])
        to_own = (jnp.einsum("...nihd,...njhd->...hnij", q, k) if k.shape[-3] > 1 else
                  jnp.moveaxis(jnp.sum(q * k, axis=-1), -1, -3)[..., None])
        to_before, to_own = (jnp.where(m[..., None, :, :, :], scale * wide(v), _NEVER)
                             for m, v in ((seen, to_before), (own, to_own)))
        # one softmax in two parts, which are never put together
        most = jnp.maximum(jnp.max(to_before, axis=-1), jnp.max(to_own, axis=-1))[..., None]
        to_before, to_own = jnp.exp(to_before - most), jnp.exp(to_own - most)
        total = jnp.sum(to_before, axis=-1) + jnp.sum(to_own, axis=-1)
        to_before, to_own = ((v / total[..., None]).astype(qkv.dtype) for v in (to_before, to_own))
        out = jnp.einsum("...hnip,...phd->...nihd", to_before, before[2])
        out += (jnp.einsum("...hnij,...njhd->...nihd", to_own, v) if v.shape[-3] > 1 else
                jnp.moveaxis(to_own, -4, -2) * v)
        out = out.reshape(*out.shape[:-4], -1, out.shape[-2] * out.shape[-1])
        if ask is not None:
            return out
        return jnp.concatenate([_attend(*before, self.before, lambda v: v), out], axis=-2)

    def _mask(self, rows: int):
        """What each of all tokens may attend to, `[..., P + N S, P + N S]` bool."""
        end, size = self.before.shape[-1], self.own.shape[-1]
        n = (rows - end) // size
        batch = jnp.broadcast_shapes(
            *(m.shape[:-k] for m, k in ((self.before, 2), (self.seen, 3), (self.own, 3))))
        seen = jnp.broadcast_to(self.seen, (*batch, n, size, end)).reshape(*batch, -1, end)
        own = jnp.broadcast_to(self.own, (*batch, n, size, size))
        own = jnp.eye(n, dtype=bool)[:, None, :, None] & own[..., None, :]
        own = own.reshape(*batch, n * size, n * size)
        before = jnp.broadcast_to(self.before, (*batch, end, end))
        nothing = jnp.zeros((*batch, end, n * size), bool)
        return jnp.concatenate([jnp.concatenate([before, nothing], axis=-1),
                                jnp.concatenate([seen, own], axis=-1)], axis=-2)


def _masked(qkv, bias, mask, heads: int):
    """`[..., S, 3 D]`, `[3 D]` → `[..., S, D]`, for the mask `[..., S, S]`."""
    return _attend(*_split(qkv + bias, heads), mask, lambda v: v)


def _attend(q, k, v, mask, drop):
    """softmax(q kᵀ/√d) v: `[..., I, H, d]`, `[..., J, H, d]` twice, `[..., I, J]` →
    `[..., I, H d]`."""
    logits = wide(_contract("...ihd,...jhd->...hij", q, k))
    logits = jnp.where(mask[..., None, :, :], logits / math.sqrt(q.shape[-1]), _NEVER)
    weights = drop(jax.nn.softmax(logits, axis=-1).astype(v.dtype))
    out = _contract("...hij,...jhd->...ihd", weights, v)
    return out.reshape(*out.shape[:-2], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _contract(axes: str, a, b):
    """`jnp.einsum(axes, a, b)` among a few tokens; every axis is in two of the three arrays."""
    first, second = axes.replace("...", "").partition("->")[0].split(",")
    sizes = dict(zip(first[::-1] + second[::-1], a.shape[-3:][::-1] + b.shape[-3:][::-1],
                     strict=True))
    if max(sizes["i"], sizes["j"]) > _FEW:
        return jnp.einsum(axes, a, b)
    return jax.lax.platform_dependent(
        a, b, cuda=functools.partial(_by_sums, axes), default=functools.partial(jnp.einsum, axes))


def _by_sums(axes: str, a, b):
    """The same without a matrix product."""
    first, second, out = axes.replace("...", "").replace("->", ",").split(",")
    order = "ijhd"

    def spread(x, names):
        batch = x.ndim - len(names)
        x = jnp.moveaxis(x, range(batch, x.ndim),
                         [batch + sorted(names, key=order.index).index(n) for n in names])
        return jnp.expand_dims(wide(x), [
            x.ndim - len(names) + i for i, n in enumerate(order) if n not in names])

    product = spread(a, first) * spread(b, second)
    batch = product.ndim - len(order)
    gone = next(n for n in order if n not in out)
    total = jnp.sum(product, axis=batch + order.index(gone))
    left = [n for n in order if n != gone]
    return jnp.moveaxis(total, [batch + left.index(n) for n in out],
                        range(batch, batch + len(out))).astype(a.dtype)


def _contract_forward(axes, a, b):
    return _contract(axes, a, b), (a, b)


def _contract_backward(axes, kept, cotangent):
    (a, b), (first, second, out) = kept, axes.replace("->", ",").split(",")
    return (_contract(f"{out},{second}->{first}", cotangent, b),
            _contract(f"{out},{first}->{second}", cotangent, a))


_contract.defvjp(_contract_forward, _contract_backward)
