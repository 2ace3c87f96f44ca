"""Trunks against NumPy; activations are what their names say."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from vdd_jax.models.backbones import ACTIVATIONS, BACKBONES, MLP, ResidualMLP, at_least_one_number

FORMULAS = {
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * scipy.special.expit(x),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_what_their_names_say(name):
    """Mish is mish and no PReLU, tanh is tanh and no sigmoid (METHOD 4.6)."""
    x = np.linspace(-4, 4, 33)
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x, jnp.float32)), FORMULAS[name](x),
                               atol=2e-6)


def random_params(module, size, seed=0):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, size))))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.5, jnp.float32), shapes)


def dense(params, i, x):
    layer = params["params"][f"Dense_{i}"]
    return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def test_mlp_by_hand():
    """An activation after every layer, the last one too."""
    module = MLP(5, 2, "silu")
    params, x = random_params(module, 3), np.random.default_rng(1).normal(size=(4, 3))
    act = FORMULAS["silu"]
    expected = act(dense(params, 1, act(dense(params, 0, x))))
    np.testing.assert_allclose(module.apply(params, jnp.asarray(x, jnp.float32)), expected,
                               rtol=1e-4, atol=1e-5)


def test_residual_mlp_by_hand():
    """Embedding, then x + W act(W act(x)) for each block, then an activation."""
    module = ResidualMLP(5, 2, "tanh")
    params, x = random_params(module, 3), np.random.default_rng(1).normal(size=(4, 3))
    h = dense(params, 0, x)
    for block in range(2):
        h = h + dense(params, 2 * block + 2, np.tanh(dense(params, 2 * block + 1, np.tanh(h))))
    np.testing.assert_allclose(module.apply(params, jnp.asarray(x, jnp.float32)), np.tanh(h),
                               rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_depth_0_is_the_identity(name):
    """No layers, no parameters, no activation."""
    module, x = BACKBONES[name](5, 0), jnp.array([[-1.0, 2.0]])
    variables = module.init(jax.random.key(0), x)
    assert not jax.tree.leaves(variables)
    np.testing.assert_array_equal(module.apply(variables, x), x)


def test_an_observation_of_size_0_becomes_a_constant():
    """Layers get an input; real observations pass unchanged."""
    np.testing.assert_array_equal(at_least_one_number(jnp.zeros((3, 0))), np.ones((3, 1)))
    x = jnp.array([[1.0, 2.0]])
    np.testing.assert_array_equal(at_least_one_number(x), x)
