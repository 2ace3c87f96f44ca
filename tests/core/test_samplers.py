"""Samplers on exact denoisers: the law they draw from, their order, and the textbook steps."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vdd_jax.core import mixture, samplers, schedules

VE = schedules.ve(0.002, 80.0)
COSINE = schedules.vp_cosine()
TARGET = mixture.Mixture(
    jnp.log(jnp.array([0.3, 0.7])),
    jnp.array([[-1.5], [1.0]]),
    jnp.array([[0.2], [0.5]]),
)
RING = mixture.Mixture(
    jnp.log(jnp.array([0.2, 0.3, 0.5])),
    2.0 * jnp.array([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]]),
    jnp.array([[[0.3, 0.0], [0.2, 0.2]], [[0.2, 0.0], [0.0, 0.2]], [[0.1, 0.0], [-0.2, 0.4]]]),
)


def exact(target, schedule):
    """E[a|x] of the diffused mixture."""

    def denoise(x, t):
        wide = mixture.diffuse(target, schedule.alpha(t), schedule.sigma(t))
        return schedules.convert(schedule, mixture.score(wide, x), "score", "x0", x, t)

    return denoise


@lru_cache
def compiled(denoise, shape, schedule, num_steps, sampler, spacing, clip):
    return jax.jit(
        lambda key: samplers.sample(
            denoise, key, shape, schedule, num_steps, sampler, spacing, clip
        )
    )


def draw(denoise, shape, schedule, num_steps, sampler, spacing="karras", clip=None, seed=0):
    run = compiled(denoise, shape, schedule, num_steps, sampler, spacing, clip)
    return np.asarray(run(jax.random.key(seed)))


def identity(x, t):
    return x


def prior(shape, schedule, seed=0):
    """The noise x at t_max a run starts from: one step of a network that returns its input."""
    return draw(identity, shape, schedule, 1, "euler", seed=seed)


def cdf(x):
    weights, means, stds = np.exp(TARGET.log_weights), TARGET.means[:, 0], TARGET.scale_tril[:, 0]
    return np.sum(weights * scipy.stats.norm.cdf(x[:, None], means, stds), axis=-1)


@pytest.mark.parametrize(
    ("sampler", "schedule", "num_steps", "spacing"),
    [
        ("euler", VE, 150, "karras"),
        ("heun", VE, 30, "karras"),
        ("dpmpp_2m", VE, 40, "log"),
        ("euler_ancestral", VE, 150, "karras"),
        ("heun", COSINE, 40, "karras"),
        ("dpmpp_2m", schedules.vp_linear(), 40, "log"),
        ("ddpm", schedules.vp_discrete(schedules.cosine_betas(200)), 200, "time"),
        ("ddim", schedules.vp_discrete(schedules.linear_betas(1000)), 200, "time"),
        ("heun", schedules.flow(), 40, "karras"),
        ("euler_ancestral", schedules.flow(data_at_one=True), 200, "karras"),
    ],
)
def test_one_dimensional_law(sampler, schedule, num_steps, spacing):
    """KS against the exact mixture, for every sampler and every family."""
    count = 4000
    x = draw(exact(TARGET, schedule), (count, 1), schedule, num_steps, sampler, spacing)[:, 0]
    assert scipy.stats.kstest(x, cdf).pvalue > 1e-3
    assert scipy.stats.kstest(x + 0.1, cdf).pvalue < 1e-3  # the test can tell


@pytest.mark.parametrize(
    ("sampler", "schedule", "num_steps"),
    [("dpmpp_2m", VE, 40), ("euler_ancestral", COSINE, 200)],
)
def test_two_dimensional_modes(sampler, schedule, num_steps):
    """Proportions, means and covariances of three correlated modes."""
    count = 4000
    x = draw(exact(RING, schedule), (count, 2), schedule, num_steps, sampler)
    nearest = np.argmin(np.linalg.norm(x[:, None] - np.asarray(RING.means), axis=-1), axis=-1)
    weights = np.array([0.2, 0.3, 0.5])
    assert scipy.stats.chisquare(np.bincount(nearest, minlength=3), count * weights).pvalue > 1e-3
    for mode, (mean, tril) in enumerate(zip(RING.means, RING.scale_tril, strict=True)):
        mine = x[nearest == mode]
        covariance = np.asarray(tril @ tril.T)
        stds = np.sqrt(np.diag(covariance))
        error = 5 / np.sqrt(len(mine)) + 0.02
        assert np.all(np.abs(mine.mean(0) - mean) < error * stds)
        assert np.all(np.abs(np.cov(mine.T) - covariance) < 1.5 * error * np.outer(stds, stds))


def test_order_of_convergence_on_a_gaussian():
    """dy/dr of N(m, s²) has y(0) = m + (y(R) − m) s/√(s² + R²): Euler order 1, others 2."""
    mean, std, shape = 1.5, 0.5, (20, 1)
    solution = mean + (prior(shape, VE) - mean) * std / np.sqrt(std**2 + VE.ratio_max**2)

    def denoise(x, t):
        return mean + std**2 / (std**2 + t**2) * (x - mean)

    error = {
        (sampler, steps): np.abs(draw(denoise, shape, VE, steps, sampler) - solution).max()
        for sampler in ("euler", "heun", "dpmpp_2m")
        for steps in (32, 64)
    }
    assert 0.8 < np.log2(error["euler", 32] / error["euler", 64]) < 1.3
    for better in ("heun", "dpmpp_2m"):
        assert 1.7 < np.log2(error[better, 32] / error[better, 64])
        assert error[better, 32] < 0.3 * error["euler", 32]
        assert error[better, 64] < 0.15 * error["euler", 64]


BETAS = np.array([0.05, 0.1, 0.2, 0.3, 0.5])
CHAIN = schedules.vp_discrete(BETAS)
BAR = np.cumprod(1 - BETAS)


def network(x, t):
    """A denoiser that is no Gaussian's."""
    return jnp.tanh(0.8 * x + 0.1 * t)


