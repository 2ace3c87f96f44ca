"""Laws of the training noise, against scipy's truncated distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vdd_jax.core import schedules
from vdd_jax.core.noise_density import DENSITIES, sample_time

VE = schedules.ve(0.05, 5.0)
CHAIN = schedules.vp_discrete(schedules.cosine_betas(16))
SCHEDULES = {
    "ve": VE, "vp_cosine": schedules.vp_cosine(), "ddpm": CHAIN, "flow": schedules.flow(),
    "flow_data_at_one": schedules.flow(data_at_one=True),
}
KEY = jax.random.key(0)
N = 40_000  # one size: programs are compiled once
SHARES = np.linspace(0.02, 0.98, 25)


def draw(kind, schedule, n=N, **law):
    return np.asarray(sample_time(kind, schedule, KEY, (n,), **law))


def quantiles(kind, **law):
    """Of log σ/α on `VE`, by its time, which is σ."""
    return np.quantile(np.log(draw(kind, VE, **law)), SHARES)


@pytest.mark.parametrize("kind, name", [
    (k, n) for k in DENSITIES for n in SCHEDULES if k != "steps" or n == "ddpm"])
def test_samples_lie_in_the_schedules_range(kind, name):
    """Never outside what the teacher is asked later, also with most of the law outside."""
    schedule = SCHEDULES[name]
    for mean in (0.0, -3.0, 3.0):
        t = draw(kind, schedule, mean=mean, scale=0.7)
        slack = 1e-4 * abs(schedule.t_max - schedule.t_min)
        low, high = sorted((schedule.t_min, schedule.t_max))
        assert np.all(np.isfinite(t)) and t.min() >= low - slack and t.max() <= high + slack
    assert sample_time(kind, schedule, KEY, (3, 2)).shape == (3, 2)


def test_log_uniform():
    """log σ is uniform over the range."""
    low, high = np.log(0.05), np.log(5.0)
    np.testing.assert_allclose(quantiles("log_uniform"), low + SHARES * (high - low), atol=0.04)


@pytest.mark.parametrize("mean, scale", [(0.0, 1.0), (-1.2, 1.2), (0.5, 0.3), (-4.0, 1.0)])
def test_log_normal(mean, scale):
    """A normal law of log σ, cut to the range."""
    low, high = ((np.log(v) - mean) / scale for v in (0.05, 5.0))
    expected = scipy.stats.truncnorm(low, high, loc=mean, scale=scale).ppf(SHARES)
    found = quantiles("log_normal", mean=mean, scale=scale)
    np.testing.assert_allclose(found, expected, atol=0.06 * scale)


@pytest.mark.parametrize("mean, scale", [(0.0, 1.0), (np.log(0.5), 0.5), (1.0, 0.2)])
def test_log_logistic(mean, scale):
    """A logistic law of log σ, cut to the range."""
    law = scipy.stats.logistic(loc=mean, scale=scale)
    first, last = law.cdf(np.log(0.05)), law.cdf(np.log(5.0))
    expected = law.ppf(first + SHARES * (last - first))
    found = quantiles("log_logistic", mean=mean, scale=scale)
    np.testing.assert_allclose(found, expected, atol=0.1 * scale)


@pytest.mark.parametrize("name", ["vp_cosine", "flow", "flow_data_at_one"])
def test_the_law_is_one_of_the_ratio_whatever_the_schedule(name):
    """The same laws of log σ/α for a schedule whose time is something else."""
    schedule = SCHEDULES[name]
    found = np.log(np.asarray(schedule.ratio(draw("log_normal", schedule, mean=-0.5, scale=0.8))))
    np.testing.assert_allclose(
        np.quantile(found, SHARES), scipy.stats.norm(-0.5, 0.8).ppf(SHARES), atol=0.06)


@pytest.mark.parametrize("name", ["ve", "vp_cosine", "flow_data_at_one"])
def test_time_is_uniform(name):
    """Over the schedule's own time."""
    schedule = SCHEDULES[name]
    low, high = sorted((schedule.t_min, schedule.t_max))
    np.testing.assert_allclose(np.quantile(draw("time", schedule), SHARES),
                               low + SHARES * (high - low), atol=0.02 * (high - low))


def test_every_step_of_a_chain_comes_about_equally_often():
    """The integers 0 … N − 1, no other, the last as often as the first."""
    t = draw("steps", CHAIN)
    np.testing.assert_array_equal(t, np.round(t))
    counts = np.bincount(t.astype(int), minlength=16)
    assert len(counts) == 16 and np.abs(counts - N / 16).max() < 0.1 * N / 16


def test_samples_are_the_keys():
    """The same key, the same times; another key, others."""
    again = sample_time("log_normal", VE, KEY, (100,))
    np.testing.assert_array_equal(sample_time("log_normal", VE, KEY, (100,)), again)
    assert not jnp.any(sample_time("log_normal", VE, jax.random.key(1), (100,)) == again)


def test_an_unknown_density():
    """Is refused with those there are."""
    with pytest.raises(ValueError, match="unknown density 'cosine'; there are log_uniform"):
        sample_time("cosine", VE, KEY, (3,))
