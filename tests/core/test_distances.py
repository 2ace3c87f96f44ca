"""Distances of samples: cases in which they are known, and others' implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.spatial

from vdd_jax.core.distances import BANDWIDTHS, mmd, sliced_wasserstein

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


# ---- maximum mean discrepancy


def test_mmd_by_its_definition():
    """Every pair of samples by hand, at two states, of unequal numbers of samples."""
    x, y = samples(4, 2, 3), 0.5 + samples(5, 2, 3)
    found = mmd(x, y)
    assert found.shape == (2,)
    for state in range(2):
        a, b = x[:, state].astype(np.float64), y[:, state].astype(np.float64)
        median = np.median(scipy.spatial.distance.pdist(b))

        def kernel(u, v, median=median):
            squared = scipy.spatial.distance.cdist(u, v, "sqeuclidean")
            return np.mean([np.exp(-squared / (2 * (c * median) ** 2)) for c in BANDWIDTHS], 0)

        within = [(k.sum() - np.trace(k)) / (n * (n - 1)) for k, n in (
            (kernel(a, a), 4), (kernel(b, b), 5))]
        np.testing.assert_allclose(found[state], sum(within) - 2 * kernel(a, b).mean(), atol=1e-6)


def test_mmd_is_0_on_average_for_one_law():
    """Unbiased with ten samples already: some states are below 0, their mean is not off."""
    found = np.asarray(mmd(samples(10, 3_000, 2), samples(10, 3_000, 2)))
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(3_000) < 0.01
    assert 0.2 < np.mean(found < 0) < 0.8


def gaussian_mmd(mean, s, t, width, dim):
    """Of N(0, s² I) and N(m, t² I): E k = (h²/(h² + v))^(A/2) exp(−|m|²/(2 (h² + v))), v the
    variance of the difference of two samples."""
    def expected(v, squared):
        return (width**2 / (width**2 + v)) ** (dim / 2) * np.exp(-squared / 2 / (width**2 + v))

    return (expected(2 * s**2, 0.0) + expected(2 * t**2, 0.0)
            - 2 * expected(s**2 + t**2, mean @ mean))


def test_mmd_of_two_gaussians_in_closed_form():
    """One kernel of a given width, and the mean of two."""
    mean, s, t = np.array([0.6, -0.3], np.float32), 0.7, 1.2
    x, y = s * samples(100, 200, 2), mean + t * samples(100, 200, 2)
    exact = {width: gaussian_mmd(mean, s, t, width, 2) for width in (0.5, 1.5)}
    assert min(exact.values()) > 0.05
    for width in exact:
        np.testing.assert_allclose(np.mean(mmd(x, y, (width,))), exact[width], atol=0.004)
    np.testing.assert_allclose(
        np.mean(mmd(x, y, (0.5, 1.5))), np.mean(list(exact.values())), atol=0.004)


def test_mmd_grows_with_a_shift_and_has_no_unit():
    """Ever farther, up to the most, and the same in other units and in any order."""
    x, y = samples(60, 4, 2), samples(60, 4, 2)
    shifts = [np.asarray(mmd(x + d, y)) for d in (0.0, 0.3, 1.0, 3.0, 100.0)]
    assert np.all(np.diff(shifts, axis=0) > 0)
    assert np.all(shifts[-1] < 2) and np.all(shifts[-1] > 0.8)
    np.testing.assert_allclose(mmd(5 * x + 5, 5 * y), shifts[2], atol=1e-5)
    order = RNG.permutation(60)
    np.testing.assert_allclose(mmd(x[order] + 1, y[order[::-1]]), shifts[2], atol=1e-5)


def test_mmd_to_a_single_point():
    """A reference without spread has no bandwidth: equal samples are at 0, others are not."""
    point = np.ones((8, 1, 2), np.float32)
    np.testing.assert_allclose(mmd(point, point), 0.0, atol=1e-6)
    np.testing.assert_allclose(mmd(point + 0.1, point), 2.0, atol=1e-6)
