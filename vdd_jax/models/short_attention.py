"""Attention among up to 64 tokens in one CUDA kernel, forwards, for layers in bfloat16.

All that a program instance reads of a sequence, it reads once: no transposed copies of queries,
keys and values, no weights in memory, which together take several times as long as this.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

try:  # deprecated since JAX 0.12, to be removed: without it there is the plain way
    from jax.experimental.pallas import triton
except ImportError:
    triton = None

_TILE = 64  # rows and columns of a head that an instance holds


def fits(qkv: jax.Array, heads: int) -> bool:
    """Whether queries, keys and values `[..., S, 3 D]` are such that the kernel can take them."""
    *batch, rows, width = qkv.shape
    return (triton is not None and bool(batch) and qkv.dtype == jnp.bfloat16
            and max(rows, width // 3 // heads) <= _TILE)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def attend(qkv: jax.Array, bias: jax.Array, mask: jax.Array, heads: int, plain,
           interpret: bool = False):
    """`[..., S, 3 D]` and a bias `[3 D]` of all rows → `[..., S, D]` for the mask `[..., S, S]`
    bool, which broadcasts.

    Args:
      plain: (qkv, bias, mask, heads) → the same, differentiable; derivatives are taken from it.
      interpret: run by the interpreter of Pallas, on any device (for tests).
    """
    *batch, rows, width = qkv.shape
    mask = jnp.broadcast_to(mask, (*batch, rows, rows)).reshape(-1, rows, rows)
    kernel = functools.partial(_one_sequence, heads=heads, size=width // 3 // heads, rows=rows)

    def block(*shape):
        return pl.BlockSpec((None, *shape), lambda i: (i, 0, 0))

    out = pl.pallas_call(
        kernel, grid=(len(mask),),
        in_specs=[block(rows, width), pl.BlockSpec((width,), lambda i: (0,)), block(rows, rows)],
        out_specs=block(rows, width // 3),
        out_shape=jax.ShapeDtypeStruct((len(mask), rows, width // 3), qkv.dtype),
        compiler_params=None if interpret else triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
    )(qkv.reshape(-1, rows, width), bias.astype(qkv.dtype), mask.astype(jnp.int8))
    return out.reshape(*batch, rows, width // 3)


@attend.defjvp
def _attend_jvp(heads, plain, interpret, primals, tangents):
    return jax.jvp(lambda *given: plain(*given, primals[2], heads), primals[:2], tangents[:2])


def _one_sequence(qkv, bias, mask, out, *, heads: int, size: int, rows: int):
    """References `[S, 3 D]`, `[3 D]`, `[S, S]`, `[S, D]`; one head after the other."""
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (_TILE, _TILE), i) for i in (0, 1))
    inside = (row < rows) & (column < size)
    seen = triton.load(mask.at[row, column], mask=(row < rows) & (column < rows), other=0)
    for head in range(heads):
        columns = [column + (part * heads + head) * size for part in range(3)]
        q, k, v = (triton.load(qkv.at[row, here], mask=inside, other=0.0)
                   + triton.load(bias.at[here], mask=inside, other=0.0) for here in columns)
        logits = jnp.where(seen != 0, triton.dot(q, k.T) * size**-0.5, -1e9)
        weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
        weights = weights / jnp.sum(weights, axis=1, keepdims=True)
        found = triton.dot(weights.astype(v.dtype), v)
        triton.store(out.at[row, column + head * size], found.astype(out.dtype), mask=inside)
