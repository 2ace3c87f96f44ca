"""The bounds against analytic densities, in float64 with quadrature in place of sampling.

The noise of a bound is an input, so Gauss-Hermite nodes laid out along the batch axis (one sample
per state, weighted afterwards) turn its expectation into a sum good to three digits or more.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from vdd_jax.core import mixture, objectives, schedules
from vdd_jax.core.mixture import Mixture
from vdd_jax.core.objectives import Level

bounds = pytest.mark.parametrize("bound", objectives.BOUNDS)
entropies = pytest.mark.parametrize("entropy", objectives.ENTROPIES)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_mixture(batch=(), experts=3, size=2, diagonal=False, seed=0) -> Mixture:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(*batch, experts))
    means = rng.normal(size=(*batch, experts, size))
    if diagonal:
        tril = rng.uniform(0.4, 1.0, size=(*batch, experts, size))
    else:
        tril = 0.3 * np.tril(rng.normal(size=(*batch, experts, size, size)), -1)
        tril += np.eye(size) * rng.uniform(0.4, 1.0, size=(*batch, experts, 1, size))
    return Mixture(scipy.special.log_softmax(logits, axis=-1), means, tril)


def make_level(batch: int, alpha=None, sigma=None) -> Level:
    rng = np.random.default_rng(9)
    alpha = rng.uniform(0.5, 0.9, batch) if alpha is None else jnp.full(batch, alpha)
    sigma = rng.uniform(0.3, 0.8, batch) if sigma is None else jnp.full(batch, sigma)
    return Level(jnp.asarray(sigma), jnp.asarray(alpha), jnp.asarray(sigma))


# A second, independent road to every density: covariances and jax.scipy.


def dense(m: Mixture, alpha=1.0, sigma=0.0):
    """Weights, means, covariances of the diffused mixture; α, σ `[...]`."""
    alpha, sigma = jnp.asarray(alpha)[..., None, None], jnp.asarray(sigma)[..., None, None]
    tril = m.scale_tril
    if tril.ndim == m.means.ndim:
        tril = tril[..., None] * jnp.eye(tril.shape[-1])
    covariance = alpha[..., None] ** 2 * tril @ jnp.swapaxes(tril, -1, -2)
    covariance = covariance + sigma[..., None] ** 2 * jnp.eye(tril.shape[-1])
    return m.log_weights, alpha * m.means, covariance


def dense_joint(parts, x):
    """Inverse and determinant written out, for one and two dimensions."""
    log_weights, means, c = parts
    d = x[..., None, :] - means
    if d.shape[-1] == 1:
        det = c[..., 0, 0]
        square = d[..., 0] ** 2 / det
    else:
        det = c[..., 0, 0] * c[..., 1, 1] - c[..., 0, 1] ** 2
        square = c[..., 1, 1] * d[..., 0] ** 2 + c[..., 0, 0] * d[..., 1] ** 2
        square = (square - 2 * c[..., 0, 1] * d[..., 0] * d[..., 1]) / det
    log_det = jnp.log(det) + d.shape[-1] * jnp.log(2 * jnp.pi)
    return log_weights - 0.5 * (log_det + square)


def dense_log_prob(parts, x):
    return jax.scipy.special.logsumexp(dense_joint(parts, x), axis=-1)


def dense_score(parts, x):
    return jax.grad(lambda x: jnp.sum(dense_log_prob(parts, x)))(x)


SIZE, STATES, DRAWS = 2, 3, 4


@partial(jax.jit, static_argnames=("bound", "entropy"))
def both_gradients(student, old, teacher, level, noise, index, bound, entropy):
    """Of the surrogate, and of the same samples' loss written with the analytic −log π."""
    diffused = bound == "diffused"

    def score(x, t):  # the teacher diffused to t = σ, with the α of the level
        return dense_score(dense(teacher, level.alpha, level.sigma), x)

    def take(m):
        return m.means[:, index], m.scale_tril[:, index]

    def surrogate(mean, tril):
        q = objectives.e_step(old, level, diffused)
        args = (index, mean, tril, noise, q, score, level)
        return jnp.sum(objectives.expert_bound(*args, bound=bound, entropy=entropy))

    def analytic(mean, tril):
        x = mean + jnp.einsum("bij,vbj->vbi", tril, noise[0])
        if diffused:
            x = level.alpha[:, None] * x + level.sigma[:, None] * noise[1]
        query = level.alpha[:, None] * x if bound == "scaled" else x
        log_teacher = dense_log_prob(dense(teacher, level.alpha, level.sigma), query)
        noise_level = (level.alpha, level.sigma) if diffused else (1.0, 0.0)
        joint = dense_joint(dense(old, *noise_level), x)
        log_responsibility = jax.nn.log_softmax(joint, axis=-1)[..., index]
        own = Mixture(jnp.zeros((STATES, 1)), mean[:, None], tril[:, None])
        if entropy == "path":
            own = jax.lax.stop_gradient(own)
            minus_entropy = dense_log_prob(dense(own, *noise_level), x)
        else:
            _, mean, covariance = dense(own, *noise_level)
            minus_entropy = dense_joint((0.0, mean, covariance), mean[:, 0])[:, 0] - 0.5 * SIZE
        return jnp.sum(jnp.mean(-log_teacher - log_responsibility + minus_entropy, axis=0))

    return (
        jax.grad(surrogate, argnums=(0, 1))(*take(student)),
        jax.grad(analytic, argnums=(0, 1))(*take(student)),
    )


