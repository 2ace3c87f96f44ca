"""EM, IMC and likelihood: each step against its definition, and that the stage runs and resumes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from contexts import at_once
from tiny_config import tiny

from vdd_jax import policy, stages
from vdd_jax.baselines import from_scratch
from vdd_jax.baselines.from_scratch import METHODS, curricula, fit, joint, responsibilities
from vdd_jax.config import ConfigError
from vdd_jax.core import mixture
from vdd_jax.core.mixture import Mixture

RNG = np.random.default_rng(0)
N, Z, A = 40, 3, 2
ACTION = RNG.normal(size=(N, A)).astype(np.float32) * 2
TRIL = np.tril(0.4 * RNG.normal(size=(Z, A, A)), -1) + np.eye(A) * (0.5 + RNG.random((Z, A, 1)))
TABLE = Mixture(*(np.asarray(v, np.float32) for v in (
    scipy.special.log_softmax(RNG.normal(size=Z)), RNG.normal(size=(Z, A)), TRIL)))


def everywhere(q: Mixture) -> Mixture:
    """The same mixture at every pair."""
    return jax.tree.map(lambda v: jnp.broadcast_to(v, (N, *v.shape)), q)


def responsible(q: Mixture):
    return responsibilities(joint(everywhere(q), ACTION), None, 1.0)


def curricula_of(q: Mixture, before):
    return curricula(fit(everywhere(q), ACTION), before, 2.0)


def log_likelihood(q: Mixture) -> float:
    return float(jnp.mean(mixture.log_prob(everywhere(q), ACTION)))


def test_an_em_step_does_not_lower_the_likelihood():
    """Tabular: E-step, then the closed minimiser of the M-step's loss, which has no gradient there;
    from two starts, several times."""
    m_step = METHODS["em"][-1]
    for start in (TABLE, TABLE._replace(means=TABLE.means[:, ::-1] + 1)):
        q, seen = start, [log_likelihood(start)]
        for _ in range(5):
            r = np.exp(responsible(q))
            share = r.sum(0)
            means = (r.T @ ACTION) / share[:, None]
            away = ACTION[:, None] - means
            covariance = np.einsum("nz,nza,nzb->zab", r, away, away) / share[:, None, None]
            q = Mixture(jnp.log(share / N), jnp.asarray(means),
                        jnp.asarray(np.linalg.cholesky(covariance)))
            seen.append(log_likelihood(q))
            slope = jax.grad(lambda q: m_step(  # noqa: B023
                everywhere(q._replace(log_weights=jax.nn.log_softmax(q.log_weights),
                                      scale_tril=jnp.tril(q.scale_tril))),
                ACTION, jnp.log(r), N))(q)  # noqa: B023
            assert all(np.abs(g).max() < 1e-4 for g in jax.tree.leaves(slope))
        assert np.all(np.diff(seen) > -1e-6) and seen[-1] > seen[0] + 0.01


def test_responsibilities_of_now_give_the_gradient_of_the_likelihood():
    """∇ of EM's loss at its own E-step is ∇ −log q (Fisher's identity)."""
    log_weights = responsible(TABLE)

    def of(m_step):
        return jax.grad(lambda q: m_step(everywhere(q._replace(
            log_weights=jax.nn.log_softmax(q.log_weights))), ACTION, log_weights, N))(TABLE)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                 of(METHODS["em"][-1]), of(METHODS["bc_gmm"][-1]))


def test_curricula_sum_to_one_over_pairs():
    """For each expert; in NumPy, with the curricula before, whose share of an expert is normalised
    over experts."""
    before = RNG.normal(size=(N, Z)).astype(np.float32)
    found = curricula_of(TABLE, before)
    np.testing.assert_allclose(np.exp(found).sum(0), 1.0, rtol=1e-5)
    assert np.abs(np.exp(found).sum(1) - 1).max() > 0.1  # and not over experts
    share = np.exp(before) / np.exp(before).sum(1, keepdims=True)
    away = ACTION[:, None] - np.asarray(TABLE.means)
    weight = np.exp(-0.5 * (away**2).sum(-1) / 2.0) * share
    np.testing.assert_allclose(np.exp(found), weight / weight.sum(0), rtol=1e-4)


def test_imc_learns_covariances_from_the_curriculum_and_the_gating_from_all_pairs():
    """Its loss is Σ_z E_{p(i|z)} −log q(a|s,z) / Z, means and factors with gradients, plus the
    cross-entropy of p̃(z|i), every pair counting alike."""
    log_weights = curricula_of(TABLE, np.zeros((N, Z), np.float32))
    p, q = np.exp(np.asarray(log_weights)), everywhere(TABLE)
    log_prob, log_gating = mixture.component_log_prob(q, ACTION), np.asarray(q.log_weights)
    expected = -(p * log_prob).sum(0).mean() - (
        p / p.sum(1, keepdims=True) * log_gating).sum(1).mean()
    imc = METHODS["imc"][-1]
    np.testing.assert_allclose(imc(everywhere(TABLE), ACTION, log_weights, N), expected, rtol=1e-5)

    slope = jax.grad(lambda q: imc(everywhere(q), ACTION, log_weights, N))(TABLE)
    assert all(np.all(np.abs(g) > 1e-6) for g in (slope.means, np.diagonal(
        slope.scale_tril, axis1=1, axis2=2), slope.log_weights))
    # of the gating alone: a pair that no curriculum holds counts as much as any
    other = np.asarray(log_weights).copy()
    other[5] -= 50.0
    gating = [jax.grad(lambda w: imc(  # noqa: E731
        everywhere(TABLE)._replace(log_weights=w), ACTION, weights, N))(everywhere(TABLE)[0])  # noqa: B023
        for weights in (log_weights, other)]
    np.testing.assert_allclose(*gating, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_losses_of_the_network_reach_experts_and_gating(method):
    """One step moves every expert's parameters and the gating's."""
    config = tiny(from_scratch__method=method, from_scratch__batch_size=16)
    model, data = stages.problem.student(config), stages.problem.data(config).train
    state = at_once(
        from_scratch.init, config.from_scratch, model, jax.random.key(0), data.observation, 200)
    # from zero kernels nothing would come through
    params = jax.tree.map(lambda v: v + 0.1 * RNG.normal(size=v.shape).astype(np.float32),
                          state.params)
    moved, metrics = jax.jit(from_scratch.make_step(config.from_scratch, model))(
        state._replace(params=params), data, jax.random.key(1))
    gaps = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)), params, moved.params)
    for gap in jax.tree.leaves(gaps["experts"]["experts"]):
        assert np.all(gap.reshape(len(gap), -1).max(axis=1) > 0)  # each expert's
    assert all(gap.max() > 0 for gap in jax.tree.leaves(gaps["gating"]))
    assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize("method", METHODS)
def test_slices_of_a_batch_give_the_same_step(method):
    """`config.run.accumulate`."""
    config = tiny(from_scratch__method=method, from_scratch__batch_size=16)
    model, data = stages.problem.student(config), stages.problem.data(config).train
    state = at_once(
        from_scratch.init, config.from_scratch, model, jax.random.key(0), data.observation, 200)
    whole, sliced = (
        jax.jit(from_scratch.make_step(config.from_scratch, model, parts=parts))(
            state, data, jax.random.key(1)) for parts in (1, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6),
                 whole, sliced)


@pytest.mark.parametrize("method", METHODS)
def test_the_e_step_is_over_all_pairs_and_held_between(method):
    """Weights change at the multiples of `e_step_every` alone, and are those of the parameters."""
    config = tiny(from_scratch__method=method, from_scratch__batch_size=16,
                  from_scratch__e_step_every=3)
    settings = config.from_scratch
    model, data = stages.problem.student(config), stages.problem.data(config).train
    state = at_once(
        from_scratch.init, settings, model, jax.random.key(0), data.observation[:1], 200)
    step = jax.jit(from_scratch.make_step(settings, model))
    for i in range(5):
        before = state
        state, _ = step(state, data, jax.random.key(1))
        renewed = method != "bc_gmm" and i % 3 == 0
        assert bool(jnp.any(before.log_weights != state.log_weights)) == renewed
        if renewed:
            q = model.apply({"params": before.params}, data.observation)
            of_pair, renew, _ = METHODS[method]
            expected = renew(of_pair(q, data.action), before.log_weights, 2.0)
            np.testing.assert_allclose(state.log_weights, expected, rtol=1e-3, atol=1e-4)


def test_the_stage_runs_resumes_and_gives_a_policy(tmp_path):
    """A run that was stopped half-way ends with the same parameters; it is evaluated as any
    student."""
    config = tiny(stages=("from_scratch", "evaluate"), from_scratch__method="imc",
                  from_scratch__num_iterations=20, from_scratch__batch_size=16,
                  from_scratch__e_step_every=5)
    report = stages.run(config, tmp_path / "whole")
    assert np.isfinite(report["student"]["kl_teacher_student"])
    other = tmp_path / "parts"
    stages.claim(config, other, False)
    from_scratch.run(config, other, stop_at=8)
    assert not from_scratch.finished(config, other)
    from_scratch.run(config, other)
    assert from_scratch.finished(config, other)
    jax.tree.map(np.testing.assert_array_equal, policy.load(tmp_path / "whole").params,
                 policy.load(other).params)


def test_two_ways_to_one_student_are_refused():
    config = tiny(stages=("distill", "from_scratch"))
    with pytest.raises(ConfigError, match="two ways to one student"):
        stages.run(config, "nowhere")
