"""Linear layers, and their products on a CPU: in bfloat16, and of few rows with many weights.

XLA makes products of bfloat16 on a CPU by products of float32, or (since jaxlib 0.11, small ones)
in a loop that adds up in bfloat16, unless they are asked to add up in float32 and the first factor
lies row by row in memory: then a CPU with matrix units for bfloat16 (AMX, Xeons since 2023) makes
them with these, several times as fast (measured: experiments/results/speed.md), and others add up
in float32. JAX's own derivatives of such a product are products of float32 again, so they are
written down here, for reverse mode alone: `jax.jvp` of such a layer is refused. Elsewhere, and in
every other type, a layer's product is JAX's own. A GPU adds up in float32 whatever it is told.

A product of a few rows is above all the reading of its weights. Where they come from memory XLA
takes about half the time if they are not one matrix but strips of its columns, each in one piece
(`in_strips`; measured: the same file).
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike as DType

__all__ = ["Dense", "add_bias", "in_strips", "kernel_of", "matmul"]

COLUMNS = 16  # C, of a strip; others are slower, 48 and more as slow as the whole kernel
FEW = 24  # rows, up to which strips are faster


class Dense(nn.Module):
    """`flax.linen.Dense` of the products below: `[..., K]` → `[..., features]`."""

    features: int
    use_bias: bool = True
    dtype: DType = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x):
        kernel = kernel_of(self, self.kernel_init, (x.shape[-1], self.features))
        y = matmul(x.astype(self.dtype), kernel.astype(self.dtype))
        if not self.use_bias:
            return y
        bias = self.param("bias", self.bias_init, (self.features,))
        return add_bias(y, bias.astype(self.dtype))


def kernel_of(layer: nn.Module, init: Callable, shape: tuple[int, int]):
    """The kernel `[K, N]` of a layer, or its strips `[N / C, K, C]` where it was given those."""
    if layer.has_variable("params", "strips"):
        return layer.get_variable("params", "strips")
    return layer.param("kernel", init, shape)


def in_strips(params: dict) -> dict:
    """Parameters for products of few rows on a CPU: kernels `[K, N]` as strips `[N / C, K, C]` of
    columns, where C divides N. The layers of this library take them; nothing else does."""
    def layer(path, value):
        if path[-1] != "kernel" or value.ndim != 2 or value.shape[1] % COLUMNS:
            return path, value
        strips = jnp.moveaxis(value.reshape(len(value), -1, COLUMNS), 1, 0)
        return (*path[:-1], "strips"), strips

    return unflatten_dict(dict(layer(*entry) for entry in flatten_dict(params).items()))


def matmul(x, kernel):
    """x `[..., K]` times kernel `[K, N]`, or that of strips `[N / C, K, C]`."""
    if kernel.ndim == 3:
        strips, k, columns = kernel.shape
        rows = x.reshape(math.prod(x.shape[:-1]), k)
        if len(rows) <= FEW and x.dtype == jnp.float32:
            y = lax.dot_general(jnp.broadcast_to(rows, (strips, *rows.shape)), kernel,
                                (((2,), (1,)), ((0,), (0,))))
            return jnp.moveaxis(y, 0, 1).reshape(*x.shape[:-1], strips * columns)
        kernel = jnp.moveaxis(kernel, 0, 1).reshape(k, strips * columns)
    return _product(x, kernel) if _written_down(x.dtype) else x @ kernel


def add_bias(x, bias):
    """x `[..., N]` plus bias `[N]`."""
    return _biased(x, bias) if _written_down(x.dtype) else x + bias


def _written_down(dtype) -> bool:
    return dtype == jnp.bfloat16 and jax.default_backend() == "cpu" and has_such_products()


@functools.cache
def has_such_products() -> bool:
    """Whether this XLA makes products of bfloat16 that add up in float32 on this CPU."""
    x = np.ones((2, 32), jnp.bfloat16)
    try:  # compiled ahead of time, so that it runs while something else is traced
        program = jax.jit(lambda x: _sums(x, x.T, 0)).lower(x).compile()
        return bool(np.all(np.asarray(program(x)) == 32))
    except jax.errors.JaxRuntimeError:
        return False


def _sums(a, b, axis: int):
    """Sum over the last axis of `a` and `axis` of `b`, in float32, of their products."""
    # XLA decides first and may fold a transposition into the product afterwards, which then fails
    # when it runs ("Unsupported element type for DotThunk"): so the layout is said
    a = with_layout_constraint(a, Layout(tuple(range(a.ndim))))
    sums = lax.dot_general(a, b, (((a.ndim - 1,), (axis,)), ((), ())),
                           preferred_element_type=jnp.float32)
    return sums.astype(a.dtype)


@jax.custom_vjp
def _product(x, kernel):
    return _sums(x, kernel, 0)


def _product_forwards(x, kernel):
    return _product(x, kernel), (x, kernel)


def _product_backwards(given, cotangent):
    x, kernel = given
    (k, n), rows = kernel.shape, math.prod(x.shape[:-1])
    of_kernel = _sums(x.reshape(rows, k).T, cotangent.reshape(rows, n), 0)
    return _sums(cotangent, kernel, 1), of_kernel


_product.defvjp(_product_forwards, _product_backwards)


@jax.custom_vjp
def _biased(x, bias):
    return x + bias


def _biased_backwards(_, cotangent):
    # a sum over rows of bfloat16 takes XLA as long as several such products
    rows, n = math.prod(cotangent.shape[:-1]), cotangent.shape[-1]
    ones = jnp.ones((1, rows), cotangent.dtype)
    return cotangent, _sums(ones, cotangent.reshape(rows, n), 0)[0]


_biased.defvjp(lambda x, bias: (x + bias, None), _biased_backwards)