def textbook_eps(x, t):
    return (x - np.sqrt(BAR[t]) * np.tanh(0.8 * x + 0.1 * t)) / np.sqrt(1 - BAR[t])


def textbook_ddim(x, t):
    """x_{t−1} = √ᾱ_{t−1} (x − √(1−ᾱ_t) ε)/√ᾱ_t + √(1−ᾱ_{t−1}) ε (Song et al. 2021, η = 0)."""
    eps = textbook_eps(x, t)
    x0 = (x - np.sqrt(1 - BAR[t]) * eps) / np.sqrt(BAR[t])
    before = BAR[t - 1] if t else 1.0
    return np.sqrt(before) * x0 + np.sqrt(1 - before) * eps


def textbook_ddpm(x, t, noise):
    """(x − β_t/√(1−ᾱ_t) ε)/√(1−β_t) + √β̃_t z (Ho et al. 2020, algorithm 2)."""
    before = BAR[t - 1] if t else 1.0
    mean = (x - BETAS[t] / np.sqrt(1 - BAR[t]) * textbook_eps(x, t)) / np.sqrt(1 - BETAS[t])
    return mean + np.sqrt((1 - before) / (1 - BAR[t]) * BETAS[t]) * noise


def test_ddim_is_the_textbook_chain():
    """A whole run of `euler` and `ddim` over the steps of the chain, from the same noise."""
    shape = (6, 2)
    x = prior(shape, CHAIN).astype(np.float64)
    np.testing.assert_allclose(x.std(), np.sqrt(1 - BAR[-1]), rtol=0.5)
    for t in reversed(range(5)):
        x = textbook_ddim(x, t)
    for name in ("euler", "ddim"):
        run = draw(network, shape, CHAIN, 5, name, "time")
        np.testing.assert_allclose(run, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("eta", "textbook"), [(0.0, textbook_ddim), (1.0, textbook_ddpm)])
