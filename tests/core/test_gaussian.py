"""Gaussians against scipy in float64, from 1 to 112 dimensions and std 1e-3 beside 1e3."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vdd_jax.core import gaussian

SIZES = (1, 2, 9, 16, 17, 112)
BATCH = 4


def make_case(size: int, seed: int = 0):
    """Float32 x, mean, factor, and their float64 parts: stds `[B, A]` and correlation factor."""
    rng = np.random.default_rng(seed)
    if size == 1:
        stds = np.geomspace(1e-3, 1e3, BATCH)[:, None]
    else:
        stds = np.stack([rng.permutation(np.geomspace(1e-3, 1e3, size)) for _ in range(BATCH)])
    factor = np.tril(rng.normal(size=(BATCH, size, size)), -1) / np.sqrt(size)
    factor += np.eye(size)
    tril = (stds[..., None] * factor).astype(np.float32)
    mean = (stds * rng.normal(size=stds.shape)).astype(np.float32)
    x = mean + np.einsum("bij,bj->bi", tril, 2 * rng.normal(size=stds.shape))
    return x.astype(np.float32), mean, tril, stds, tril.astype(np.float64) / stds[..., None]


@jax.jit
def everything(x, mean, scale_tril):
    """log_prob, entropy, and their gradients in every argument."""

    def total(x, mean, scale_tril):
        log_prob = gaussian.log_prob(x, mean, scale_tril)
        return jnp.sum(log_prob), log_prob

    gradients, log_prob = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(x, mean, scale_tril)
    entropy_gradient = jax.grad(lambda tril: jnp.sum(gaussian.entropy(mean, tril)))(scale_tril)
    return log_prob, gaussian.entropy(mean, scale_tril), gradients, entropy_gradient


@pytest.mark.parametrize("size", SIZES)
def test_full_log_prob_entropy_and_gradients_against_float64(size):
    x, mean, tril, stds, factor = make_case(size)
    log_prob, entropy, (dx, dmean, dtril), dentropy = everything(x, mean, tril)
    for b in range(BATCH):
        # in units of each coordinate's std the covariance is well-conditioned for scipy
        s, c = stds[b], factor[b]
        reference = scipy.stats.multivariate_normal(mean[b] / s, c @ c.T)
        log_s = np.sum(np.log(s))
        np.testing.assert_allclose(
            log_prob[b], reference.logpdf(x[b] / s) - log_s, rtol=1e-5, atol=1e-3
        )
        np.testing.assert_allclose(entropy[b], reference.entropy() + log_s, rtol=1e-5, atol=1e-4)
        z = np.linalg.solve(c, (x[b].astype(np.float64) - mean[b]) / s)
        pull = np.linalg.solve(c.T, z)
        tolerance = 1e-4 * np.abs(pull).max()
        np.testing.assert_allclose(dx[b] * s, -pull, rtol=1e-3, atol=tolerance)
        np.testing.assert_allclose(dmean[b] * s, pull, rtol=1e-3, atol=tolerance)
        expected = np.tril(np.outer(pull, z)) - np.diag(1 / np.diag(c))
        np.testing.assert_allclose(
            np.tril(dtril[b]) * s[:, None], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
        )
        np.testing.assert_allclose(
            dentropy[b] * s[:, None], np.diag(1 / np.diag(c)), rtol=1e-5, atol=1e-6
        )
    assert all(np.isfinite(g).all() for g in (dx, dmean, dtril, dentropy))


@pytest.mark.parametrize("size", SIZES)
def test_diagonal_log_prob_and_entropy_against_float64(size):
    x, mean, _, stds, _ = make_case(size)
    stds = stds.astype(np.float32)
    log_prob, entropy, gradients, _ = everything(x, mean, stds)
    normal = scipy.stats.norm(mean.astype(np.float64), stds.astype(np.float64))
    np.testing.assert_allclose(log_prob, normal.logpdf(x).sum(-1), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(entropy, normal.entropy().sum(-1), rtol=1e-5, atol=1e-4)
    z = (x.astype(np.float64) - mean) / stds
    for gradient, expected in zip(gradients, (-z, z, z * z - 1), strict=True):
        np.testing.assert_allclose(gradient * stds, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", (2, 17))
def test_diagonal_equals_full(size):
    x, mean, _, stds, _ = make_case(size)
    diagonal = stds.astype(np.float32)
    noise = np.random.default_rng(1).normal(size=(3, *mean.shape)).astype(np.float32)

    @jax.jit
    def both(scale_tril):
        return (
            gaussian.log_prob(x, mean, scale_tril),
            gaussian.entropy(mean, scale_tril),
            gaussian.reparameterise(noise, mean, scale_tril),
            gaussian.diagonal(mean, scale_tril),
            gaussian.diffuse_tril(mean, scale_tril, 0.5, 0.1),
        )

    *full, full_wide = both(np.stack([np.diag(d) for d in diagonal]))
    *short, short_wide = both(diagonal)
    for one, other in zip(full, short, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        full_wide, np.stack([np.diag(d) for d in np.asarray(short_wide)]), rtol=1e-5, atol=1e-6
    )


def test_log_prob_by_hand_and_broadcast_over_samples():
    """N((1, 2); 0, L Lᵀ), L = [[1, 0], [1, 2]]: z = (1, ½); a negative diagonal changes nothing."""
    tril = np.array([[1.0, 0.0], [1.0, 2.0]])
    expected = -0.5 * 1.25 - np.log(2) - np.log(2 * np.pi)
    x = np.broadcast_to([1.0, 2.0], (5, 3, 2))
    compiled = jax.jit(gaussian.log_prob)
    for factor in (tril, tril * [1.0, -1.0]):
        log_prob = compiled(x, np.zeros(2), factor)
        assert log_prob.shape == (5, 3)
        np.testing.assert_allclose(log_prob, expected, rtol=1e-6)


def test_reparameterised_samples_have_the_moments_and_the_gradient():
    mean = jnp.array([1.0, -2.0])
    tril = jnp.array([[0.5, 0.0], [-1.0, 2.0]])
    count = 40_000
    for factor in (tril, jnp.array([0.5, 2.0])):
        x = np.asarray(gaussian.sample(jax.random.key(0), mean, factor, (count,)))
        assert x.shape == (count, 2)
        full = np.asarray(factor if factor.ndim == 2 else jnp.diag(factor))
        covariance = full @ full.T
        stds = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(x.mean(0), mean, atol=5 * stds.max() / np.sqrt(count))
        # std of a sample covariance ≤ √2 s_i s_j / √N
        assert np.all(
            np.abs(np.cov(x.T) - covariance) < 5 * np.sqrt(2 / count) * np.outer(stds, stds)
        )
        z = (x[:, 0] - mean[0]) / stds[0]
        assert scipy.stats.kstest(z, "norm").pvalue > 1e-3

    noise = jnp.array([0.3, -0.7])
    np.testing.assert_allclose(
        gaussian.reparameterise(noise, mean, tril), [1.15, -2.0 - 0.3 - 1.4], rtol=1e-6
    )
    by_mean, by_tril = jax.jacobian(
        lambda m, s: gaussian.reparameterise(noise, m, s)[1], argnums=(0, 1)
    )(mean, tril)
    np.testing.assert_allclose(by_mean, [0.0, 1.0])
    np.testing.assert_allclose(by_tril, [[0.0, 0.0], noise])


diffuse = jax.jit(gaussian.diffuse_tril)


@pytest.mark.parametrize("size", SIZES)
def test_diffuse_tril_against_float64_cholesky(size):
    """Rows of std 1e-3 beside 1e3, noise from far below to far above them."""
    _, mean, tril, _, _ = make_case(size)
    alpha = np.array([0.7, 1.0, 0.3, 0.05], np.float32)
    sigma = np.array([1e-3, 0.1, 1.0, 100.0], np.float32)
    wide = np.asarray(diffuse(mean, tril, alpha, sigma))
    assert wide.shape == tril.shape and wide.dtype == np.float32
    for b in range(BATCH):
        scaled = alpha[b].astype(np.float64) * tril[b]
        reference = np.linalg.cholesky(scaled @ scaled.T + float(sigma[b]) ** 2 * np.eye(size))
        rows = np.linalg.norm(reference, axis=-1, keepdims=True)
        np.testing.assert_allclose(wide[b] / rows, reference / rows, atol=2e-5)
        assert np.all(np.diag(wide[b]) > 0)
    np.testing.assert_allclose(np.triu(wide, 1), 0.0)


@pytest.mark.parametrize("size", (9, 17))
def test_diffuse_tril_survives_rotated_ill_conditioning_where_the_covariance_does_not(size):
    """Eigenvalues 1e-6 to 1e6 in directions that mix all coordinates, σ = 0.1: twenty rotations,
    since how wrong the Cholesky factor of the covariance is depends on the order of rounding."""
    rng = np.random.default_rng(3)
    sigma, naive_errors = 0.1, []
    for _ in range(20):
        rotation = np.linalg.qr(rng.normal(size=(size, size)))[0]
        root = rotation * np.geomspace(1e-3, 1e3, size)
        tril = np.linalg.qr(root.T, mode="r").T
        tril = (tril * np.sign(np.diag(tril))).astype(np.float32)
        exact = tril.astype(np.float64) @ tril.T.astype(np.float64) + sigma**2 * np.eye(size)
        reference = np.linalg.slogdet(exact)[1]

        wide = np.asarray(diffuse(np.zeros(size), tril, 1.0, sigma), np.float64)
        assert abs(2 * np.sum(np.log(np.diag(wide))) - reference) < 0.05
        np.testing.assert_allclose(wide @ wide.T, exact, rtol=1e-4, atol=1e-6 * exact.max())

        naive = np.asarray(jnp.linalg.cholesky(exact.astype(np.float32)))
        naive_errors.append(abs(2 * np.sum(np.log(np.diag(naive))) - reference))
    assert not np.all(np.array(naive_errors) < 0.5)  # wrong, or not a number


@pytest.mark.parametrize("size", (3, 17))
def test_diffuse_tril_gradient(size):
    """d ½ log|α² L Lᵀ + σ² I| / dL = α² C⁻¹ L, and / dσ = σ tr C⁻¹."""
    rng = np.random.default_rng(4)
    tril = (np.tril(rng.normal(size=(size, size)), -1) / size + np.eye(size)).astype(np.float32)
    alpha, sigma = 0.6, 0.5

    @jax.jit
    def half_log_det(tril, sigma):
        wide = gaussian.diffuse_tril(jnp.zeros(size), tril, alpha, sigma)
        return jnp.sum(jnp.log(jnp.diagonal(wide)))

    by_tril, by_sigma = jax.grad(half_log_det, argnums=(0, 1))(tril, sigma)
    inverse = np.linalg.inv(alpha**2 * tril @ tril.T + sigma**2 * np.eye(size))
    np.testing.assert_allclose(by_tril, alpha**2 * inverse @ tril, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(by_sigma, sigma * np.trace(inverse), rtol=1e-4)


@pytest.mark.parametrize("size", (2, 17))
def test_diffuse_tril_limits(size):
    """σ = 0 only scales, α = 0 leaves the noise alone, and diagonals add in squares."""
    _, mean, tril, stds, _ = make_case(size)
    rows = np.linalg.norm(tril, axis=-1, keepdims=True)
    np.testing.assert_allclose(diffuse(mean, tril, 0.5, 0.0) / rows, 0.5 * tril / rows, atol=1e-5)
    eye = np.broadcast_to(2.0 * np.eye(size), tril.shape)
    np.testing.assert_allclose(diffuse(mean, tril, 0.0, 2.0), eye, atol=1e-5)
    np.testing.assert_allclose(
        diffuse(mean, stds.astype(np.float32), 0.5, 2.0), np.sqrt(0.25 * stds**2 + 4), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("mean", "tril"),
    [((3,), (2,)), ((3,), (3, 2)), ((3,), (2, 3)), ((3,), (5, 3, 3)), ((5, 3), (3,)), ((5, 3), ())],
)
def test_wrong_shapes_raise(mean, tril):
    for function in (gaussian.log_prob, gaussian.reparameterise):
        with pytest.raises(ValueError, match="scale_tril has shape"):
            function(jnp.zeros(mean), jnp.zeros(mean), jnp.ones(tril))
    with pytest.raises(ValueError, match="scale_tril has shape"):
        gaussian.diffuse_tril(jnp.zeros(mean), jnp.ones(tril), 1.0, 1.0)
    with pytest.raises(ValueError, match="scale_tril has shape"):
        gaussian.entropy(jnp.zeros(mean), jnp.ones(tril))


@pytest.mark.parametrize("size, diagonal", [(1, False), (3, False), (17, False), (3, True)])
def test_distances_of_two_normals(size, diagonal):
    """KL and Bhattacharyya by covariances in float64; leading axes broadcast."""
    rng = np.random.default_rng(size)
    means = rng.normal(size=(2, 4, size))
    tril = 0.3 * np.tril(rng.normal(size=(2, 4, size, size)), -1) * (not diagonal)
    tril = tril + np.eye(size) * rng.uniform(0.5, 2.0, size=(2, 4, 1, size))
    covariance = tril @ tril.swapaxes(-1, -2)
    pairs = [(means[0][:, None], covariance[0][:, None]), (means[1][None], covariance[1][None])]
    (m, c), (n, d) = pairs
    inverse, apart = np.linalg.inv(d), np.broadcast_to(n - m, (4, 4, size))[..., None]
    log_det = [np.linalg.slogdet(v)[1] for v in (c, d, (c + d) / 2)]
    quadratic = (apart.swapaxes(-1, -2) @ inverse @ apart)[..., 0, 0]
    kl = 0.5 * (np.trace(inverse @ c, axis1=-2, axis2=-1) + quadratic - size
                + log_det[1] - log_det[0])
    middle = (apart.swapaxes(-1, -2) @ np.linalg.inv((c + d) / 2) @ apart)[..., 0, 0]
    bhattacharyya = middle / 8 + 0.5 * (log_det[2] - 0.5 * (log_det[0] + log_det[1]))
    factors = np.diagonal(tril, axis1=-2, axis2=-1) if diagonal else tril
    given = [v.astype(np.float32) for v in (
        means[0][:, None], factors[0][:, None], means[1][None], factors[1][None])]
    np.testing.assert_allclose(gaussian.kl(*given), kl, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gaussian.bhattacharyya(*given), bhattacharyya, rtol=1e-4, atol=1e-4)