@bounds
@entropies
def test_surrogate_gradient_is_the_gradient_through_the_analytic_log_density(bound, entropy):
    """Sample by sample equal to autodiff through log π, and of a useful size."""
    student, old, teacher = (random_mixture((STATES,), seed=seed) for seed in (1, 2, 3))
    noise = np.random.default_rng(4).normal(size=(2, DRAWS, STATES, SIZE))
    mine, expected = both_gradients(
        student, old, teacher, make_level(STATES), tuple(noise), 1, bound, entropy
    )
    for gradient, exact in zip(mine, expected, strict=True):
        gradient = jnp.tril(gradient) if gradient.ndim == 3 else gradient
        exact = jnp.tril(exact) if exact.ndim == 3 else exact
        np.testing.assert_allclose(gradient, exact, rtol=1e-8, atol=1e-10)
        assert np.abs(exact).min(where=np.abs(exact) > 0, initial=1.0) > 1e-4


def nodes(count: int):
    """Gauss-Hermite noise ε, ε′ `[1, count², 1]` and weights `[count²]` that sum to 1."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    weights = weights / weights.sum()
    first, second = (g.reshape(1, -1, 1) for g in np.meshgrid(points, points, indexing="ij"))
    return (first, second), np.outer(weights, weights).ravel()


NODES = 32


def expected_bound(index, mean, tril, old, score, alpha, sigma, bound, entropy):
    """E of `expert_bound` over its noise for a 1-D expert, mean `[1]` and factor `[1, 1]`."""
    noise, weights = nodes(NODES)
    count = weights.shape[0]
    level = make_level(count, alpha, sigma)
    old = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), old)
    value = objectives.expert_bound(
        index,
        jnp.broadcast_to(mean, (count, 1)),
        jnp.broadcast_to(tril, (count, 1, 1)),
        noise,
        objectives.e_step(old, level, bound == "diffused"),
        score,
        level,
        bound=bound,
        entropy=entropy,
    )
    return jnp.sum(weights * value)


ALPHA, SIGMA = 0.8, 0.6
STUDENT = random_mixture(size=1, seed=5)
TEACHER = random_mixture(size=1, experts=2, seed=6)
GRID = np.linspace(-12.0, 12.0, 4001)[:, None]


def level_of(bound):
    """Where the bound compares the laws: diffused, or as they are."""
    return (ALPHA, SIGMA) if bound == "diffused" else (1.0, 0.0)


def teacher_log_prob(bound, x):
    """log π as the bound means it: log π_σ at x, at α x (`scaled`), at the diffused x."""
    query = ALPHA * x if bound == "scaled" else x
    return dense_log_prob(dense(TEACHER, ALPHA, SIGMA), query)


@partial(jax.jit, static_argnames="bound")
def kl(student, bound):
    """KL(q‖exp of `teacher_log_prob`) by quadrature on a grid, the density unnormalised."""
    log_q = dense_log_prob(dense(student, *level_of(bound)), GRID)
    integrand = jnp.exp(log_q) * (log_q - teacher_log_prob(bound, GRID))
    return jnp.trapezoid(integrand, GRID[:, 0])


@partial(jax.jit, static_argnames="bound")
def kl_gradient(student, bound):
    gradient = jax.grad(kl)(student, bound)
    return gradient.means, gradient.scale_tril


@partial(jax.jit, static_argnames=("bound", "entropy"))
def expert_gradients(student, old, bound, entropy):
    """Σ_z q(z) ∇ E[U_z]: of means `[Z, 1]` and factors `[Z, 1, 1]`."""

    def score(x, t):
        return dense_score(dense(TEACHER, ALPHA, SIGMA), x)

    def total(means, trils):
        each = jax.vmap(
            lambda z, mean, tril: expected_bound(
                z, mean, tril, old, score, ALPHA, SIGMA, bound, entropy
            )
        )(jnp.arange(means.shape[0]), means, trils)
        return jnp.sum(jnp.exp(student.log_weights) * each)

    return jax.grad(total, argnums=(0, 1))(student.means, student.scale_tril)


@bounds
@entropies
def test_expected_gradient_after_the_e_step_is_the_gradient_of_the_kl(bound, entropy):
    """The bound touches the KL there, so both have one gradient, whatever the entropy's form."""
    gradients = expert_gradients(STUDENT, STUDENT, bound, entropy)
    for gradient, expected in zip(gradients, kl_gradient(STUDENT, bound), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)
        assert np.abs(expected).max() > 0.05


