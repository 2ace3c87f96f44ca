"""The toy's density, score and samples against hand-computed numbers and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vdd_jax import config as config_lib
from vdd_jax.core import mixture
from vdd_jax.tasks import TASKS, toy


def task(**values):
    task = config_lib.default().task
    task.update(values)
    return task


def log_density(x, means, std, weights):
    """By scipy, in float64."""
    return np.log(sum(w * scipy.stats.multivariate_normal(m, std**2 * np.eye(len(m))).pdf(x)
                      for w, m in zip(weights, means, strict=True)))


def test_the_ring_by_hand():
    """Modes counter-clockwise from (radius, 0), isotropic, equally likely."""
    q = toy.density(task(num_modes=4, radius=3.0, mode_std=0.2))(jnp.zeros(0))
    np.testing.assert_allclose(q.means, [[3, 0], [0, 3], [-3, 0], [0, -3]], atol=1e-6)
    np.testing.assert_allclose(q.scale_tril, np.full((4, 2), 0.2), rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(q.log_weights), 0.25, rtol=1e-6)


def test_the_row_by_hand():
    """`toy1d`: modes from −radius to radius; one mode lies at 0."""
    q = toy.density(task(name="toy1d", num_modes=3, radius=2.0))(jnp.zeros(0))
    np.testing.assert_allclose(q.means, [[-2], [0], [2]], atol=1e-6)
    assert q.scale_tril.shape == (3, 1)
    one = toy.density(task(name="toy1d", num_modes=1))(jnp.zeros(0))
    np.testing.assert_array_equal(one.means, [[0.0]])


def test_the_ring_turns_and_breathes():
    """By π/4 · o₁, counter-clockwise, and by the factor 1 + 0.3 · o_O."""
    at = toy.density(task(num_modes=4, radius=2.0, observation_dim=3))
    q = at(jnp.array([[1.0, 0.7, 0.0], [0.0, 0.7, 1.0], [-1.0, 0.0, -1.0]]))
    half = 2 * np.sqrt(0.5)
    ring = np.array([[2, 0], [0, 2], [-2, 0], [0, -2]], float)
    turned = np.array([[half, half], [-half, half], [-half, -half], [half, -half]])
    np.testing.assert_allclose(q.means[0], turned, atol=1e-5)
    np.testing.assert_allclose(q.means[1], 1.3 * ring, atol=1e-5)
    back = np.array([[half, -half], [half, half], [-half, half], [-half, -half]])
    np.testing.assert_allclose(q.means[2], 0.7 * back, atol=1e-5)
    np.testing.assert_allclose(q.scale_tril, 0.5, rtol=1e-6)  # the modes keep their width


def test_the_row_shifts_and_stretches():
    """By radius/2 · o₁, then by 1 + 0.3 · o_O, the same number when O = 1."""
    q = toy.density(task(name="toy1d", num_modes=2, radius=2.0, observation_dim=1))(
        jnp.array([[1.0], [-0.5]]))
    np.testing.assert_allclose(q.means[..., 0], [[-1.3, 3.9], [-2.5 * 0.85, 1.5 * 0.85]],
                               rtol=1e-5)


@pytest.mark.parametrize("name, size", [("toy", 2), ("toy1d", 1)])
def test_density_and_score_against_scipy(name, size):
    """Unequal weights, an observation; the score by finite differences in float64."""
    weights = (0.5, 0.3, 0.2)
    settings = task(name=name, num_modes=3, mode_std=0.6, mode_weights=weights,
                    observation_dim=2)
    q = toy.density(settings)(jnp.array([0.4, -0.6]))
    x = np.random.default_rng(0).normal(size=(5, size)) * 1.5
    means = np.asarray(q.means, np.float64)
    expected = [log_density(v, means, 0.6, weights) for v in x]
    np.testing.assert_allclose(mixture.log_prob(q, jnp.asarray(x, jnp.float32)), expected,
                               rtol=1e-4)
    score = jax.jit(mixture.score)(q, jnp.asarray(x, jnp.float32))
    slopes = [[(log_density(v + d, means, 0.6, weights) - log_density(v - d, means, 0.6, weights))
              / 2e-5 for d in 1e-5 * np.eye(size)] for v in x]
    np.testing.assert_allclose(score, slopes, rtol=1e-3, atol=1e-4)


def test_demonstrations_are_samples_of_the_density():
    """Observations uniform in [−1, 1]; an action turned back and unbreathed is of the ring."""
    weights, std = (0.5, 0.3, 0.2), 0.1
    settings = task(num_modes=3, mode_std=std, mode_weights=weights, observation_dim=2)
    draw = jax.jit(lambda key: toy.demonstrations(settings, key, 20_000))
    observation, action = map(np.asarray, draw(jax.random.key(0)))
    np.testing.assert_array_equal(action, draw(jax.random.key(0))[1])  # of the key alone
    assert not np.any(action == np.asarray(draw(jax.random.key(1))[1]))
    assert observation.shape == (20_000, 2) and action.shape == (20_000, 2)
    for column in observation.T:
        assert scipy.stats.kstest(column, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3
    angle = -np.pi / 4 * observation[:, 0]
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1)
    home = np.einsum("nij,nj->ni", turn.reshape(-1, 2, 2), action)
    scale = 1 + 0.3 * observation[:, 1:]
    ring = 2 * np.stack([np.cos(2 * np.pi * np.arange(3) / 3),
                         np.sin(2 * np.pi * np.arange(3) / 3)], -1)
    residual = home[:, None] - scale[:, None] * ring
    mode = np.argmin(np.linalg.norm(residual, axis=-1), axis=1)
    share = np.bincount(mode, minlength=3) / len(mode)
    np.testing.assert_allclose(share, weights, atol=4 * 0.5 / np.sqrt(20_000))
    standard = residual[np.arange(len(mode)), mode] / std
    for column in standard.T:
        assert scipy.stats.kstest(column, "norm").pvalue > 1e-3


def test_specs():
    """The sizes that follow from the configuration, for both names of the module."""
    for name, size in (("toy", 2), ("toy1d", 1)):
        settings = task(name=name, num_modes=5, observation_dim=3)
        spec = TASKS[name].spec(settings)
        assert (spec.name, spec.observation_dim, spec.action_dim, spec.num_modes) == (
            name, 3, size, 5)
        observation, action = jax.eval_shape(
            lambda key, s=settings, n=name: TASKS[n].demonstrations(s, key, 4), jax.random.key(0))
        assert observation.shape == (4, 3) and action.shape == (4, size)
