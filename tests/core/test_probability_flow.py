"""Densities by the probability-flow ODE against those of diffused Gaussian mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vdd_jax.core import mixture, probability_flow
from vdd_jax.core.mixture import Mixture

LOW, HIGH = 0.05, 5.0
TWO_MODES = Mixture(jnp.log(jnp.array([0.3, 0.7])), jnp.array([[-1.5], [1.0]]),
                    jnp.array([[0.2], [0.5]]))
CORRELATED = Mixture(
    jnp.log(jnp.array([0.2, 0.3, 0.5])),
    2.0 * jnp.array([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]]),
    jnp.array([[[0.3, 0.0], [0.2, 0.2]], [[0.2, 0.0], [0.0, 0.2]], [[0.1, 0.0], [-0.2, 0.4]]]),
)
NARROW = CORRELATED._replace(scale_tril=jnp.full((3, 2), LOW))
FOUR = Mixture(  # four numbers
    jnp.log(jnp.array([0.25, 0.35, 0.4])),
    jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32),
    jnp.asarray(np.random.default_rng(1).uniform(0.2, 0.5, size=(3, 4)), jnp.float32))
KEY = jax.random.key(0)


def exact(target):
    """E[a|y] = y + r² ∇log p_r(y)."""
    return lambda y, r: y + r**2 * mixture.score(mixture.diffuse(target, 1.0, r), y)


def errors(target, num_steps, prior=None, high=HIGH, low=LOW):
    """At samples of the diffused mixture."""
    wide = mixture.diffuse(target, 1.0, low)
    y = mixture.sample(wide, KEY, (500,))
    prior = prior or mixture.diffuse(target, 1.0, high)
    found = jax.jit(lambda y: probability_flow.log_prob(
        exact(target), y, low, high, prior, num_steps))(y)
    return np.asarray(found - mixture.log_prob(wide, y))


@pytest.mark.parametrize("target, tolerance", [
    (TWO_MODES, 2e-5), (CORRELATED, 2e-4), (NARROW, 5e-4), (FOUR, 1e-4)])
def test_log_prob_of_a_mixture(target, tolerance):
    """32 steps, mean absolute error in nats; 16 steps stay within twenty times of it."""
    assert np.abs(errors(target, 32)).mean() < tolerance
    assert np.abs(errors(target, 16)).mean() < 20 * tolerance


def test_order_of_convergence():
    """Twice the steps, at least a sixteenth of the error (order 4), while it is above float32's."""
    coarse, fine = (np.abs(errors(TWO_MODES, steps)).mean() for steps in (12, 24))
    assert 3e-5 < coarse < 3e-3 and fine < coarse / 14


def test_the_law_at_the_end_is_known_or_broad():
    """N(0, r² + 1) far above the data is nearly right; samples diffused are better below."""
    assert np.abs(errors(TWO_MODES, 48, mixture.diffuse(TWO_MODES, 1.0, 80.0), 80.0)).mean() < 1e-3
    y = mixture.sample(TWO_MODES, KEY, (500,))
    broad, true = (
        np.asarray(probability_flow.log_prob(exact(TWO_MODES), y, LOW, 80.0, prior, 48))
        for prior in (None, mixture.diffuse(TWO_MODES, 1.0, 80.0)))
    assert 1e-5 < np.abs(broad - true).mean() < 0.01
    drawn = mixture.sample(TWO_MODES, jax.random.key(1), (256,))
    of_samples = mixture.uniform(drawn, jnp.full(drawn.shape, HIGH))
    assert np.abs(errors(TWO_MODES, 32, of_samples)).mean() < 0.03


def test_samples_have_the_law_and_their_own_density():
    """Kolmogorov-Smirnov in one dimension; the density agrees with `log_prob` and the exact one."""
    prior = mixture.diffuse(TWO_MODES, 1.0, HIGH)
    y, log_p = jax.jit(lambda key: probability_flow.sample_and_log_prob(
        exact(TWO_MODES), key, (3_000, 1), LOW, HIGH, prior))(KEY)
    wide = mixture.diffuse(TWO_MODES, 1.0, LOW)
    weights, means, stds = np.exp(wide.log_weights), wide.means[:, 0], wide.scale_tril[:, 0]

    def cdf(v):
        return np.sum(weights * scipy.stats.norm.cdf(v[:, None], means, stds), axis=-1)

    assert scipy.stats.kstest(np.asarray(y)[:, 0], cdf).pvalue > 1e-3
    assert scipy.stats.kstest(np.asarray(y)[:, 0] + 0.1, cdf).pvalue < 1e-3
    assert np.abs(log_p - mixture.log_prob(wide, y)).mean() < 1e-4
    back = probability_flow.log_prob(exact(TWO_MODES), y[:50], LOW, HIGH, prior)
    np.testing.assert_allclose(log_p[:50], back, atol=1e-3)


def test_rows_and_states_are_independent():
    """`[V, B, A]` with a mixture and a prior for each state is each state on its own."""
    states = Mixture(*(jnp.stack([v, v + d]) for v, d in zip(TWO_MODES, (0, 0.5, 0.1),
                                                            strict=True)))
    prior = mixture.diffuse(states, 1.0, HIGH)
    y, log_p = probability_flow.sample_and_log_prob(
        exact(states), KEY, (5, 2, 1), LOW, HIGH, prior, 16)
    assert y.shape == (5, 2, 1) and log_p.shape == (5, 2)
    together = probability_flow.log_prob(exact(states), y, LOW, HIGH, prior, 16)
    for b in range(2):
        one, end = (jax.tree.map(lambda v, b=b: v[b], tree) for tree in (states, prior))
        alone = probability_flow.log_prob(exact(one), y[:, b], LOW, HIGH, end, 16)
        np.testing.assert_allclose(together[:, b], alone, atol=1e-5)


def test_large_actions_are_refused():
    """Sixteen numbers are the most."""
    for act in (lambda y: probability_flow.log_prob(lambda y, r: y, y, LOW, HIGH),
                lambda y: probability_flow.sample_and_log_prob(
                    lambda y, r: y, KEY, y.shape, LOW, HIGH)):
        with pytest.raises(ValueError, match="at most 16 numbers, not 17"):
            act(jnp.zeros((2, 17)))
    # D = y/2: the point 0 stays, and the divergence is A/2 everywhere
    found = probability_flow.log_prob(lambda y, r: y / 2, jnp.zeros((2, 16)), 1.0, 4.0)
    expected = scipy.stats.norm.logpdf(0, 0, np.sqrt(17)) * 16 + 8 * np.log(4)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