@bounds
def test_path_and_closed_entropy_have_one_expected_gradient(bound):
    """For any q̃, not only the responsibilities of the student itself."""
    other = random_mixture(size=1, seed=7)
    path = expert_gradients(STUDENT, other, bound, "path")
    closed = expert_gradients(STUDENT, other, bound, "closed")
    for one, two in zip(path, closed, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-8)
        assert np.abs(one).max() > 0.05


@partial(jax.jit, static_argnames=("bound", "entropy", "diffused_teacher"))
def gradient_at_the_teacher(student, level, noise, bound, entropy, diffused_teacher):
    def score(x, t):
        levels = (level.alpha, level.sigma) if diffused_teacher else (1.0, 0.0)
        return dense_score(dense(student, *levels), x)

    def loss(mean, tril):
        old = objectives.e_step(student, level, bound == "diffused")
        args = (0, mean, tril, noise, old, score, level)
        return jnp.sum(objectives.expert_bound(*args, bound=bound, entropy=entropy))

    return jax.grad(loss, argnums=(0, 1))(student.means[:, 0], student.scale_tril[:, 0])


@pytest.mark.parametrize(("bound", "diffused"), [("published", False), ("diffused", True)])
@pytest.mark.parametrize("diagonal", [False, True])
def test_path_gradient_vanishes_sample_by_sample_where_student_is_teacher(
    bound, diffused, diagonal
):
    """For a teacher diffused to the bound's own level; the closed form has noise left."""
    student = random_mixture((STATES,), diagonal=diagonal, seed=1)
    level = make_level(STATES)
    noise = tuple(np.random.default_rng(4).normal(size=(2, 1, STATES, SIZE)))
    arguments = (student, level, noise, bound)
    for gradient in gradient_at_the_teacher(*arguments, "path", diffused):
        np.testing.assert_allclose(gradient, 0.0, atol=1e-12)
    for entropy, at in (("closed", diffused), ("path", not diffused)):
        for gradient in gradient_at_the_teacher(*arguments, entropy, at):
            assert np.abs(gradient).max() > 0.05


@bounds
def test_no_gradient_into_the_old_student(bound):
    """Exactly zero through the E-step, which a raw `old` would not give."""
    old = random_mixture((STATES,), seed=2)
    level = make_level(STATES)
    noise = tuple(np.random.default_rng(4).normal(size=(2, DRAWS, STATES, SIZE)))
    mean, tril = jnp.zeros((STATES, SIZE)), jnp.broadcast_to(jnp.eye(SIZE), (STATES, SIZE, SIZE))

    @partial(jax.jit, static_argnums=1)
    def gradient(old, hold):
        def loss(old):
            q = objectives.e_step(old, level, bound == "diffused") if hold else old
            args = (0, mean, tril, noise, q, lambda x, t: -x, level)
            return jnp.sum(objectives.expert_bound(*args, bound=bound))

        return jax.grad(loss)(old)

    for leaf, raw in zip(gradient(old, True), gradient(old, False), strict=True):
        np.testing.assert_array_equal(leaf, 0.0)
        assert np.abs(raw).max() > 1e-3


