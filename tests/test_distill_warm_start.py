"""Distillation from samples of the teacher: warm start, likelihood beside the bounds, jitter."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import at_once, context
from ml_collections import ConfigDict
from tiny_config import tiny

from vdd_jax import config as config_lib
from vdd_jax import distill, problem, teachers
from vdd_jax.core import schedules
from vdd_jax.data import batch_at
from vdd_jax.teachers import Teacher
from vdd_jax.types import Batch

pytest_plugins = "smoke_run"

KEY = jax.random.key(0, impl="unsafe_rbg")


def silent(x, observation, t):
    raise AssertionError("the teacher was asked")


def data(n=256):
    rng = np.random.default_rng(0)
    observation = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
    action = np.concatenate([2 * observation, -observation], 1)
    action = action + 0.2 * rng.normal(size=action.shape)
    return Batch(jnp.asarray(observation), jnp.asarray(action, jnp.float32))


def trained(config, score, steps):
    teacher = Teacher(score, schedules.ve(0.01, 10.0))
    model = problem.student(config)
    state = at_once(distill.init, config.distill, model, KEY, data().observation)
    step = distill.make_step(config.distill, model, teacher)
    state, _ = jax.jit(lambda s: jax.lax.scan(
        lambda s, _: step(s, data(), KEY), s, length=steps))(state)
    return model, state


def test_the_warm_start_fits_the_actions_and_asks_no_teacher():
    """With warm_start = 1 a student learns mean and spread of the data from the data alone."""
    config = tiny(distill__warm_start=1.0, distill__num_iterations=600, distill__batch_size=64,
                  distill__learning_rate=1e-2, distill__noise__low=0.02, student__num_experts=1)
    model, state = trained(config, silent, 600)
    q = model.apply({"params": state.params}, jnp.asarray([[-0.5], [0.5]]))
    np.testing.assert_allclose(q.means[:, 0], [[-1.0, 0.5], [1.0, -0.5]], atol=0.15)
    spread = np.sqrt(np.einsum("bij,bij->bi", q.scale_tril[:, 0], q.scale_tril[:, 0]))
    np.testing.assert_allclose(spread, 0.2, atol=0.07)


def test_the_bounds_take_over_after_the_warm_start():
    """Before the fraction the gradient is that of the likelihood; after it the teacher pulls."""
    config = tiny(distill__warm_start=0.5, distill__num_iterations=800, distill__batch_size=64,
                  distill__learning_rate=1e-2, distill__noise__low=0.02, student__num_experts=1)

    def elsewhere(x, observation, t):  # N(5, .2²), diffused
        return (5.0 - x) / (0.04 + jnp.square(t)[..., None])

    model, early = trained(config, elsewhere, 400)
    at = jnp.asarray([[0.5]])
    assert np.abs(model.apply({"params": early.params}, at).means - 5.0).min() > 2.0
    model, late = trained(config, elsewhere, 800)
    np.testing.assert_allclose(model.apply({"params": late.params}, at).means, 5.0, atol=0.5)


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_the_likelihood_pulls_beside_the_bounds(weight):
    """A teacher without a pull leaves the mean to the likelihood, if it has a weight."""
    config = tiny(distill__likelihood_weight=weight, distill__num_iterations=300,
                  distill__learning_rate=1e-2, distill__batch_size=64, distill__noise__high=0.5,
                  distill__noise__low=0.1, distill__reallocations=0, student__num_experts=1,
                  student__init_spread=0.0)

    def around_zero(x, observation, t):
        return -x / (1.0 + jnp.square(t)[..., None])

    model, state = trained(config, around_zero, 300)
    mean = model.apply({"params": state.params}, jnp.asarray([[1.0]])).means[0, 0, 0]
    assert mean > 0.5 if weight else abs(mean) < 0.25


def test_the_warm_start_has_a_batch_of_its_own():
    """`warm_batch_size` states are drawn in the warm start."""
    config = tiny(distill__warm_start=1.0, distill__warm_batch_size=24).distill
    sizes = []

    def spy(data, key, step, size):
        sizes.append(size)
        return batch_at(data, key, step, size)

    model = problem.student(tiny())
    state = at_once(distill.init, config, model, KEY, data().observation)
    teacher = Teacher(silent, schedules.ve(0.01, 10.0))
    jax.eval_shape(distill.make_step(config, model, teacher, spy), state, data(), KEY)
    assert set(sizes) == {24}


def fake_task(rows=6):
    """A teacher that always denoises to (newest observation's first number, 0)."""
    def denoise(x, seen, t):
        first = seen.observations[..., -1, :1]
        return jnp.broadcast_to(jnp.concatenate([first, 0 * first], -1), x.shape)

    teacher = Teacher(None, schedules.ve(0.05, 5.0), None, denoise)
    settings = ConfigDict({"sampler": dict(
        num_steps=3, kind="euler", spacing="karras", clip=0.0)})
    observation = context(batch=(rows,), goal=1)
    return SimpleNamespace(teacher=teacher, teacher_config=settings,
                           data=Batch(observation, jnp.zeros((rows, 2))))


def test_the_teachers_actions_belong_to_the_states_they_stand_beside():
    """K actions for each state, also where the state was moved, by one shift for a window."""
    task, k = fake_task(), 3
    config = tiny(distill__teacher_actions=6 * k + 1, distill__state_jitter=0.1)
    found = distill.teachers_actions(config.distill, task, jax.random.key(1))
    seen = found.observation.observations
    assert found.action.shape == (18, 2) and seen.shape[0] == 18
    np.testing.assert_allclose(found.action[:, 0], seen[:, -1, 0], atol=1e-5)
    given = task.data.observation
    np.testing.assert_array_equal(seen[:6], given.observations)
    shift = np.asarray(seen[6:] - jnp.tile(given.observations, (2, 1, 1)))
    np.testing.assert_allclose(shift, shift[:, :1].repeat(shift.shape[1], 1), atol=1e-5)
    assert 0.05 < shift.std() < 0.2 and np.abs(shift).min() > 0
    for name in ("steps", "valid", "past_actions", "goal"):
        np.testing.assert_array_equal(
            getattr(found.observation, name)[6:12], getattr(given, name))


def test_fewer_actions_of_the_teacher_than_there_are_states():
    """Each at a state of its own, drawn anew with another key."""
    task = fake_task(rows=40)
    config = tiny(distill__teacher_actions=12).distill
    kept = []
    for seed in (0, 1):
        found = distill.teachers_actions(config, task, jax.random.key(seed))
        seen = np.asarray(found.observation.observations)
        assert found.action.shape == (12, 2)
        np.testing.assert_allclose(found.action[:, 0], seen[:, -1, 0], atol=1e-5)
        given = np.asarray(task.data.observation.observations)
        rows = [int(np.flatnonzero((given == window).all((1, 2)))[0]) for window in seen]
        assert len({*rows}) == 12
        kept.append({*rows})
    assert kept[0] != kept[1]


@pytest.mark.parametrize(("asked", "steps"), [(0, 3), (7, 7)])
def test_the_teachers_actions_take_as_many_steps_as_asked(asked, steps, monkeypatch):
    """As many as the teacher acts with, or `actions_steps`; the teacher's own stay as they are."""
    seen, sample = [], teachers.sample

    def spy(teacher, settings, *rest):
        seen.append(settings.sampler.num_steps)
        return sample(teacher, settings, *rest)

    monkeypatch.setattr(teachers, "sample", spy)
    task = fake_task()
    config = tiny(distill__teacher_actions=6, distill__actions_steps=asked).distill
    distill.teachers_actions(config, task, jax.random.key(1))
    assert set(seen) == {steps} and task.teacher_config.sampler.num_steps == 3


def test_weighting_scales_each_level_by_its_ratio_squared():
    """At one fixed level the gradient of 'denoiser' is that of 'kl' times (σ/α)²."""
    norms = {}
    for weighting in ("kl", "denoiser"):
        config = tiny(distill__weighting=weighting, distill__noise__kind="fixed",
                      distill__noise__high=0.5).distill

        def pull(x, observation, t):
            return (1.0 - x) / (0.1 + jnp.square(t)[..., None])

        model = problem.student(tiny())
        state = at_once(distill.init, config, model, KEY, data().observation)
        step = distill.make_step(config, model, Teacher(pull, schedules.ve(0.01, 10.0)))
        norms[weighting] = float(jax.jit(step)(state, data(), KEY)[1]["expert_grad_norm"])
    assert norms["denoiser"] == pytest.approx(0.25 * norms["kl"], rel=1e-4)


@pytest.mark.parametrize("key, theirs, named", [
    ("width", 64, "width"), ("encoder_depth", 1, "encoder_depth"), ("fourier", 3, "fourier"),
    ("backbone", "transformer", "backbone")])
def test_a_trunk_that_is_another_function_is_refused(key, theirs, named):
    """The message names what differs and nothing else."""
    config = config_lib.default()
    config.student.update(trunk="residual_mlp", trunk_width=256, trunk_depth=2, activation="silu")
    teacher = config.teacher.copy_and_resolve_references()
    teacher[key] = theirs
    with pytest.raises(config_lib.ConfigError) as error:
        distill.with_teachers_trunk(config, {}, SimpleNamespace(teacher_config=teacher))
    differs = str(error.value).partition("differ in ")[2]
    assert differs.startswith(f"{named}: teacher {theirs}, student ") and ";" not in differs
