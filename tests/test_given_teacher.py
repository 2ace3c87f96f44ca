"""A function as a teacher: its prediction becomes the score, rows stay with their observations, and
the two examples run from data to a student that stands alone."""

import importlib
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import tiny, tiny_avoiding

from vdd_jax import config as config_lib
from vdd_jax import evaluate_closed_loop, open_loop, policy, problem, stages, teachers
from vdd_jax.checkpoint import CheckpointError
from vdd_jax.config import ConfigError
from vdd_jax.core import mixture, schedules
from vdd_jax.types import Context

pytest_plugins = "smoke_run"

EXAMPLES = Path(__file__).parents[1] / "experiments" / "examples"
RNG = np.random.default_rng(0)
SCHEDULES = {"ve": schedules.ve(0.01, 10.0), "vp": schedules.vp_cosine(),
             "chain": schedules.vp_discrete(schedules.linear_betas(20, 1e-3, 0.3)),
             "flow": schedules.flow(), "flow_to_data": schedules.flow(data_at_one=True)}
LEVELS = jnp.array([0.3, 1.0, 2.0])  # σ/α


def density(observation):
    """Two Gaussians that move with the observation, `[..., 1]` → `[...]` over 2 numbers."""
    means = jnp.stack([jnp.concatenate([observation, -observation], -1),
                       jnp.concatenate([1 - observation, observation], -1)], -2)
    return mixture.uniform(means, jnp.full(means.shape, 0.3))


def predicting(kind, schedule):
    """What a perfect network of that kind says, of flat batches."""
    def function(x, observation, t):
        assert x.ndim == 2 and observation.shape == (len(x), 1) and t.shape == (len(x),)
        at = mixture.diffuse(density(observation), schedule.alpha(t), schedule.sigma(t))
        return schedules.convert(schedule, mixture.score(at, x), "score", kind, x, t)

    return function


def context(observation):
    """`[B, O]` as the window of one that tasks with time have."""
    n = len(observation)
    return Context(observation[:, None], jnp.zeros((n, 1, 1)), jnp.ones((n, 1), bool),
                   jnp.zeros((n, 0, 2)), jnp.zeros((n, 0, 1)))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", schedules.PREDICTIONS)