def test_e_step_diffuses_exactly_where_the_bound_is():
    old, level = random_mixture((STATES,), seed=2), make_level(STATES)
    for leaf, same in zip(objectives.e_step(old, level, False), old, strict=True):
        np.testing.assert_array_equal(leaf, same)
    x = np.random.default_rng(0).normal(size=(DRAWS, STATES, SIZE))

    @jax.jit
    def two_ways(old):
        wide = objectives.e_step(old, level, True)
        joint = dense_joint(dense(old, level.alpha, level.sigma), x)
        return mixture.log_responsibilities(wide, x), jax.nn.log_softmax(joint, axis=-1)

    np.testing.assert_allclose(*two_ways(old), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("bound", "diagonal"),
    [("published", False), ("scaled", False), ("diffused", False), ("diffused", True)],
)
def test_vmapped_bounds_equal_a_loop(bound, diagonal):
    """All experts at once: values, and the gradients of each one's own parameters."""
    student, old = (random_mixture((STATES,), diagonal=diagonal, seed=s) for s in (1, 2))
    level = make_level(STATES)
    noise = tuple(np.random.default_rng(4).normal(size=(2, 3, DRAWS, STATES, SIZE)))

    def one(index, mean, tril, first, second):
        q = objectives.e_step(old, level, bound == "diffused")
        args = (index, mean, tril, (first, second), q, lambda x, t: -jnp.sin(x) * t[:, None])
        return objectives.expert_bound(*args, level, bound=bound)

    def value_and_grad(*args):
        value, pull = jax.vjp(lambda mean, tril: one(args[0], mean, tril, *args[3:]), *args[1:3])
        return value, *pull(jnp.ones_like(value))

    together = jax.jit(jax.vmap(value_and_grad, in_axes=(0, 1, 1, 0, 0)))(
        jnp.arange(3), student.means, student.scale_tril, *noise
    )
    assert together[0].shape == (3, STATES)
    single = jax.jit(value_and_grad)
    for z in range(3):
        alone = single(z, student.means[:, z], student.scale_tril[:, z], noise[0][z], noise[1][z])
        for many, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(many[z], expected, rtol=1e-10, atol=1e-12)
    assert np.abs(together[0][0] - together[0][1]).max() > 0.01


@partial(jax.jit, static_argnames=("bound", "entropy"))
def full_bound(student, old, bound, entropy):
    """U(q, q̃) = Σ_z q(z) (E[U_z] + log q(z)), with the value of −log π given back to `U_z`."""

    def each(z, mean, tril):
        args = (z, mean, tril, old, lambda x, t: jnp.zeros_like(x), ALPHA, SIGMA, bound, entropy)
        noise, weights = nodes(NODES)
        x = (mean + tril[0] * noise[0])[0]
        if bound == "diffused":
            x = ALPHA * x + SIGMA * noise[1][0]
        return expected_bound(*args) - jnp.sum(weights * teacher_log_prob(bound, x))

    values = jax.vmap(each)(jnp.arange(3), student.means, student.scale_tril)
    weights = jnp.exp(student.log_weights)
    return jnp.sum(weights * (values + student.log_weights))


@partial(jax.jit, static_argnames="bound")
def joint_on_grid(m, bound):
    return dense_joint(dense(m, *level_of(bound)), GRID)


@bounds
@entropies
def test_bound_is_above_the_kl_and_tight_after_the_e_step(bound, entropy):
    """U − KL(q‖π) = E KL(q(z|a)‖q̃(z|a)) ≥ 0 for any q̃, and 0 for the student's own."""
    exact = float(kl(STUDENT, bound))
    own = float(full_bound(STUDENT, STUDENT, bound, entropy))
    assert own == pytest.approx(exact, abs=1e-5)
    joint = np.asarray(joint_on_grid(STUDENT, bound))
    density = np.exp(scipy.special.logsumexp(joint, axis=-1))
    posterior = scipy.special.log_softmax(joint, axis=-1)
    for seed in (11, 12, 13):
        other = random_mixture(size=1, seed=seed)
        above = float(full_bound(STUDENT, other, bound, entropy))
        log_q = scipy.special.log_softmax(np.asarray(joint_on_grid(other, bound)), axis=-1)
        gap = np.sum(np.exp(posterior) * (posterior - log_q), axis=-1)
        gap = scipy.integrate.trapezoid(density * gap, GRID[:, 0])
        assert gap > 0.05
        assert above == pytest.approx(exact + gap, abs=1e-3)
        assert above >= exact


