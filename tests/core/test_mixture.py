"""Mixtures against scipy in float64, their samples by KS and moments, and the diffused law."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from vdd_jax.core import mixture
from vdd_jax.core.mixture import Mixture

log_prob = jax.jit(mixture.log_prob)
component_log_prob = jax.jit(mixture.component_log_prob)
log_responsibilities = jax.jit(mixture.log_responsibilities)
diffuse = jax.jit(mixture.diffuse)
score = jax.jit(mixture.score)
select = jax.jit(mixture.select)
affine = jax.jit(mixture.affine)
sample = jax.jit(mixture.sample, static_argnames="shape")


def random_mixture(batch=(), experts=3, size=2, diagonal=False, seed=0) -> Mixture:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(*batch, experts))
    means = 2 * rng.normal(size=(*batch, experts, size))
    if diagonal:
        tril = rng.uniform(0.3, 1.0, size=(*batch, experts, size))
    else:
        tril = 0.4 * np.tril(rng.normal(size=(*batch, experts, size, size)), -1)
        tril += np.eye(size) * rng.uniform(0.3, 1.0, size=(*batch, experts, 1, size))
    parts = (scipy.special.log_softmax(logits, axis=-1), means, tril)
    return Mixture(*(p.astype(np.float32) for p in parts))


def covariances(m: Mixture) -> np.ndarray:
    tril = np.asarray(m.scale_tril, np.float64)
    if m.scale_tril.ndim == m.means.ndim:
        tril = tril[..., None] * np.eye(tril.shape[-1])
    return tril @ np.swapaxes(tril, -1, -2)


def joint(m: Mixture, x) -> np.ndarray:
    """log q(z) + log q(x|z) of an unbatched mixture by scipy, float64, `[N, Z]`."""
    columns = [
        scipy.stats.multivariate_normal(mean, c).logpdf(np.asarray(x, np.float64)).reshape(-1)
        for mean, c in zip(np.asarray(m.means, np.float64), covariances(m), strict=True)
    ]
    return np.asarray(m.log_weights, np.float64) + np.stack(columns, axis=-1)


def cdf(m: Mixture):
    """The distribution function of an unbatched 1-D mixture."""
    weights, means = np.exp(np.asarray(m.log_weights)), np.asarray(m.means)[:, 0]
    stds = np.sqrt(covariances(m)[:, 0, 0])
    return lambda x: np.sum(
        weights * scipy.stats.norm.cdf(np.asarray(x)[..., None], means, stds), axis=-1
    )


def moments(m: Mixture):
    weights, means = np.exp(np.asarray(m.log_weights, np.float64)), np.asarray(m.means)
    mean = weights @ means
    second = np.einsum("z,zij->ij", weights, covariances(m) + means[:, :, None] * means[:, None])
    return mean, second - np.outer(mean, mean)


def assert_moments(x, m: Mixture):
    """Sample mean and covariance within five standard errors."""
    mean, covariance = moments(m)
    x = np.asarray(x, np.float64)
    centred = x - mean
    products = centred[:, :, None] * centred[:, None]
    for values, expected in ((x, mean), (products, covariance)):
        error = values.std(0) / np.sqrt(len(x))
        assert np.all(np.abs(values.mean(0) - expected) < 5 * error)


@pytest.mark.parametrize("diagonal", [False, True])
def test_log_prob_and_responsibilities_against_scipy(diagonal):
    m = random_mixture(diagonal=diagonal)
    x = 3 * np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    expected = joint(m, x)
    np.testing.assert_allclose(
        log_prob(m, x), scipy.special.logsumexp(expected, axis=-1), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        log_responsibilities(m, x), scipy.special.log_softmax(expected, -1), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        component_log_prob(m, x), expected - np.asarray(m.log_weights), rtol=1e-4, atol=1e-4
    )


def test_batch_axes_belong_together_and_samples_lead():
    """Row b of `[V, B, A]` is asked of mixture b."""
    m = random_mixture(batch=(4,))
    x = np.random.default_rng(2).normal(size=(5, 4, 2)).astype(np.float32)
    together, responsibilities = log_prob(m, x), log_responsibilities(m, x)
    assert together.shape == (5, 4) and responsibilities.shape == (5, 4, 3)
    for b in range(4):
        row = Mixture(*(leaf[b] for leaf in m))
        np.testing.assert_allclose(together[:, b], log_prob(row, x[:, b]), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            responsibilities[:, b], log_responsibilities(row, x[:, b]), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("diagonal", [False, True])
def test_responsibilities_of_action_chunks_where_exp_plus_eps_fails(diagonal):
    """Flaw 4: in 112 dimensions exp(·) + 1e-8 errs by over 100 nats, log-softmax does not."""
    size, experts = 112, 8
    rng = np.random.default_rng(5)
    means = rng.normal(size=(experts, size)).astype(np.float32)
    tril = np.ones((experts, size), np.float32)
    if not diagonal:
        tril = np.broadcast_to(np.eye(size, dtype=np.float32), (experts, size, size))
    m = mixture.uniform(means, tril)
    x = (means + rng.normal(size=means.shape)).astype(np.float32)

    difference = x[:, None].astype(np.float64) - means
    exact = scipy.special.log_softmax(-0.5 * np.sum(difference**2, axis=-1), axis=-1)
    stable = log_responsibilities(m, x)
    np.testing.assert_allclose(stable, exact, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(jax.nn.logsumexp(stable, axis=-1), 0.0, atol=1e-5)

    naive = np.exp(m.log_weights + component_log_prob(m, x)) + np.float32(1e-8)
    naive = np.log(naive / np.sum(naive, axis=-1, keepdims=True))
    assert np.abs(naive - exact).max() > 100
    assert np.abs(naive - exact).mean() > 50


@pytest.mark.parametrize(("size", "std"), [(1, 1e-3), (1, 1e3), (112, 1e-3), (112, 1.0)])
def test_far_actions_keep_finite_normalised_responsibilities_and_gradients(size, std):
    rng = np.random.default_rng(6)
    means = std * rng.normal(size=(8, size)).astype(np.float32)
    m = mixture.uniform(means, np.full((8, size), std, np.float32))
    x = (1e4 * std * rng.normal(size=(5, size))).astype(np.float32)
    responsibilities = log_responsibilities(m, x)
    assert np.isfinite(responsibilities).all() and np.isfinite(log_prob(m, x)).all()
    np.testing.assert_allclose(np.exp(responsibilities).sum(-1), 1.0, rtol=1e-5)
    assert log_prob(m, x).max() < -1e4  # far indeed
    gradient = np.asarray(score(m, x))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient * std, -x / std, rtol=1e-3, atol=10)


def test_samples_have_the_proportions_and_the_law():
    m = Mixture(
        np.log(np.array([0.2, 0.5, 0.3], np.float32)),
        np.array([[-6.0], [0.0], [5.0]], np.float32),
        np.array([[[0.5]], [[1.0]], [[0.2]]], np.float32),
    )
    x = np.asarray(sample(m, jax.random.key(0), shape=(20_000,)))
    assert x.shape == (20_000, 1)
    counts = np.histogram(x, [-np.inf, -3.8, 4.0, np.inf])[0]
    assert scipy.stats.chisquare(counts, 20_000 * np.array([0.2, 0.5, 0.3])).pvalue > 1e-3
    assert scipy.stats.kstest(x[:, 0], cdf(m)).pvalue > 1e-3
    shifted = m._replace(means=m.means + 0.1)  # the test can tell
    assert scipy.stats.kstest(x[:, 0], cdf(shifted)).pvalue < 1e-3


@pytest.mark.parametrize("diagonal", [False, True])
def test_samples_of_a_batch_of_mixtures(diagonal):
    m = random_mixture(batch=(2, 3), diagonal=diagonal)
    x = np.asarray(sample(m, jax.random.key(1), shape=(5000,)))
    assert x.shape == (5000, 2, 3, 2)
    for index in np.ndindex(2, 3):
        assert_moments(x[(slice(None), *index)], Mixture(*(leaf[index] for leaf in m)))
    for one, shape in ((m, ()), (m, (4, 6)), (random_mixture(diagonal=diagonal), ())):
        out = jax.eval_shape(partial(mixture.sample, shape=shape), one, jax.random.key(2))
        assert out.shape == (*shape, *one.means.shape[:-2], 2)
    # mixtures of one batch draw independently
    correlation = np.corrcoef(x[:, 0, 0, 0], x[:, 1, 2, 0])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(5000)


def test_select_takes_mean_and_factor_of_the_expert():
    for diagonal in (False, True):
        m = random_mixture(batch=(4,), diagonal=diagonal)
        expert = np.random.default_rng(3).integers(0, 3, size=(6, 4))
        means, tril = jax.tree.map(np.asarray, select(m, expert))
        assert means.shape == (6, 4, 2) and tril.shape == (6, 4, *m.scale_tril.shape[2:])
        for v, b in np.ndindex(6, 4):
            np.testing.assert_array_equal(means[v, b], m.means[b, expert[v, b]])
            np.testing.assert_array_equal(tril[v, b], m.scale_tril[b, expert[v, b]])


@pytest.mark.parametrize("diagonal", [False, True])
def test_diffuse_has_the_exact_parameters(diagonal):
    """Weights stay, means scale by α, covariances become α² Σ + σ² I; scalar or per state."""
    m = random_mixture(batch=(4,), diagonal=diagonal)
    for alpha, sigma in [
        (0.6, 0.8),
        (1.0, np.linspace(0.1, 2.0, 4, dtype=np.float32)),
        (np.linspace(0.1, 0.9, 4, dtype=np.float32), np.linspace(0.1, 2.0, 4, dtype=np.float32)),
    ]:
        wide = diffuse(m, alpha, sigma)
        a, s = np.broadcast_to(alpha, 4), np.broadcast_to(sigma, 4)
        assert wide.scale_tril.shape == m.scale_tril.shape
        np.testing.assert_array_equal(wide.log_weights, m.log_weights)
        np.testing.assert_allclose(wide.means, a[:, None, None] * m.means, rtol=1e-6)
        expected = a[:, None, None, None] ** 2 * covariances(m)
        expected = expected + s[:, None, None, None] ** 2 * np.eye(2)
        np.testing.assert_allclose(covariances(wide), expected, rtol=1e-5, atol=1e-6)


def test_diffuse_of_one_mixture_at_many_levels():
    """An unbatched mixture with α, σ `[B]` becomes a batch, every part of it."""
    for diagonal in (False, True):
        m = random_mixture(diagonal=diagonal)
        alpha, sigma = jnp.array([0.9, 0.5]), jnp.array([0.1, 0.7])
        wide = diffuse(m, alpha, sigma)
        for b in range(2):
            one = diffuse(m, alpha[b], sigma[b])
            for many, single in zip(wide, one, strict=True):
                np.testing.assert_allclose(many[b], single, rtol=1e-5, atol=1e-6)


def test_diffuse_is_the_law_of_sample_plus_noise():
    """KS in 1-D and moments in 2-D of α a + σ ε against the diffused mixture."""
    alpha, sigma, count = 0.6, 0.5, 20_000
    for size in (1, 2):
        m = random_mixture(size=size, seed=size)
        a = sample(m, jax.random.key(3), shape=(count,))
        x = alpha * np.asarray(a) + sigma * np.random.default_rng(4).normal(size=a.shape)
        wide = diffuse(m, alpha, sigma)
        assert_moments(x, wide)
        if size == 1:
            assert scipy.stats.kstest(x[:, 0], cdf(wide)).pvalue > 1e-3
            assert scipy.stats.kstest(x[:, 0], cdf(m)).pvalue < 1e-3


@pytest.mark.parametrize("diagonal", [False, True])
def test_affine_is_the_change_of_variables(diagonal):
    m = random_mixture(batch=(4,), diagonal=diagonal)
    scale, shift = np.array([[0.5, 3.0], [1.0, -2.0]], np.float32)
    x = np.random.default_rng(4).normal(size=(6, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(
        log_prob(affine(m, scale, shift), scale * x + shift),
        log_prob(m, x) - np.sum(np.log(scale)),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("diagonal", [False, True])
def test_score_is_the_gradient_of_the_log_density(diagonal):
    m = random_mixture(diagonal=diagonal)
    x = 2 * np.random.default_rng(7).normal(size=(20, 2)).astype(np.float32)
    step = 1e-5

    def density(x):
        return scipy.special.logsumexp(joint(m, x), axis=-1)

    numerical = np.stack(
        [(density(x + step * e) - density(x - step * e)) / (2 * step) for e in np.eye(2)], axis=-1
    )
    np.testing.assert_allclose(score(m, x), numerical, rtol=1e-3, atol=1e-3)


def test_gating_entropy_with_and_without_dead_experts():
    weights = np.array([[0.25, 0.25, 0.5], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    with np.errstate(divide="ignore"):
        log_weights = jnp.asarray(np.log(weights), jnp.float32)
    m = Mixture(log_weights, jnp.zeros((3, 3, 1)), jnp.ones((3, 3, 1)))
    expected = [1.5 * np.log(2), 0.0, np.log(2)]
    np.testing.assert_allclose(mixture.gating_entropy(m), expected, atol=1e-6)
    gradient = jax.grad(lambda w: jnp.sum(mixture.gating_entropy(m._replace(log_weights=w))))(
        log_weights
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(weights > 0, -weights * (np.log(weights) + 1), 0.0)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_dead_experts_neither_count_nor_speak():
    """An expert of weight 0 leaves density, gradient and samples to the others."""
    m = random_mixture()
    dead = Mixture(
        np.append(m.log_weights, np.float32(-np.inf)),
        np.concatenate([m.means, np.full((1, 2), 50.0, np.float32)]),
        np.concatenate([m.scale_tril, 0.1 * np.eye(2, dtype=np.float32)[None]]),
    )
    x = jnp.array([[0.3, -0.4], [50.0, 50.0]])
    np.testing.assert_allclose(log_prob(dead, x), log_prob(m, x), rtol=1e-5)
    np.testing.assert_allclose(score(dead, x), score(m, x), rtol=1e-4)
    np.testing.assert_allclose(np.exp(log_responsibilities(dead, x))[:, -1], 0.0)
    assert np.abs(np.asarray(sample(dead, jax.random.key(0), shape=(5000,)))).max() < 20


def test_acting_by_the_mean_of_an_expert():
    """The likeliest expert's mean; or means drawn in the gating's proportions."""
    m = Mixture(
        np.log(np.array([[0.2, 0.8], [0.7, 0.3]], np.float32)),
        jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]]),
        jnp.ones((2, 2, 1, 1)),
    )
    np.testing.assert_array_equal(jax.jit(mixture.mean_of_most_likely)(m), [[2.0], [3.0]])
    keys = jax.random.split(jax.random.key(5), 4000)
    acted = np.asarray(jax.jit(jax.vmap(
        lambda m, key: mixture.act(m, key, "sampled_mean"), (None, 0)))(m, keys))[..., 0]
    assert set(np.unique(acted[:, 0])) == {1.0, 2.0} and set(np.unique(acted[:, 1])) == {3.0, 4.0}
    assert abs(np.mean(acted[:, 0] == 2.0) - 0.8) < 5 * 0.4 / np.sqrt(4000)
    assert abs(np.mean(acted[:, 1] == 3.0) - 0.7) < 5 * 0.46 / np.sqrt(4000)


def test_uniform_weights_and_the_wrong_action_size():
    m = mixture.uniform(jnp.zeros((4, 5, 2)), jnp.ones((4, 5, 2)))
    np.testing.assert_allclose(np.exp(m.log_weights), np.full((4, 5), 0.2), rtol=1e-6)
    for function in (mixture.log_prob, mixture.log_responsibilities):
        with pytest.raises(ValueError, match="the action has 1 numbers.*actions of 2"):
            function(m, jnp.zeros((4, 1)))


def test_acting_draws_no_expert_below_the_least_weight():
    """Means and samples alike; the others keep their ratios; 0 keeps all; the density is whole."""
    weights = jnp.array([0.6, 0.3, 0.08, 0.02])
    q = Mixture(jnp.log(weights), 10.0 * jnp.arange(4.0)[:, None], jnp.full((4, 1), 0.1))
    keys = jax.random.split(jax.random.key(0), 4_000)
    for how in ("sampled_mean", "sample"):
        for least, expected in ((0.0, weights), (0.05, jnp.array([0.6, 0.3, 0.08, 0.0]) / 0.98)):
            acted = jax.jit(jax.vmap(
                lambda k, how=how, least=least: mixture.act(q, k, how, least)))(keys)
            share = np.bincount(np.round(np.asarray(acted)[:, 0] / 10).astype(int), minlength=4)
            np.testing.assert_allclose(share / 4_000, expected, atol=0.025)
            assert (share[3] == 0) == (least > 0)
    np.testing.assert_array_equal(mixture.act(q, keys[0], "most_likely_mean", 0.05), [0.0])
    with pytest.raises(ValueError, match="sampled_mean, most_likely_mean, sample, not 'mode'"):
        mixture.act(q, keys[0], "mode")


@pytest.mark.parametrize("make_key", [
    jax.random.key, jax.random.PRNGKey, lambda seed: jax.random.key(seed, impl="rbg")])
@pytest.mark.parametrize("batch", [(), (3,), (0,)])
def test_acting_draws_with_the_very_key_that_it_is_given(make_key, batch):
    means = jnp.broadcast_to(jnp.arange(5.0)[:, None], (*batch, 5, 1))
    q = mixture.uniform(means, jnp.ones((*batch, 5, 1)))
    key = make_key(3)
    np.testing.assert_array_equal(
        mixture.act(q, key, "sampled_mean"),
        mixture.select(q, jax.random.categorical(key, q.log_weights))[0])
    np.testing.assert_array_equal(mixture.act(q, key, "sample"), mixture.sample(q, key))


def test_the_draw_waits_for_the_mixture():
    """See `mixture._after`: what the generator is given depends on the log weights."""
    q = mixture.uniform(jnp.zeros((5, 1)), jnp.ones((5, 1)))
    broken = q._replace(log_weights=q.log_weights.at[0].set(jnp.nan))
    key = jax.random.key(3)
    assert mixture._after(q.log_weights, key) == key
    assert mixture._after(broken.log_weights, key) != key


@pytest.mark.parametrize("diagonal", [False, True])
def test_bounds_of_the_entropy_hold_and_are_tight_where_they_should_be(diagonal):
    """Beside Monte-Carlo on random mixtures; exact for experts that are all alike or far apart."""
    bounds = jax.jit(mixture.entropy_bounds)
    some = random_mixture((4,), experts=4, diagonal=diagonal)
    some = some._replace(means=0.3 * some.means)  # they overlap
    samples = sample(some, jax.random.key(0), (20_000,))
    values = -np.asarray(log_prob(some, samples))
    mean, error = values.mean(0), values.std(0) / np.sqrt(20_000)
    lower, upper = bounds(some)
    assert np.all(lower < mean + 4 * error) and np.all(mean - 4 * error < upper)
    alone = np.asarray(jnp.sum(jnp.exp(some.log_weights) * mixture.gaussian.entropy(
        some.means, some.scale_tril), -1))
    gating = np.asarray(mixture.gating_entropy(some))
    assert np.all(upper < alone + gating - 0.01)  # better than knowing the expert
    far = some._replace(means=some.means + 1e3 * np.arange(4)[:, None])
    alike = some._replace(means=0 * some.means, scale_tril=0 * some.scale_tril
                          + some.scale_tril[:, :1])
    one = np.asarray(mixture.gaussian.entropy(alike.means, alike.scale_tril))[:, 0]
    for q, exact in ((far, alone + gating), (alike, one)):
        for bound in bounds(q):
            np.testing.assert_allclose(bound, exact, rtol=1e-4, atol=1e-4)
    dead = Mixture(jnp.log(jnp.array([1.0, 0.0])), far.means[0, :2], far.scale_tril[0, :2])
    for bound in bounds(dead):
        np.testing.assert_allclose(
            bound, mixture.gaussian.entropy(dead.means, dead.scale_tril)[0], rtol=1e-4)