def test_every_prediction_under_every_schedule_becomes_the_score(name, kind):
    """And E[a|x]: of several samples at several observations, each at a time of its own."""
    schedule = SCHEDULES[name]
    teacher = teachers.from_function(predicting(kind, schedule), schedule, kind)
    observation = jnp.array([[0.2], [-0.5], [0.9]])
    x = jnp.asarray(RNG.normal(size=(4, 3, 2)), jnp.float32)
    t = schedule.time(LEVELS)
    at = mixture.diffuse(density(observation), schedule.alpha(t), schedule.sigma(t))
    expected = mixture.score(at, x)
    for seen in (observation, context(observation)):
        np.testing.assert_allclose(teacher.score(x, seen, t), expected, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(
            teacher.denoise(x, seen, t),
            schedules.convert(schedule, expected, "score", "x0", x, t), rtol=2e-3, atol=2e-3)
    # without an axis of samples, and with one time for all
    np.testing.assert_allclose(teacher.score(x[0], observation, t), expected[0], rtol=2e-3,
                               atol=2e-3)


def test_parameters_are_an_argument():
    """`of` puts others in their place, as the compiled step does."""
    teacher = teachers.from_function(lambda p, x, o, t: p * x, SCHEDULES["ve"], "score",
                                     params=jnp.array(2.0))
    x, seen, t = jnp.ones((3, 2)), jnp.zeros((3, 1)), jnp.ones(3)
    np.testing.assert_allclose(teacher.score(x, seen, t), 2.0)
    np.testing.assert_allclose(teacher.of(jnp.array(5.0)).score(x, seen, t), 5.0)


def test_what_a_function_sees_of_a_window_and_a_goal():
    """A window `[N, T, O]`; the whole context where there is a goal."""
    shapes = []

    def function(x, observation, t):
        shapes.append(jax.tree.map(jnp.shape, observation))
        return x

    teacher = teachers.from_function(function, SCHEDULES["ve"], "score")
    seen = Context(jnp.zeros((3, 4, 5)), jnp.zeros((3, 4, 5)), jnp.ones((3, 4), bool),
                   jnp.zeros((3, 3, 2)), jnp.zeros((3, 0, 5)))
    x, t = jnp.zeros((7, 3, 2)), jnp.ones(3)
    assert teacher.score(x, seen, t).shape == (7, 3, 2)
    teacher.score(x, seen._replace(goal=jnp.zeros((3, 2, 5))), t)
    assert shapes[0] == (21, 4, 5)
    assert shapes[1].goal == (21, 2, 5) and shapes[1].valid == (21, 4)


def test_a_function_that_cannot_be_differentiated():
    """A callback is asked under `grad` and `vmap` as the bounds do it."""
    def ask(x):
        return np.asarray(x) * 3

    def function(x, observation, t):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(ask, shape, x, vmap_method="broadcast_all")

    teacher = teachers.from_function(function, SCHEDULES["ve"], "score", differentiable=False)
    seen, t = jnp.zeros((3, 1)), jnp.ones(3)

    def surrogate(x):
        each = jax.vmap(lambda x: jax.lax.stop_gradient(teacher.score(x, seen, t)) * x)
        return each(x).sum()

    x = jnp.asarray(RNG.normal(size=(2, 4, 3, 2)), jnp.float32)
    np.testing.assert_allclose(jax.jit(jax.grad(surrogate))(x), 3 * x, rtol=1e-6)


@pytest.mark.parametrize("function, predicts, words", [
    (lambda x, o, t: x, "noise", "predicts one of x0, eps, score, velocity, not 'noise'"),
    (lambda x, o, t: x[:, :1], "eps", r"shape \(12, 1\) for noised actions \(12, 2\)"),
    (lambda x, o, t: t, "eps", r"shape \(12,\) for noised actions \(12, 2\)"),
])
def test_functions_that_cannot_be_teachers(function, predicts, words):
    with pytest.raises(ValueError, match=words):
        teachers.from_function(function, SCHEDULES["ve"], predicts).score(
            jnp.zeros((4, 3, 2)), jnp.zeros((3, 1)), jnp.ones(3))


GIVEN = {"teacher__given": True, "stages": ("distill",)}


@pytest.mark.parametrize("config, words", [
    (tiny(**GIVEN), "teacher of toy is exact"),
    (tiny_avoiding(**GIVEN, teacher__workdir="x"), "workdir names a teacher, and another"),
    (tiny_avoiding(teacher__given=True), "'train_teacher', which a teacher that is given"),
    (tiny_avoiding(teacher__given=True, stages=("consistency",)), "'consistency', which"),
    (tiny_avoiding(**GIVEN, distill__trunk_from_teacher=True), "trunk_from_teacher needs a"),
])
def test_configurations_that_leave_no_room_for_it(config, words):
    with pytest.raises(ConfigError, match=words):
        config_lib.validate(config)


def test_keys_of_a_teacher_of_ours_do_not_matter():
    """Its levels of noise are those of another schedule."""
    config = tiny_avoiding(**GIVEN, distill__noise__low=0.001, teacher__sigma_min=0.5)
    config_lib.validate(config)


def run_example(name, workdir):
    """The smoke run of an example, judged at fewer states; what it printed."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.syspath_prepend(str(EXAMPLES))
        patch.setattr(sys, "argv", [name, "--smoke", f"--workdir={workdir}"])
        patch.setattr(evaluate_closed_loop, "TIMED_CALLS", 3)
        for size, value in (("STATES", 8), ("SAMPLES", 16), ("FLOW_STATES", 4),
                            ("FLOW_SAMPLES", 2), ("FLOW_STEPS", 2)):
            patch.setattr(open_loop, size, value)
        importlib.import_module(name).main()
    return out.getvalue()


@pytest.fixture(scope="module")
def flow_matching(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("flow_matching")
    return workdir / "run", run_example("flow_matching", workdir)


def test_the_example_of_flow_matching(flow_matching):
    """Ends with measures; the report says whose teacher it was."""
    workdir, printed = flow_matching
    assert "modes found" in printed.splitlines()[-1] and "(floor)" in printed
    report = json.loads((workdir / "report.json").read_text())
    assert report["teacher"]["description"] == "flow matching, an MLP of the user's"
    assert np.isfinite(report["student"]["kl_student_teacher"])
    assert report["config"]["teacher"]["given"]


def test_the_student_stands_without_its_teacher(flow_matching):
    student = policy.load(flow_matching[0])
    seen = np.zeros((5, 1, 1), np.float32)
    assert student.act(seen, jax.random.key(0)).shape == (5, 2)
    assert np.isfinite(student.log_prob(seen, np.zeros((5, 2), np.float32))).all()
    with pytest.raises(CheckpointError, match="a function in Python, which no checkpoint holds"):
        policy.load_teacher(flow_matching[0])


def test_to_go_on_the_teacher_is_given_again(flow_matching, capsys):
    """Without it one sentence; with it what is finished is skipped."""
    workdir = flow_matching[0]
    config = config_lib.from_json((workdir / "config.json").read_text())
    with pytest.raises(CheckpointError, match="give it to stages.run.config, workdir, teacher"):
        stages.run(config, workdir)
    config.stages = ("distill",)
    teacher = teachers.from_function(lambda x, o, t: x, schedules.flow(), "velocity")
    stages.run(config, workdir, teacher=teacher)
    assert "[distill] finished before; skipped" in capsys.readouterr().out
    config.teacher.given = False
    with pytest.raises(ConfigError, match="config.teacher.given is False"):
        problem.build(config, workdir, teacher)


def test_the_example_of_pytorch(tmp_path):
    """Without the KLs, which need a gradient."""
    pytest.importorskip("torch", reason="needs the torch extra")
    printed = run_example("torch_teacher", tmp_path)
    assert "modes found" in printed.splitlines()[-1]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "kl_student_teacher" not in report["student"]
    assert np.isfinite(report["student"]["sliced_wasserstein"])