def test_bound_by_plain_monte_carlo():
    """The same inequality with 100,000 ordinary samples and scipy's densities alone."""
    count = 100_000
    rng = np.random.default_rng(0)
    other = random_mixture(size=1, seed=11)
    weights = np.exp(STUDENT.log_weights)
    total = {"own": 0.0, "other": 0.0}
    level = make_level(1, 1.0, 0.0)

    @jax.jit
    def value(z, noise, old):
        return objectives.expert_bound(
            z,
            jnp.asarray(STUDENT.means)[None, z],
            jnp.asarray(STUDENT.scale_tril)[None, z],
            (noise, noise),
            jax.tree.map(lambda leaf: leaf[None], old),
            lambda x, t: jnp.zeros_like(x),
            level,
            bound="published",
            entropy="closed",
        )[0]

    for z in range(3):
        noise = rng.normal(size=(count, 1, 1))
        mean, std = float(STUDENT.means[z, 0]), float(STUDENT.scale_tril[z, 0, 0])
        x = mean + std * noise[:, 0, 0]
        teacher = np.exp(TEACHER.log_weights) @ scipy.stats.norm.pdf(
            x, TEACHER.means, TEACHER.scale_tril[:, 0]
        )
        for name, old in (("own", STUDENT), ("other", other)):
            u = float(value(z, noise, old)) - np.mean(np.log(teacher))
            total[name] += weights[z] * (u + np.log(weights[z]))

    def density(m):
        return scipy.stats.norm.pdf(GRID, m.means[:, 0], m.scale_tril[:, 0, 0]) @ np.exp(
            m.log_weights
        )

    log_q, log_p = np.log(density(STUDENT)), np.log(density(TEACHER))
    exact = scipy.integrate.trapezoid(np.exp(log_q) * (log_q - log_p), GRID[:, 0])
    assert total["own"] == pytest.approx(exact, abs=0.02)
    assert total["other"] > exact + 0.05


@partial(jax.jit, static_argnames=("bound", "entropy"))
def fixed_point(mean, std, alpha, sigma, bound, entropy):
    """Mean and std at which one expert stops on the teacher N(mean, std²), by descent."""
    teacher = Mixture(jnp.zeros(1), mean.reshape(1, 1), std.reshape(1, 1, 1))

    def score(x, t):
        return dense_score(dense(teacher, alpha, sigma), x)

    def loss(parameters):
        tril = jnp.exp(parameters[1]).reshape(1, 1)
        own = Mixture(jnp.zeros(1), parameters[:1][None], tril[None])
        return expected_bound(0, parameters[:1], tril, own, score, alpha, sigma, bound, entropy)

    def step(parameters, _):
        # natural steps: the gradient in the mean is scaled by the variance
        scale = jnp.stack([jnp.exp(2 * parameters[1]), 0.5])
        return parameters - 0.2 * scale * jax.grad(loss)(parameters), None

    last, _ = jax.lax.scan(step, jnp.array([0.3, -0.2]), length=400)
    return last[0], jnp.exp(last[1])


def fixed_point_of(mean, std, alpha, sigma, bound, entropy="closed"):
    found = fixed_point(*map(jnp.asarray, (mean, std, alpha, sigma)), bound, entropy)
    return [float(v) for v in found]


@entropies
def test_widening_by_the_undiffused_query_is_shown_and_cured(entropy):
    """Flaw 1: a mode of std s comes out as √(s² + σ²); the diffused bound gives s back."""
    mean, std, sigma = 0.7, 0.3, 0.5
    wide = np.hypot(std, sigma)
    for bound in ("published", "scaled"):  # α = 1: scaling is no cure
        np.testing.assert_allclose(
            fixed_point_of(mean, std, 1.0, sigma, bound, entropy), [mean, wide], rtol=1e-4
        )
    np.testing.assert_allclose(
        fixed_point_of(mean, std, 1.0, sigma, "diffused", entropy), [mean, std], rtol=1e-3
    )


