"""Judging a student: the numbers of cases that can be worked out by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import tiny

from vdd_jax import evaluate, evaluate_closed_loop
from vdd_jax.checkpoint import CheckpointError
from vdd_jax.core.mixture import Mixture
from vdd_jax.policy import Policy

pytest_plugins = "smoke_run"

judge = jax.jit(evaluate.against_density, static_argnums=3)


def single(mean, std) -> Mixture:
    """One Gaussian at one observation, as a mixture of two equal halves."""
    return Mixture(jnp.log(jnp.full((1, 2), 0.5)), jnp.full((1, 2, 1), mean),
                   jnp.full((1, 2, 1), std))


def normal_kl(m1, s1, m2, s2):
    return np.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5


def ring(weights, n=2) -> Mixture:
    """Two observations, narrow modes at (0, 0), (10, 0), (20, 0)."""
    weights = jnp.broadcast_to(jnp.log(jnp.asarray(weights)), (n, 3))
    means = jnp.broadcast_to(jnp.array([[0.0, 0], [10, 0], [20, 0]]), (n, 3, 2))
    return Mixture(weights, means, jnp.full((n, 3, 2), 0.1))


def test_two_gaussians_in_closed_form():
    """Both KLs, the right way round, the entropy, and standard errors that are true."""
    result = judge(single(0.0, 1.0), single(0.5, 2.0), jax.random.key(0), 40_000)
    forward, reverse = normal_kl(0, 1, 0.5, 2), normal_kl(0.5, 2, 0, 1)
    assert abs(forward - reverse) > 0.3
    for name, exact in (("kl_teacher_student", forward), ("kl_student_teacher", reverse)):
        stderr = result[name + "_stderr"]
        assert abs(result[name] - exact) < 4 * stderr
        assert stderr < 0.02
    # log π − log q at a ~ π is −½a² + (a − ½)²/8 + const: variance ½·(¾)² + ⅛²
    np.testing.assert_allclose(
        result["kl_teacher_student_stderr"], np.sqrt((0.75**2 / 2 + 0.125**2) / 40_000), rtol=0.05)
    entropy = 0.5 * np.log(2 * np.pi * np.e)
    np.testing.assert_allclose(result["nll_teacher_samples"], entropy + forward, atol=0.02)
    np.testing.assert_allclose(result["gating_entropy"], np.log(2), rtol=1e-5)


def test_of_identical_mixtures_both_kls_are_0():
    """Not only near: the estimator has no error where q = π."""
    q = ring([0.5, 0.3, 0.2])
    result = judge(q, q, jax.random.key(0), 500)
    for name in ("kl_teacher_student", "kl_student_teacher"):
        assert float(result[name]) == 0.0 == float(result[name + "_stderr"])
    assert int(result["modes_found"]) == 3


@pytest.mark.parametrize("weights, found", [
    ([1 / 3, 1 / 3, 1 / 3], 3),
    ([0.6, 0.4, 1e-6], 2),
    ([1.0 - 2e-6, 1e-6, 1e-6], 1),
    ([0.45, 0.45, 0.10], 3),  # a third of its weight: found
    ([0.49, 0.49, 0.02], 2),  # less than a tenth of it
])
def test_modes_found(weights, found):
    """A mode is found with a tenth of its own weight."""
    result = judge(ring([1 / 3, 1 / 3, 1 / 3]), ring(weights), jax.random.key(0), 2_000)
    assert int(result["modes_found"]) == found


def test_the_worst_observation_counts():
    """A mode missing at one of two observations is missing."""
    student = ring([1 / 3, 1 / 3, 1 / 3])
    student = student._replace(
        log_weights=student.log_weights.at[1].set(jnp.log(jnp.array([0.5, 0.5, 1e-9]))))
    result = judge(ring([1 / 3, 1 / 3, 1 / 3]), student, jax.random.key(0), 2_000)
    assert int(result["modes_found"]) == 2
    assert result["kl_teacher_student"] > 1  # averaged over both


def test_the_report_of_a_run(finished):
    """In the task's units, of held-out observations, with as many samples as asked for."""
    student, teacher = finished.report["student"], finished.report["teacher"]
    assert student["kl_teacher_student"] < 0.1 and student["kl_student_teacher"] < 0.1
    assert student["modes_found"] == student["modes_total"] == 2
    assert student["num_samples"] >= 4_000 and student["num_observations"] == 8
    assert student["num_experts"] == 2
    # two separate modes of std ½ in the plane: log 2 + log 2πe/4
    exact = np.log(2) + np.log(2 * np.pi * np.e * 0.25)
    np.testing.assert_allclose(teacher["entropy"], exact, atol=0.08)
    gap = student["nll_teacher_samples"] - student["kl_teacher_student"]
    np.testing.assert_allclose(gap, exact, atol=0.08)
    np.testing.assert_allclose(student["gating_entropy"], np.log(2), atol=0.05)


def test_the_same_run_gives_the_same_report(finished):
    """Evaluation is a function of the configuration and the checkpoint."""
    teacher, student = evaluate.evaluate(finished.config, finished.workdir)
    assert student == finished.report["student"] and teacher == finished.report["teacher"]


def test_without_observations_one_is_enough(finished, monkeypatch):
    """A target that does not depend on anything is judged once, with all the samples."""
    fixed = tiny(task__observation_dim=0)
    task = evaluate.problem.build(fixed, finished.workdir)

    def apply(variables, observation):
        return task.teacher.density(observation)

    student = Policy({}, task.scaler, apply, 0, 2)
    monkeypatch.setattr(evaluate_closed_loop.policy, "load", lambda workdir: student)
    _, result = evaluate.evaluate(fixed, finished.workdir)
    assert result["num_observations"] == 1 and result["num_samples"] == 200
    np.testing.assert_allclose(
        [result["kl_teacher_student"], result["kl_student_teacher"]], 0.0, atol=1e-6)


def test_no_student_no_report(tmp_path):
    """Evaluation of a directory without a student is refused and writes nothing."""
    with pytest.raises(CheckpointError, match="holds no student"):
        evaluate.run(tiny(), tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_the_summary_says_what_the_report_says(finished):
    """The table's numbers are the report's, and it is what the run printed."""
    text, student = evaluate.summary(finished.report), finished.report["student"]
    assert text in finished.printed
    rows = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    for name, key in (("KL(teacher‖student)", "kl_teacher_student"),
                      ("KL(student‖teacher)", "kl_student_teacher")):
        assert f"{student[key]:.4f} ± {student[key + '_stderr']:.4f} nats" in rows[name]
    assert "2 of 2" in rows["modes found"]
    assert f"{student['nll_teacher_samples']:.4f}" in rows["NLL of teacher samples"]
    assert rows["toy, seed 0"].endswith("student")


def test_report_on_disk(finished):
    """`report.json` is what `run` returned."""
    assert json.loads((finished.workdir / "report.json").read_text()) == json.loads(
        json.dumps(finished.report))
