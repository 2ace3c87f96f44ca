"""The analytic teacher: the exact score, in scaled units, at every noise level."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from vdd_jax.core.mixture import Mixture
from vdd_jax.data import Scaler
from vdd_jax.teachers import analytic

SCALER = Scaler(*(jnp.asarray(v) for v in ([1.0, -2.0], [2.0, 0.5], [3.0], [4.0], [1.0])))
STD = np.array([0.6, 0.2])


def density(observation) -> Mixture:
    """Two Gaussians whose means shift with the observation (in the task's units)."""
    shift = observation[..., None, :] * jnp.ones(2)
    means = jnp.array([[0.0, 0.0], [2.0, 1.0]]) + shift
    weights = jnp.broadcast_to(jnp.log(jnp.array([0.3, 0.7])), means.shape[:-1])
    return Mixture(weights, means, jnp.broadcast_to(jnp.asarray(STD, jnp.float32), means.shape))


def log_density(x, observation, sigma):
    """log π_σ by scipy, x scaled, observation scaled."""
    shift = float(observation) * 4.0 + 3.0
    means = np.array([[0.0, 0.0], [2.0, 1.0]]) + shift
    means = (means - [1.0, -2.0]) / [2.0, 0.5]
    variance = (STD / [2.0, 0.5]) ** 2 + sigma**2
    return np.log(sum(w * scipy.stats.multivariate_normal(m, np.diag(variance)).pdf(x)
                      for w, m in zip((0.3, 0.7), means, strict=True)))


def slope(x, observation, sigma, step=1e-4):
    return np.array([
        (log_density(x + d, observation, sigma) - log_density(x - d, observation, sigma))
        / (2 * step) for d in step * np.eye(2)])


def test_score_is_the_slope_of_the_diffused_scaled_density():
    """Against finite differences of scipy's density, with a scaler that is not the identity, and
    a noise level of its own for every state, from none to much."""
    teacher = analytic(density, SCALER)
    observation = np.array([[-0.7], [0.1], [0.4]], np.float32)
    sigma = np.array([0.05, 0.7, 5.0], np.float32)
    centre = (np.asarray(density(jnp.asarray(observation) * 4 + 3).means[:, 1]) - [1, -2])
    x = (centre / [2.0, 0.5] + np.random.default_rng(0).normal(size=(2, 3, 2))
         * 0.5).astype(np.float32)
    score = jax.jit(teacher.score)(x, observation, sigma)
    assert score.shape == (2, 3, 2)
    for v in range(2):
        for b in range(3):
            expected = slope(x[v, b].astype(float), observation[b, 0], sigma[b])
            np.testing.assert_allclose(score[v, b], expected, rtol=2e-3, atol=2e-3)


def test_density_is_that_of_the_scaled_action():
    """The density that is offered is the one whose score is offered: noise 0."""
    teacher = analytic(density, SCALER)
    q = teacher.density(jnp.array([0.5]))  # observation 5 in the task's units
    np.testing.assert_allclose(q.means, (np.array([[5, 5], [7, 6]]) - [1, -2]) / [2.0, 0.5])
    np.testing.assert_allclose(q.scale_tril, np.tile(STD / [2.0, 0.5], (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(q.log_weights), [0.3, 0.7], rtol=1e-6)


def test_time_is_the_noise_level():
    """A VE schedule: α = 1, σ = t, from 0 up."""
    schedule = analytic(density, SCALER).schedule
    t = jnp.array([0.01, 3.0])
    np.testing.assert_array_equal(schedule.alpha(t), 1.0)
    np.testing.assert_array_equal(schedule.sigma(t), t)
    np.testing.assert_array_equal(schedule.time(t), t)
    assert schedule.t_min == 0.0 and schedule.t_max > 10