def test_shrinking_by_the_unscaled_query_is_shown_and_cured():
    """Flaw 2: 16 cosine steps at t = 4 put a mode at 0.88 of its place; scaling puts it back."""
    schedule = schedules.vp_discrete(schedules.cosine_betas(16))
    alpha, sigma = float(schedule.alpha(4)), float(schedule.sigma(4))
    assert alpha == pytest.approx(0.88, abs=0.005)
    mean, std = 2.0, 0.4
    for bound, expected in {
        "published": [alpha * mean, np.hypot(alpha * std, sigma)],
        "scaled": [mean, np.hypot(std, sigma / alpha)],
        "diffused": [mean, std],
    }.items():
        np.testing.assert_allclose(
            fixed_point_of(mean, std, alpha, sigma, bound), expected, rtol=1e-3
        )


def test_unknown_bound_and_entropy_raise():
    mean, tril = jnp.zeros((1, 1)), jnp.ones((1, 1))
    arguments = (0, mean, tril, (mean[None], mean[None]), Mixture(mean, mean[None], tril[None]))
    for wrong in ({"bound": "elbo"}, {"entropy": "none"}):
        with pytest.raises(ValueError, match="published.*scaled.*diffused.*closed.*path"):
            objectives.expert_bound(*arguments, lambda x, t: x, make_level(1), **wrong)


def test_gating_gradient_and_minimiser():
    """No gradient into the responsibilities; in the logits it is q(z|s) − mean q̃(z|a,s)."""
    rng = np.random.default_rng(0)
    log_r = jnp.asarray(scipy.special.log_softmax(2 * rng.normal(size=(50, 4)), axis=-1))
    logits = jnp.asarray(rng.normal(size=4))

    def loss(logits, log_r):
        return jnp.mean(objectives.gating(jax.nn.log_softmax(logits), log_r))

    by_logits, by_r = jax.grad(loss, argnums=(0, 1))(logits, log_r)
    np.testing.assert_array_equal(by_r, 0.0)
    mean = np.exp(log_r).mean(0)
    np.testing.assert_allclose(by_logits, jax.nn.softmax(logits) - mean, rtol=1e-10)
    np.testing.assert_allclose(jax.grad(loss)(np.log(mean), log_r), 0.0, atol=1e-12)
    for _ in range(5):
        other = np.log(mean) + 0.3 * rng.normal(size=4)
        assert loss(other, log_r) > loss(np.log(mean), log_r)


def test_gating_by_hand():
    value = objectives.gating(jnp.log(jnp.array([0.25, 0.75])), jnp.log(jnp.array([[0.5, 0.5]])))
    np.testing.assert_allclose(value, [-0.5 * np.log(0.25) - 0.5 * np.log(0.75)])
    dead = objectives.gating(jnp.log(jnp.array([0.25, 0.75])), jnp.array([[0.0, -jnp.inf]]))
    np.testing.assert_allclose(dead, [-np.log(0.25)])


def test_denoising_by_hand():
    """Rows of squared error (1 + 4)/2 and 9/2, weighted by 2 and 0.5: (5 + 2.25)/2."""
    prediction = jnp.array([[1.0, 2.0], [0.0, 3.0]])
    target = jnp.array([[0.0, 4.0], [0.0, 0.0]])
    weight = jnp.array([2.0, 0.5])
    assert float(objectives.denoising(prediction, target, weight)) == pytest.approx(3.625)
    gradient = jax.grad(objectives.denoising)(prediction, target, weight)
    np.testing.assert_allclose(gradient, [[1.0, -2.0], [0.0, 0.75]])


def test_float32_stays_float32():
    """Nothing in a bound widens its type."""
    student = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), random_mixture((STATES,)))
    level = Level(*(jnp.full(STATES, v, jnp.float32) for v in (0.5, 0.8, 0.6)))
    noise = jnp.zeros((DRAWS, STATES, SIZE), jnp.float32)
    for bound in objectives.BOUNDS:
        for entropy in objectives.ENTROPIES:

            def loss(m, bound=bound, entropy=entropy):
                old = objectives.e_step(m, level, bound == "diffused")
                args = (0, m.means[:, 0], m.scale_tril[:, 0], (noise, noise), old)
                kind = {"bound": bound, "entropy": entropy}
                return objectives.expert_bound(*args, lambda x, t: -x, level, **kind)

            value = jax.eval_shape(loss, student)
            assert value.shape == (STATES,) and value.dtype == jnp.float32
