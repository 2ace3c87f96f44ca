"""The analytic teacher: the exact score, in scaled units, at every noise level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from contexts import A, B, T, context, randomised

from vdd_jax import config as config_lib
from vdd_jax import teachers
from vdd_jax.core import preconditioning
from vdd_jax.core.mixture import Mixture
from vdd_jax.data import Scaler
from vdd_jax.models import denoiser
from vdd_jax.teachers import analytic
from vdd_jax.types import Batch

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


# ---- a learned teacher of whole windows

@pytest.fixture(scope="module", params=["ve", "vp_cosine"])
def of_windows(request):
    """A teacher of random weights, and its noise level for every window."""
    config = config_lib.default().teacher
    config.update(backbone="transformer", window="all", width=8, depth=2, heads=2, fourier=1,
                  schedule=request.param)
    network = denoiser.build(config, A)
    example = jax.tree.map(lambda v: v[:1], Batch(context(goal=1), jnp.zeros((B, A))))
    shapes = jax.eval_shape(
        lambda: denoiser.init(config, network, jax.random.key(0), example))
    return teachers.from_network(config, randomised(shapes), A), jnp.array([0.1, 0.3, 0.5, 0.8])


def test_the_score_of_each_action_is_that_of_its_own_sequence(of_windows):
    """Naively: for every step and sample, the joint score of a window whose past actions are the
    demonstrated ones at the window's noise level, of which the step's row is taken."""
    teacher, t = of_windows
    c = context(goal=1, missing=1)
    x = np.random.default_rng(1).normal(size=(3, B, T, A)).astype(np.float32)
    found = jax.jit(teacher.each_score)(x, c, t)
    assert found.shape == x.shape
    seen = teachers.noised_past(teacher.schedule, 1.0, c, t)
    scale, _ = preconditioning.network_input(teacher.schedule, 1.0, jnp.ones((B, 1, 1)), t[:, None])
    past = np.broadcast_to(seen / scale, (3, B, T - 1, A))
    joint = jax.jit(teacher.joint_score)
    for i in range(T):
        alone = np.concatenate([past[..., :i, :], x[..., i:, :]], axis=-2)
        expected = np.asarray(joint(alone, c, t))[..., i, :]
        np.testing.assert_allclose(found[..., i, :], expected, rtol=1e-5,
                                   atol=1e-5 * np.abs(expected).max())
    # the newest action's is the score of the newest action
    np.testing.assert_allclose(found[..., -1, :], jax.jit(teacher.score)(x[..., -1, :], c, t),
                               rtol=1e-5, atol=1e-5 * np.abs(found).max())
    # and not the joint one, which sees the samples before it
    assert np.abs(np.asarray(joint(x, c, t)) - found)[..., 1:, :].max() > 1e-2


def test_only_teachers_of_whole_windows_have_scores_of_windows(of_windows):
    teacher, _ = of_windows
    assert teacher.of(teacher.params).each_score and teacher.joint_score
    config = config_lib.default().teacher
    other = teachers.from_network(config, {}, A)
    assert other.each_score is None and other.joint_score is None
