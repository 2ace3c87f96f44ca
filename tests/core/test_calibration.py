"""Highest-density regions: one-dimensional Gaussians, whose regions are intervals."""

import numpy as np
import pytest
import scipy.stats

from vdd_jax.core.calibration import hdr_coverage

LEVELS = (0.5, 0.8, 0.95)


def coverage(mean, std, num=500, states=200, seed=0):
    """Of q = N(0, 1) by samples of N(mean, std²)."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(num, states))
    other = mean + std * rng.normal(size=(num + 50, states))
    log_q = scipy.stats.norm.logpdf
    return np.asarray(hdr_coverage(
        log_q(own).astype(np.float32), log_q(other).astype(np.float32), LEVELS))


def exact(mean, std):
    """The probability of (−z, z), q's region of level p, under N(mean, std²)."""
    z = scipy.stats.norm.ppf(0.5 + np.array(LEVELS) / 2)
    return scipy.stats.norm.cdf(z, mean, std) - scipy.stats.norm.cdf(-z, mean, std)


def test_of_the_law_itself_the_levels():
    """With few samples too: a quantile of 15 is no biased one."""
    np.testing.assert_allclose(coverage(0.0, 1.0), LEVELS, atol=0.006)
    np.testing.assert_allclose(coverage(0.0, 1.0, num=39, states=4_000), LEVELS, atol=0.006)


@pytest.mark.parametrize("mean, std, sign", [(0.0, 2.0, -1), (0.0, 0.5, 1), (1.5, 1.0, -1)])
def test_too_narrow_too_wide_elsewhere(mean, std, sign):
    """Below the levels, above, below; and the values."""
    found = coverage(mean, std)
    assert np.all(sign * (found - LEVELS) > 0.02)
    np.testing.assert_allclose(found, exact(mean, std), atol=0.01)


def test_each_state_has_its_own_threshold():
    """Densities of other height at every state, over several axes of states."""
    rng = np.random.default_rng(1)
    std = np.exp(rng.normal(size=(20, 10)))
    own, other = std * rng.normal(size=(2, 400, 20, 10))
    found = hdr_coverage(*(scipy.stats.norm.logpdf(v, 0, std) for v in (own, other)), LEVELS)
    assert found.shape == (3,)
    np.testing.assert_allclose(found, LEVELS, atol=0.01)
