"""Sliced Wasserstein: cases whose distance is known, and scipy's in one dimension."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.spatial

from vdd_jax.core.distances import sliced_wasserstein

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def samples(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_the_same_samples_in_another_order_are_at_distance_0():
    """Sets, not sequences: each state's own samples shuffled on their own."""
    x = samples(50, 3, 2)
    y = np.stack([RNG.permutation(x[:, i]) for i in range(3)], axis=1)
    np.testing.assert_allclose(sliced_wasserstein(x, y, KEY), np.zeros(3), atol=1e-5)
    other = np.concatenate([x[:, 1:], x[:, :1]], axis=1)  # of another state
    assert np.all(np.asarray(sliced_wasserstein(x, other, KEY)) > 0.05)


def test_a_translation_of_each_state_by_its_own_vector():
    """E over directions of (u·d)² is |d|²/A: the distance is |d|/√A."""
    x = samples(20, 3, 2)
    d = np.array([[3.0, 4.0], [0.0, 0.0], [-1.0, 0.0]], np.float32)
    found = sliced_wasserstein(x, x + d, KEY, projections=4_000)
    np.testing.assert_allclose(found, np.array([5.0, 0.0, 1.0]) / np.sqrt(2), rtol=0.05, atol=1e-5)


def test_one_dimension_is_the_exact_transport():
    """A = 1: the Wasserstein-2 distance by optimal assignment, for any key."""
    x, y = samples(30, 1), 0.3 + 2 * samples(30, 1)
    cost = scipy.spatial.distance.cdist(x, y, "sqeuclidean")
    exact = np.sqrt(cost[scipy.optimize.linear_sum_assignment(cost)].mean())
    for seed in (0, 1):
        np.testing.assert_allclose(
            sliced_wasserstein(x, y, jax.random.key(seed)), exact, rtol=1e-4)


def test_symmetric_and_in_the_units_of_the_samples():
    """Exchanging the sets changes nothing; twice the samples, twice the distance."""
    x, y = samples(40, 2, 3), samples(40, 2, 3) + 1
    found = sliced_wasserstein(x, y, KEY)
    np.testing.assert_allclose(sliced_wasserstein(y, x, KEY), found, rtol=1e-6)
    np.testing.assert_allclose(sliced_wasserstein(2 * x, 2 * y, KEY), 2 * found, rtol=1e-5)
    assert found.shape == (2,) and np.all(np.asarray(found) > 0.3)


def test_two_gaussians_of_other_spread():
    """W₂ of N(0, 1) and N(0, s²) is |s − 1| in every direction."""
    x, y = samples(4_000, 2), 1.5 * samples(4_000, 2)
    np.testing.assert_allclose(jnp.asarray(sliced_wasserstein(x, y, KEY)), 0.5, atol=0.05)
