"""Keys for dropout: another generator, the same information."""

import jax
import numpy as np

from vdd_jax.core import keys


def test_on_a_cpu_threefry_stays():
    key = jax.random.key(3)
    assert jax.default_backend() == "cpu" and keys.for_dropout(key) is key


def test_a_key_for_dropout_is_of_xlas_generator_and_differs_with_the_key(monkeypatch):
    """Seeded as JAX seeds such keys: twice the two words; masks of two keys differ."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    one, other = (jax.random.key(seed) for seed in (1, 2))
    made = keys.for_dropout(one)
    assert jax.random.key_impl(made) == jax.random.key_impl(jax.random.key(0, impl="rbg"))
    np.testing.assert_array_equal(
        jax.random.key_data(made), jax.random.key_data(jax.random.key(1, impl="rbg")))
    masks = [jax.random.bernoulli(keys.for_dropout(k), 0.5, (1_000,)) for k in (one, other)]
    assert 400 < int((masks[0] != masks[1]).sum()) < 600
    np.testing.assert_array_equal(masks[0], jax.random.bernoulli(made, 0.5, (1_000,)))


def test_keys_of_another_generator_stay(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    key = jax.random.key(3, impl="unsafe_rbg")
    assert keys.for_dropout(key) is key
