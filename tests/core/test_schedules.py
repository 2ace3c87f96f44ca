"""Schedules and conversions against hand-computed chains and a known mixture's diffusion."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from vdd_jax.core import schedules

SCHEDULES = {
    "ve": schedules.ve(0.002, 80.0),
    "vp_cosine": schedules.vp_cosine(),
    "vp_linear": schedules.vp_linear(),
    "vp_discrete_cosine": schedules.vp_discrete(schedules.cosine_betas(16)),
    "vp_discrete_linear": schedules.vp_discrete(schedules.linear_betas(1000)),
    "flow": schedules.flow(),
    "flow_data_at_one": schedules.flow(data_at_one=True),
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def times(schedule, count=41):
    return np.linspace(schedule.t_min, schedule.t_max, count).astype(np.float32)


@every_schedule
def test_ratio_grows_from_t_min_to_t_max_and_time_inverts_it(name):
    schedule = SCHEDULES[name]
    t = times(schedule)
    ratio = np.asarray(schedule.ratio(t))
    assert np.all(np.isfinite(ratio)) and np.all(np.diff(ratio) > 0) and ratio[0] > 0
    np.testing.assert_allclose(schedule.time(ratio), t, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(schedule.sigma(t) / schedule.alpha(t), ratio, rtol=1e-6)
    np.testing.assert_allclose([schedule.ratio_min, schedule.ratio_max], ratio[[0, -1]], rtol=1e-6)


@every_schedule
def test_alpha_and_sigma_belong_to_the_family(name):
    """VE keeps α = 1, VP keeps α² + σ² = 1, flow α + σ = 1; α falls and σ grows with noise."""
    schedule = SCHEDULES[name]
    t = times(schedule)
    alpha, sigma = np.asarray(schedule.alpha(t)), np.asarray(schedule.sigma(t))
    assert alpha.shape == sigma.shape == t.shape
    if name == "ve":
        np.testing.assert_array_equal(alpha, 1.0)
        np.testing.assert_array_equal(sigma, t)
    elif name.startswith("vp"):
        np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-5)
        assert np.all(np.diff(alpha) < 0)
    else:
        np.testing.assert_allclose(alpha + sigma, 1.0, rtol=1e-6)
        assert np.all(np.diff(alpha) < 0)
    assert np.all(np.diff(sigma) > 0)


def test_continuous_vp_by_hand():
    """Cosine at t = .5 in float64; linear from the integral of β in float64."""
    t = np.array([0.01, 0.5, 0.9])
    np.testing.assert_allclose(
        SCHEDULES["vp_cosine"].alpha(t), np.cos((t + 0.008) / 1.008 * np.pi / 2), rtol=1e-5
    )
    integral = 0.1 * t + (20.0 - 0.1) * t**2 / 2
    np.testing.assert_allclose(SCHEDULES["vp_linear"].alpha(t), np.exp(-integral / 2), rtol=1e-5)
    np.testing.assert_allclose(
        SCHEDULES["vp_linear"].sigma(t), np.sqrt(1 - np.exp(-integral)), rtol=1e-5
    )


def test_discrete_chain_by_hand():
    """β = (.1, .2, .5) has ᾱ = (.9, .72, .36)."""
    schedule = schedules.vp_discrete(np.array([0.1, 0.2, 0.5]))
    t = np.arange(3)
    np.testing.assert_allclose(schedule.alpha(t), np.sqrt([0.9, 0.72, 0.36]), rtol=1e-6)
    np.testing.assert_allclose(schedule.sigma(t), np.sqrt([0.1, 0.28, 0.64]), rtol=1e-6)
    np.testing.assert_allclose(schedule.alpha(t)[2], 0.6, rtol=1e-6)
    assert (schedule.t_min, schedule.t_max) == (0.0, 2.0)
    # half-way between two steps lies the geometric mean of their ratios
    middle = np.sqrt(np.sqrt(0.28 / 0.72) * np.sqrt(0.64 / 0.36))
    np.testing.assert_allclose(schedule.ratio(jnp.asarray(1.5)), middle, rtol=1e-5)
    np.testing.assert_allclose(schedule.time(middle), 1.5, rtol=1e-5)


def test_betas_by_hand():
    bar = np.cos(np.array([0.008, 0.508]) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedules.cosine_betas(2), [1 - bar[1] / bar[0], 0.999], rtol=1e-9)
    np.testing.assert_allclose(schedules.cosine_betas(2, max_beta=0.5)[1], 0.5)
    np.testing.assert_allclose(schedules.linear_betas(3, 0.1, 0.5), [0.1, 0.3, 0.5])
    for bad in ([0.1, 1.0], [0.0, 0.1], [[0.1, 0.2]], [-0.1]):
        with pytest.raises(ValueError, match="betas"):
            schedules.vp_discrete(np.array(bad))


# A mixture of two Gaussians in the plane, diffused by formulas written out in float64.
WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[1.0, -0.5], [-0.8, 0.6]])
COVARIANCES = np.array([[[0.3, 0.1], [0.1, 0.2]], [[0.1, -0.05], [-0.05, 0.4]]])


def expectations(x, alpha, sigma):
    """Score, E[a|x] and E[ε|x] of the mixture at x `[N, 2]`, α and σ `[N]`."""
    alpha, sigma = alpha[:, None], sigma[:, None]
    log_joint, pulls, means = [], [], []
    for weight, mean, covariance in zip(WEIGHTS, MEANS, COVARIANCES, strict=True):
        wide = alpha[..., None] ** 2 * covariance + sigma[..., None] ** 2 * np.eye(2)
        difference = x - alpha * mean
        pull = np.linalg.solve(wide, difference[..., None])[..., 0]
        half_log_det = 0.5 * np.linalg.slogdet(wide)[1]
        log_joint.append(np.log(weight) - half_log_det - 0.5 * np.sum(difference * pull, -1))
        pulls.append(pull)
        means.append(mean + alpha * pull @ covariance)  # E[a|x,z]
    responsibilities = scipy.special.softmax(np.stack(log_joint), axis=0)[..., None]
    score = -np.sum(responsibilities * np.stack(pulls), axis=0)
    x0 = np.sum(responsibilities * np.stack(means), axis=0)
    return score, x0, (x - alpha * x0) / sigma


@partial(jax.jit, static_argnames="name")
def all_conversions(name, values, x, t):
    """Every kind from every kind, `{(source, target): …}`."""
    kinds = schedules.PREDICTIONS
    return {
        (a, b): schedules.convert(SCHEDULES[name], values[a], a, b, x, t)
        for a in kinds
        for b in kinds
    }


@every_schedule
def test_conversions_equal_the_analytic_score_eps_x0_and_velocity(name):
    """All 12, at moderate noise; velocity by finite differences of α and σ in float64."""
    schedule = SCHEDULES[name]
    t = np.asarray(schedule.time(np.geomspace(0.3, 3.0, 6))).astype(np.float32)
    if name.startswith("vp_discrete"):  # away from the kinks of the interpolation
        t = np.floor(t) + np.linspace(0.3, 0.7, len(t), dtype=np.float32)
    with jax.enable_x64(True):
        # interpolated in float32 over the steps, where the wider difference is the better
        step = {"vp_discrete_cosine": 2.0**-6, "vp_discrete_linear": 0.25}.get(name, 2.0**-9)
        wide = t.astype(np.float64)
        alpha, sigma = np.asarray(schedule.alpha(wide)), np.asarray(schedule.sigma(wide))
        d_alpha, d_sigma = (
            (np.asarray(f(wide + step), np.float64) - np.asarray(f(wide - step))) / (2 * step)
            for f in (schedule.alpha, schedule.sigma)
        )
    alpha, sigma = alpha.astype(np.float64), sigma.astype(np.float64)
    rng = np.random.default_rng(0)
    x = alpha[:, None] * rng.normal(size=(6, 2)) + sigma[:, None] * rng.normal(size=(6, 2))
    x = x.astype(np.float32)
    score, x0, eps = expectations(x.astype(np.float64), alpha, sigma)
    np.testing.assert_allclose(score, -eps / sigma[:, None], rtol=1e-9)  # Tweedie
    velocity = d_alpha[:, None] * x0 + d_sigma[:, None] * eps
    exact = {"score": score, "x0": x0, "eps": eps, "velocity": velocity}
    values = {kind: value.astype(np.float32) for kind, value in exact.items()}
    for (source, target), value in all_conversions(name, values, x, t).items():
        scale = np.abs(exact[target]).max()
        np.testing.assert_allclose(
            value,
            exact[target],
            atol=2e-3 * scale if "velocity" in (source, target) else 1e-4 * scale,
            rtol=0,
            err_msg=f"{source} -> {target}",
        )


@every_schedule
def test_conversions_round_trip(name):
    """Any value there and back is the value, with a scalar time and a `[V, B, A]` action."""
    schedule = SCHEDULES[name]
    t = np.float32(schedule.time(0.8))
    rng = np.random.default_rng(1)
    x, value = rng.normal(size=(2, 3, 4, 2)).astype(np.float32)

    @jax.jit
    def there_and_back(value, x, t):
        convert = partial(schedules.convert, schedule)
        return [
            convert(convert(value, a, b, x, t), b, a, x, t)
            for a in schedules.PREDICTIONS
            for b in schedules.PREDICTIONS
        ]

    returned = there_and_back(value, x, t)
    assert len(returned) == 16
    for back in returned:
        np.testing.assert_allclose(back, value, rtol=1e-3, atol=1e-3)


def test_flow_formulas_by_hand():
    """Data at t = 1: score (t u − x)/(1 − t). Noise at t = 1: −(x + (1 − t) u)/t."""
    x, u, t = jnp.array([[0.5, -1.0]]), jnp.array([[2.0, 0.25]]), jnp.array([0.8])
    at_one = schedules.convert(schedules.flow(data_at_one=True), u, "velocity", "score", x, t)
    np.testing.assert_allclose(at_one, [[(1.6 - 0.5) / 0.2, (0.2 + 1.0) / 0.2]], rtol=1e-5)
    at_zero = schedules.convert(schedules.flow(), u, "velocity", "score", x, t)
    np.testing.assert_allclose(at_zero, [[-(0.5 + 0.4) / 0.8, -(-1.0 + 0.05) / 0.8]], rtol=1e-5)


def test_table_formulas_by_hand():
    """VE denoiser (D − x)/σ², VP −ε̂/σ; the velocity of VE is ε̂."""
    x, value = jnp.array([1.0]), jnp.array([0.25])
    ve = schedules.ve()
    np.testing.assert_allclose(schedules.convert(ve, value, "x0", "score", x, 0.5), [-3.0])
    np.testing.assert_allclose(schedules.convert(ve, value, "eps", "velocity", x, 0.5), [0.25])
    vp = schedules.vp_discrete(np.array([0.1, 0.2, 0.5]))  # α = .6, σ = .8 at t = 2
    np.testing.assert_allclose(
        schedules.convert(vp, value, "eps", "score", x, 2), [-0.25 / 0.8], rtol=1e-6
    )
    np.testing.assert_allclose(
        schedules.convert(vp, value, "eps", "x0", x, 2), [(1.0 - 0.8 * 0.25) / 0.6], rtol=1e-6
    )


@pytest.mark.parametrize(("source", "target"), [("x1", "eps"), ("eps", "noise"), ("", "")])
def test_unknown_kind_raises(source, target):
    with pytest.raises(ValueError, match="unknown prediction.*x0, eps, score, velocity"):
        schedules.convert(schedules.ve(), jnp.ones(2), source, target, jnp.ones(2), 1.0)


@pytest.mark.parametrize("make", [
    schedules.ve, schedules.vp_cosine, schedules.flow,
    lambda: schedules.vp_discrete(schedules.cosine_betas(16))])
def test_a_schedule_made_inside_jit_knows_its_range(make):
    """As numbers: training makes its schedule in the compiled step."""
    def ends(t):
        schedule = make()
        return schedule.ratio_min * t, schedule.ratio_max * t

    outside = make()
    np.testing.assert_allclose(jax.jit(ends)(1.0), [outside.ratio_min, outside.ratio_max],
                               rtol=1e-6)