def test_each_step_is_the_textbook_step(eta, textbook):
    """One step in y = x/α with η = 0 and 1 against DDIM and DDPM in ᾱ, at every t."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 7, 2)).astype(np.float32)
    for t in reversed(range(5)):
        alpha, r = np.sqrt(BAR[t]), np.sqrt((1 - BAR[t]) / BAR[t])
        before = BAR[t - 1] if t else 1.0
        r_next = np.sqrt((1 - before) / before)

        def denoise(y, r, alpha=alpha, t=t):
            return network(alpha * y, t)

        y, _ = samplers._euler(denoise, x / alpha, r, r_next, noise, None, eta)
        expected = textbook(x, t, noise) if eta else textbook(x, t)
        np.testing.assert_allclose(np.sqrt(before) * y, expected, rtol=1e-4, atol=1e-5)


def test_ddpm_run_has_the_moments_of_the_textbook_chain():
    """With E[a|x] = ½ x the chain is linear, so that its mean and variance follow by hand."""
    count = 40_000
    variance = 1 - BAR[-1]  # of the prior
    for t in reversed(range(5)):
        before = BAR[t - 1] if t else 1.0
        to_x0 = np.sqrt(before) * BETAS[t] / (1 - BAR[t])
        to_x = np.sqrt(1 - BETAS[t]) * (1 - before) / (1 - BAR[t])
        variance = (0.5 * to_x0 + to_x) ** 2 * variance + BETAS[t] * (1 - before) / (1 - BAR[t])
    for name in ("euler_ancestral", "ddpm"):
        x = draw(lambda x, t: 0.5 * x, (count, 1), CHAIN, 5, name, "time")
        assert abs(x.mean()) < 5 * np.sqrt(variance / count)
        assert abs(x.var() / variance - 1) < 5 * np.sqrt(2 / count)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_one_step_is_one_call_at_the_most_noise(sampler):
    """The answer is E[a|x] at x ~ N(0, σ²), t = t_max."""
    schedule = COSINE
    shape = (300, 1)
    out = draw(lambda x, t: jnp.where(x > 0, x, t), shape, schedule, 1, sampler)
    noise = prior(shape, schedule)
    np.testing.assert_allclose(out, np.where(noise > 0, noise, schedule.t_max), rtol=1e-4)
    assert scipy.stats.kstest(noise[:, 0], "norm").pvalue > 1e-3


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_network_calls_are_counted_and_keys_matter(sampler):
    calls = []

    def denoise(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return 0.5 * x

    first = draw(denoise, (3, 2), VE, 5, sampler)
    jax.effects_barrier()
    assert len(calls) == samplers.network_calls(sampler, 5) == (9 if sampler == "heun" else 5)
    assert max(calls) == pytest.approx(80.0) and min(calls) == pytest.approx(0.002, rel=1e-3)
    np.testing.assert_array_equal(first, draw(denoise, (3, 2), VE, 5, sampler))
    assert np.abs(first - draw(denoise, (3, 2), VE, 5, sampler, seed=1)).min() > 0


def test_clip_bounds_the_clean_action():
    shape = (50, 1)
    free = draw(lambda x, t: 3.0 + 0.0 * x, shape, VE, 4, "euler")
    np.testing.assert_allclose(free, 3.0, rtol=1e-5)
    for sign in (1.0, -1.0):
        clipped = draw(lambda x, t, s=sign: 3.0 * s + 0.0 * x, shape, VE, 4, "euler", clip=1.0)
        np.testing.assert_allclose(clipped, sign, rtol=1e-5)


def test_ratios_by_hand():
    """From σ_max to σ_min and then 0; Karras' formula, a geometric one, and even times."""
    schedule = schedules.ve(0.01, 100.0)
    np.testing.assert_allclose(
        samplers.ratios(schedule, 3, "log"), [100.0, 1.0, 0.01, 0.0], rtol=1e-4
    )
    np.testing.assert_allclose(
        samplers.ratios(schedule, 3, "time"), [100.0, 50.005, 0.01, 0.0], rtol=1e-6
    )
    np.testing.assert_allclose(
        samplers.ratios(schedule, 3, "karras", rho=2.0), [100.0, 5.05**2, 0.01, 0.0], rtol=1e-4
    )
    np.testing.assert_allclose(samplers.ratios(schedule, 1), [100.0, 0.0], rtol=1e-5)


def test_bad_arguments_raise():
    run = partial(samplers.sample, lambda x, t: x, jax.random.key(0), (2, 1), VE)
    with pytest.raises(ValueError, match="unknown sampler 'rk4'.*euler.*heun.*dpmpp_2m"):
        run(4, "rk4")
    with pytest.raises(ValueError, match="unknown spacing 'even'.*karras, log, time"):
        run(4, "euler", "even")
    with pytest.raises(ValueError, match="num_steps must be at least 1, not 0"):
        run(0)
    for spacing in ("karras", "log", "time"):
        with pytest.raises(ValueError, match="least noise is above 0"):
            samplers.ratios(schedules.ve(0.0, 80.0), 4, spacing)
