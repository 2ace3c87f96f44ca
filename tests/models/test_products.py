"""Products in bfloat16 and with kernels in strips: as JAX makes them, whatever a CPU has for
them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.models import products
from vdd_jax.models.backbones import ResidualMLP
from vdd_jax.models.products import Dense, add_bias, has_such_products, matmul

BFLOAT16 = jnp.bfloat16


def _given(*shape, seed=0):
    return jax.random.normal(jax.random.fold_in(jax.random.key(seed), len(shape)), shape, BFLOAT16)


def _exact(x, kernel):
    return np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)


def _close(found, exact):
    assert found.dtype == BFLOAT16
    scale = np.abs(exact).max(initial=1e-30)
    np.testing.assert_allclose(np.asarray(found, np.float64) / scale, exact / scale, atol=2**-8)


@pytest.mark.parametrize("shape", [(48,), (1, 48), (6, 48), (3, 5, 48), (0, 48)])
@pytest.mark.parametrize("n", [1, 7, 64])
def test_sum_of_products(shape, n):
    x, kernel = _given(*shape), _given(48, n, seed=1)
    _close(jax.jit(matmul)(x, kernel), _exact(x, kernel))
    _close(jax.jit(lambda x: matmul(x, kernel))(x), _exact(x, kernel))  # known when compiled


@pytest.mark.parametrize("shape", [(48,), (6, 48), (3, 5, 48), (0, 48)])
def test_derivatives(shape):
    x, kernel, bias = _given(*shape), _given(48, 7, seed=1), _given(7, seed=2)
    y, pull_back = jax.vjp(jax.jit(lambda *g: add_bias(matmul(*g[:2]), g[2])), x, kernel, bias)
    cotangent = _given(*y.shape, seed=3)
    of_x, of_kernel, of_bias = pull_back(cotangent)
    rows, of_rows = np.asarray(x).reshape(-1, 48), np.asarray(cotangent).reshape(-1, 7)
    _close(of_x, _exact(cotangent, np.asarray(kernel).T))
    _close(of_kernel, _exact(rows.T, of_rows))
    _close(of_bias, of_rows.astype(np.float64).sum(0))


def test_products_add_up_in_float32():
    """Forwards, for both factors and for the bias; of bfloat16 arrays, which matrix units want."""
    x, kernel, bias = _given(6, 48), _given(48, 7, seed=1), _given(7, seed=2)

    def loss(x, kernel, bias):
        return jnp.sum(jnp.tanh(add_bias(matmul(x, kernel), bias)))

    program = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(x, kernel, bias)
    types = [([v.aval.dtype for v in eqn.invars], eqn.outvars[0].aval.dtype)
             for eqn in program.eqns if eqn.primitive.name == "dot_general"]
    assert types == [([BFLOAT16] * 2, jnp.float32)] * 3
    # the forward one is in the equation of `_product`
    assert str(program).count("preferred_element_type=float32") == 4


@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None), (1, 2)])
def test_many_kernels_at_once(axes):
    """As experts have them, whatever the order of their axes: gradients too."""
    x, kernel = _given(6, 48), _given(48, 7, seed=1)
    many = [v if axis is None else jnp.stack([v, -v, 2 * v], axis)
            for v, axis in zip((x, kernel), axes, strict=True)]

    def loss(product, x, kernel):
        return jnp.sum(jnp.tanh(jax.vmap(product, axes)(x, kernel)).astype(jnp.float32) ** 2)

    found = jax.jit(jax.grad(lambda *g: loss(matmul, *g), (0, 1)))(*many)
    wide = [v.astype(jnp.float32) for v in many]
    exact = jax.grad(lambda *g: loss(jnp.matmul, *g), (0, 1))(*wide)
    for one, other in zip(found, exact, strict=True):
        scale = float(jnp.abs(other).max())
        np.testing.assert_allclose(one.astype(jnp.float32) / scale, other / scale, atol=0.03)


def test_whatever_the_first_factor_was_made_of():
    """XLA folds a transposition into a product that it had found fit without."""
    x, kernel = _given(48, 6), _given(48, 7, seed=1)
    for first in (lambda x: x.T, lambda x: jnp.where(x.T > 0, x.T, 0), lambda x: jnp.tanh(x).T):
        _close(jax.jit(lambda x, w, first=first: matmul(first(x), w))(x, kernel),
               _exact(first(x), kernel))


def test_other_types_are_left_alone():
    x, kernel = _given(6, 48).astype(jnp.float32), _given(48, 7, seed=1).astype(jnp.float32)
    assert str(jax.make_jaxpr(matmul)(x, kernel)) == str(jax.make_jaxpr(jnp.matmul)(x, kernel))
    assert "custom_vjp" not in str(jax.make_jaxpr(add_bias)(x @ kernel, kernel[0]))


def test_layer_is_that_of_flax():
    import flax.linen as nn

    x = _given(6, 48).astype(jnp.float32)
    for use_bias in (True, False):
        ours, flax = Dense(7, use_bias), nn.Dense(7, use_bias)
        params = ours.init(jax.random.key(0), x)
        same = jax.tree.map(np.array_equal, params, flax.init(jax.random.key(0), x))
        assert all(jax.tree.leaves(same))
        np.testing.assert_array_equal(ours.apply(params, x), flax.apply(params, x))


def test_network_learns_the_same(monkeypatch):
    """Gradients of a network by these products are those by JAX's, within bfloat16."""
    net = ResidualMLP(64, 2, dtype=BFLOAT16)
    x = jax.random.normal(jax.random.key(0), (32, 8))
    params = net.init(jax.random.key(1), x)

    def gradients():
        return jax.jit(jax.grad(
            lambda p: jnp.mean(net.apply(p, x).astype(jnp.float32) ** 2)))(params)

    found = gradients()
    monkeypatch.setattr(products, "has_such_products", lambda: False)
    for ours, jaxs in zip(*map(jax.tree.leaves, (found, gradients())), strict=True):
        np.testing.assert_allclose(ours, jaxs, atol=0.02 * float(jnp.abs(jaxs).max()))


