"""Every way of attending is the same function: products, sums, the kernel, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cuda_program import lowered_for

from vdd_jax.models import attention, short_attention
from vdd_jax.models.attention import Behind, Whole

B, P, N, S, HEADS, SIZE = 2, 3, 4, 2, 3, 5
ROWS = P + N * S
RNG = np.random.default_rng(0)
BIAS = RNG.normal(size=3 * HEADS * SIZE).astype(np.float32)
QKV = RNG.normal(size=(B, ROWS, 3 * HEADS * SIZE)).astype(np.float32)
BEHIND = Behind(np.tri(P, dtype=bool)[None], RNG.random((B, N, S, P)) < 0.6,
                np.broadcast_to(np.tri(S, dtype=bool), (B, N, S, S)))
AXES = ("...ihd,...jhd->...hij", "...hij,...jhd->...ihd")


def keep(weights):
    return weights


def by_hand(qkv, mask):
    """One sequence `[S, 3 D]` in float64."""
    parts = np.split(qkv.astype(float) + BIAS, 3, axis=-1)
    q, k, v = (part.reshape(len(qkv), HEADS, -1) for part in parts)
    out = np.zeros_like(v)
    for head in range(HEADS):
        logits = np.where(mask, q[:, head] @ k[:, head].T / np.sqrt(q.shape[-1]), -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, head]
    return out.reshape(len(qkv), -1)


def masks():
    """Of all rows, put together by hand."""
    mask = np.zeros((B, ROWS, ROWS), bool)
    mask[:, :P, :P] = BEHIND.before
    for n in range(N):
        rows = slice(P + n * S, P + (n + 1) * S)
        mask[:, rows, :P] = BEHIND.seen[:, n]
        mask[:, rows, rows] = BEHIND.own[:, n]
    return mask


def test_whole_by_hand():
    mask = RNG.random((B, ROWS, ROWS)) < 0.5
    mask |= np.eye(ROWS, dtype=bool)
    found = Whole(mask).attend(QKV, BIAS, HEADS, slice(None), keep)
    some = Whole(mask).attend(QKV, BIAS, HEADS, slice(1, None, 3), keep)
    for b in range(B):
        expected = by_hand(QKV[b], mask[b])
        np.testing.assert_allclose(found[b], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(some[b], expected[1::3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2])
def test_behind_by_hand(size):
    """Sequences of one token take another way; `ask` is within each sequence."""
    rows = P + N * size
    sight = Behind(BEHIND.before, BEHIND.seen[:, :, :size], BEHIND.own[..., :size, :size])
    found = sight.attend(QKV[:, :rows], BIAS, HEADS, None, keep)
    last = sight.attend(QKV[:, :rows], BIAS, HEADS, slice(-1, None), keep)
    mask = np.asarray(sight._mask(rows))
    assert last.shape == (B, N, HEADS * SIZE)
    for b in range(B):
        expected = by_hand(QKV[b, :rows], mask[b])
        np.testing.assert_allclose(found[b], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(last[b], expected[P + size - 1::size], rtol=1e-4, atol=1e-5)


def test_the_mask_of_all_rows():
    np.testing.assert_array_equal(np.broadcast_to(BEHIND._mask(ROWS), masks().shape), masks())


@pytest.mark.parametrize("heads", [3, 1])
def test_the_kernel_is_the_same_function(heads):
    """In Pallas's interpreter; no row or column beyond the last is read or written."""
    qkv, mask = jnp.asarray(QKV, jnp.bfloat16), jnp.asarray(masks())
    bias = jnp.asarray(BIAS, jnp.bfloat16)
    plain = attention._masked(qkv, bias, mask, heads)
    found = short_attention.attend(qkv, bias, mask, heads, attention._masked, True)
    assert found.shape == plain.shape and found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), plain.astype(np.float32), atol=0.03)
    assert np.abs(np.asarray(found, np.float32)).max() > 0.5

    weights = RNG.normal(size=plain.shape)
    gradient, expected = (
        jax.grad(lambda qkv, attend=attend: jnp.sum(attend(qkv) * weights))(qkv) for attend in (
            lambda qkv: short_attention.attend(qkv, bias, mask, heads, attention._masked, True),
            lambda qkv: attention._masked(qkv, bias, mask, heads)))
    np.testing.assert_array_equal(gradient, expected)


def test_the_kernel_becomes_a_cuda_program_and_no_other_device_sees_it():
    qkv, bias = jnp.asarray(QKV, jnp.bfloat16), jnp.asarray(BIAS, jnp.bfloat16)
    def program(platform, fused):
        traced = jax.jit(lambda qkv: BEHIND.attend(qkv, bias, HEADS, None, keep, fused)).trace(qkv)
        return lowered_for(traced, platform)

    assert "triton" in program("cuda", True)
    assert "triton" not in program("cpu", True) + program("cuda", False)


@pytest.mark.parametrize(("shape", "dtype", "fits"), [
    ((2, 64, 3 * 64), jnp.bfloat16, True), ((2, 65, 3 * 64), jnp.bfloat16, False),
    ((2, 64, 3 * 65), jnp.bfloat16, False), ((2, 64, 3 * 64), jnp.float32, False),
    ((64, 3 * 64), jnp.bfloat16, False)])
def test_what_fits_the_kernel(shape, dtype, fits):
    assert short_attention.fits(jnp.zeros(shape, dtype), 1) is fits


@pytest.mark.parametrize("axes", AXES)
def test_sums_equal_products_and_so_do_their_gradients(axes):
    q = RNG.normal(size=(B, 4, HEADS, SIZE)).astype(np.float32)
    k = RNG.normal(size=(B, 6, HEADS, SIZE)).astype(np.float32)
    a = q if axes == AXES[0] else RNG.normal(size=(B, HEADS, 4, 6)).astype(np.float32)
    expected = jnp.einsum(axes, a, k)
    np.testing.assert_allclose(attention._by_sums(axes, a, k), expected, rtol=1e-5, atol=1e-5)
    cotangent = RNG.normal(size=expected.shape).astype(np.float32)
    first, second, out = axes.replace("->", ",").split(",")
    for found, (mine, spec, other) in zip(
            jax.vjp(lambda a, k: jnp.einsum(axes, a, k), a, k)[1](cotangent),
            [(a, f"{out},{second}->{first}", k), (k, f"{out},{first}->{second}", a)], strict=True):
        np.testing.assert_allclose(attention._by_sums(spec, cotangent, other), found, rtol=1e-4,
                                   atol=1e-5)
        assert found.shape == mine.shape
    for found, expected in zip(
            jax.vjp(lambda a, k: attention._contract(axes, a, k), a, k)[1](cotangent),
            jax.vjp(lambda a, k: jnp.einsum(axes, a, k), a, k)[1](cotangent), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_pallas_for_triton_there_is_the_plain_way(monkeypatch):
    """A later JAX will not have it."""
    monkeypatch.setattr(short_attention, "triton", None)
    qkv, bias = jnp.asarray(QKV, jnp.bfloat16), jnp.asarray(BIAS, jnp.bfloat16)
    traced = jax.jit(lambda qkv: BEHIND.attend(qkv, bias, HEADS, None, keep, True)).trace(qkv)
    assert "triton" not in lowered_for(traced, "cuda")
