"""What the network is given and predicts: exact for every kind of prediction and schedule."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.core import schedules
from vdd_jax.core.preconditioning import (
    PREDICTIONS,
    network_input,
    target,
    to_score,
    to_x0,
)

SCHEDULES = {
    "ve": schedules.ve(0.05, 5.0),
    "vp_cosine": schedules.vp_cosine(),
    "vp_linear": schedules.vp_linear(),
    "ddpm": schedules.vp_discrete(schedules.cosine_betas(16)),
    "flow": schedules.flow(),
    "flow_data_at_one": schedules.flow(data_at_one=True),
}
CASES = list(itertools.product(PREDICTIONS, SCHEDULES))
RATIOS = np.array([0.2, 0.5, 1.0, 2.0, 4.0], np.float32)
RNG = np.random.default_rng(0)


def at(schedule, *shape):
    """Times of `RATIOS`, α, σ, and random numbers `[5, *shape]` for each."""
    t = schedule.time(jnp.asarray(RATIOS))
    a, eps = RNG.normal(size=(2, len(RATIOS), *shape)).astype(np.float32)
    tail = (slice(None), *[None] * len(shape))
    alpha, sigma = np.asarray(schedule.alpha(t))[tail], np.asarray(schedule.sigma(t))[tail]
    return t, alpha, sigma, a, eps


@pytest.mark.parametrize("kind, name", CASES)
def test_the_target_gives_the_action_and_the_score_back(kind, name):
    """A network that says its target says the clean action, and the score −ε/σ."""
    schedule = SCHEDULES[name]
    t, alpha, sigma, a, eps = at(schedule, 3)
    x = alpha * a + sigma * eps
    said = target(kind, schedule, 0.7, a, eps, t)
    tolerance = {"rtol": 2e-4, "atol": 2e-4}
    np.testing.assert_allclose(to_x0(kind, schedule, 0.7, said, x, t), a, **tolerance)
    score = np.asarray(to_score(kind, schedule, 0.7, said, x, t))
    np.testing.assert_allclose(score * sigma, -eps, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", SCHEDULES)
def test_targets_by_hand(name):
    """x0, ε and velocity against their definitions; derivatives by finite differences."""
    schedule = SCHEDULES[name]
    t, _, _, a, eps = at(schedule, 2)
    np.testing.assert_array_equal(target("x0", schedule, 1.0, a, eps, t), a)
    np.testing.assert_allclose(target("eps", schedule, 1.0, a, eps, t), eps, atol=1e-4)
    h = 1e-2 if name == "ddpm" else 1e-3  # t of a chain is counted in steps
    slopes = [np.asarray((f(t + h) - f(t - h)) / (2 * h))[:, None]
              for f in (schedule.alpha, schedule.sigma)]
    np.testing.assert_allclose(target("velocity", schedule, 1.0, a, eps, t),
                               slopes[0] * a + slopes[1] * eps, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind, name", CASES)
def test_the_best_network_of_a_gaussian(kind, name):
    """For data N(m, s²) the expected target at x gives the exact posterior mean and score."""
    schedule, m, s = SCHEDULES[name], 0.4, 0.8
    t, alpha, sigma, x, _ = at(schedule, 6)
    variance = alpha**2 * s**2 + sigma**2
    mean_a = m + alpha * s**2 / variance * (x - alpha * m)  # E[a|x], E[ε|x]: Gaussian algebra
    mean_eps = sigma / variance * (x - alpha * m)
    best = target(kind, schedule, 1.3, mean_a, mean_eps, t)  # targets are linear in (a, ε)
    np.testing.assert_allclose(to_x0(kind, schedule, 1.3, best, x, t), mean_a,
                               rtol=1e-3, atol=1e-3)
    score = np.asarray(to_score(kind, schedule, 1.3, best, x, t))
    np.testing.assert_allclose(score * variance, -(x - alpha * m), rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_unit_variance_at_every_noise(name, sigma_data):
    """Both the input c_in x and the target of `karras`, for data of that spread; they are
    uncorrelated, which is what its c_skip is for."""
    schedule = SCHEDULES[name]
    t, alpha, sigma, a, eps = at(schedule, 40_000)
    a = sigma_data * a
    t = t[:, None]
    wanted = np.asarray(target("karras", schedule, sigma_data, a[..., None], eps[..., None], t))
    seen, _ = network_input(schedule, sigma_data, (alpha * a + sigma * eps)[..., None], t)
    for values in (wanted[..., 0], np.asarray(seen)[..., 0]):
        np.testing.assert_allclose(values.std(axis=1), 1.0, rtol=0.02)
    correlation = (wanted * np.asarray(seen)).mean(axis=(1, 2))
    np.testing.assert_allclose(correlation, 0.0, atol=0.02)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_noise_is_given_as_a_quarter_of_its_logarithm(name):
    """log(σ/α)/4, the same number for the same ratio of any schedule; per action or shared."""
    schedule = SCHEDULES[name]
    t = schedule.time(jnp.asarray(RATIOS))
    for shape in ((5,), (2, 5)):
        x = np.ones((*shape, 3), np.float32)
        seen, noise = network_input(schedule, 1.0, x, t)
        np.testing.assert_allclose(noise, np.log(RATIOS) / 4, atol=1e-3)
        assert seen.shape == x.shape and noise.shape == (5,)


def test_karras_is_table_1():
    """c_skip and c_out of Karras et al. (2022), written out, with a schedule that scales."""
    schedule = SCHEDULES["vp_cosine"]
    t, alpha, _, a, eps = at(schedule, 2)
    r, d = RATIOS[:, None], 0.6
    c_skip, c_out = d**2 / (r**2 + d**2), r * d / np.sqrt(r**2 + d**2)
    expected = (a - c_skip * (a + r * eps)) / c_out
    np.testing.assert_allclose(target("karras", schedule, d, a, eps, t), expected,
                               rtol=1e-3, atol=1e-3)
    x = np.float32(alpha * 0.3)
    x0 = to_x0("karras", schedule, d, np.float32(np.zeros_like(a)), x * np.ones_like(a), t)
    np.testing.assert_allclose(x0, c_skip * 0.3 * np.ones_like(a), rtol=1e-3)