def test_where_xla_refuses_they_are_jaxs(monkeypatch):
    assert has_such_products()

    def refuses(*_):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: Unsupported element type for DotThunk")

    monkeypatch.setattr(products, "_sums", refuses)
    assert not has_such_products.__wrapped__()
    monkeypatch.setattr(products, "has_such_products", lambda: False)
    x, kernel = _given(6, 48), _given(48, 7, seed=1)
    anew = jax.make_jaxpr(lambda x, kernel: matmul(x, kernel))  # not as traced before
    assert str(anew(x, kernel)) == str(jax.make_jaxpr(jnp.matmul)(x, kernel))


@pytest.mark.parametrize("dtype, digits", [(jnp.float32, 2**-22), (BFLOAT16, 2**-8)])
@pytest.mark.parametrize("shape", [(64,), (1, 64), (6, 64), (2, 3, 64), (40, 64), (0, 64)])
def test_kernels_in_strips(shape, dtype, digits):
    """The layer is the same, of few rows and of many; strips are columns in one piece."""
    layer = Dense(48, bias_init=nn.initializers.normal(), dtype=dtype)
    x = jax.random.normal(jax.random.key(1), shape)
    params = layer.init(jax.random.key(0), x)["params"]
    strips = products.in_strips(params)
    assert set(strips) == {"strips", "bias"} and strips["strips"].shape == (3, 64, 16)
    np.testing.assert_array_equal(strips["strips"][1], params["kernel"][:, 16:32])
    expected, found = (jax.jit(layer.apply)({"params": p}, x) for p in (params, strips))
    assert found.dtype == dtype and found.shape == (*shape[:-1], 48)
    expected, found = (np.asarray(v, np.float64) for v in (expected, found))
    np.testing.assert_allclose(found, expected, atol=digits * np.abs(expected).max(initial=1))


def test_a_product_of_strips_is_one_of_strips_where_rows_are_few():
    """And where they are many, one of the whole kernel."""
    strips = jnp.zeros((3, 64, 16))

    def products_of(rows):
        jaxpr = jax.make_jaxpr(matmul)(jnp.zeros((rows, 64)), strips).jaxpr
        return [e.outvars[0].aval.shape for e in jaxpr.eqns if e.primitive.name == "dot_general"]

    assert products_of(products.FEW) == [(3, products.FEW, 16)]
    assert products_of(products.FEW + 1) == [(products.FEW + 1, 48)]


def test_what_has_no_strips_stays():
    """Kernels of other widths, those stacked by expert or of convolutions, and all else."""
    params = {"narrow": {"kernel": jnp.ones((64, 9))}, "experts": {"kernel": jnp.ones((4, 64, 48))},
              "convolution": {"kernel": jnp.ones((3, 3, 3, 16))}, "positions": jnp.ones((5, 16))}
    found = products.in_strips(params)
    jax.tree.map(np.testing.assert_array_equal, found, params)
