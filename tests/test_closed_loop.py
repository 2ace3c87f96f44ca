"""Policies as a simulator asks for them: units, windows, goals, chunks."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import tiny_avoiding

from vdd_jax import closed_loop
from vdd_jax import config as config_lib
from vdd_jax.core import schedules
from vdd_jax.core.mixture import Mixture
from vdd_jax.data import Scaler
from vdd_jax.tasks import avoiding
from vdd_jax.teachers import Teacher

KEY = jax.random.key(0)
N, T = 5, 3
CONFIG = tiny_avoiding(task__window=T, task__chunk=2)
SCALER = Scaler(*(jnp.asarray(v) for v in (
    [1.0, -2.0, 1.0, -2.0], [2.0, 0.5, 2.0, 0.5], [3.0, 0.0, -1.0, 1.0], [4.0, 1.0, 0.5, 2.0],
    [0.1, 0.2, 0.3, 0.4])))
HISTORY = np.random.default_rng(0).normal(size=(N, T, 4)).astype(np.float32)
VALID = np.array([[False, False, True], [False, True, True], *[[True] * 3] * 3])
GOALS = np.random.default_rng(1).normal(size=(2, 1, 4)).astype(np.float32)


def student(seen, spread=0.0):
    """`apply` of a student of two experts far apart, at `seen(context)` and 100 further."""
    def apply(variables, context):
        mean = seen(context)
        means = jnp.stack([mean, mean + 100.0], axis=-2)
        weights = jnp.log(jnp.broadcast_to(jnp.array([0.8, 0.2]), means.shape[:-1]))
        return Mixture(weights, means, jnp.full_like(means, spread))

    return apply


def test_what_the_networks_see():
    """Exactly `Scaler.context` of the window, with past actions made of the desired positions and
    each episode's own goal, in turn."""
    contexts = []
    closed_loop.of_student(
        CONFIG, lambda _, c: contexts.append(c) or student(lambda c: c.observations[:, -1])(_, c),
        {}, SCALER, "most_likely_mean", GOALS)(HISTORY, VALID, KEY)
    past = HISTORY[:, 1:, :2] - HISTORY[:, :-1, :2]
    expected = SCALER.context(HISTORY, VALID, past, GOALS[[0, 1, 0, 1, 0]])
    jax.tree.map(np.testing.assert_array_equal, contexts[0], expected)
    assert contexts[0].past_actions.shape == (N, T - 1, 2)
    np.testing.assert_allclose(contexts[0].past_actions[4], (past[4] - [1, -2]) / [2, 0.5],
                               rtol=1e-5)


def test_actions_are_in_the_tasks_units_and_a_chunk_is_a_row():
    """Known scaled actions come out unscaled, first action of the chunk first."""
    actor = closed_loop.of_student(
        CONFIG, student(lambda c: c.observations[:, -1]), {}, SCALER, "most_likely_mean")
    scaled = np.asarray(SCALER.scale_observation(HISTORY[:, -1]))
    found = actor(HISTORY, VALID, KEY)
    assert found.shape == (N, 2, 2)
    np.testing.assert_allclose(found[:, 0], scaled[:, :2] * [2, 0.5] + [1, -2], rtol=1e-4)
    np.testing.assert_allclose(found[:, 1], scaled[:, 2:] * [2, 0.5] + [1, -2], rtol=1e-4)


def test_what_is_done_is_within_the_range():
    """Of the scaler, in the task's units, whatever acts."""
    def act(context, key):
        return context.observations[:, -1]

    free = closed_loop.actor_of(CONFIG, SCALER, act)(HISTORY, VALID, KEY)
    low, high = np.quantile(free.reshape(N, 4), [0.3, 0.6], axis=0)
    scaler = SCALER._replace(action_low=low, action_high=high)
    found = closed_loop.actor_of(CONFIG, scaler, act)(HISTORY, VALID, KEY)
    np.testing.assert_allclose(found.reshape(N, 4), np.clip(free.reshape(N, 4), low, high),
                               rtol=1e-6)


def test_the_ways_of_acting():
    """The likeliest mean; a mean drawn by the gating; a sample with the spread of its expert."""
    many = np.zeros((400, T, 4), np.float32)
    acts = {how: np.asarray(closed_loop.of_student(
        CONFIG, student(lambda c: 0 * c.observations[:, -1], spread=0.5), {}, SCALER, how)(
            many, np.ones((400, T), bool), KEY))[:, 0, 0] for how in (
                "most_likely_mean", "sampled_mean", "sample")}
    np.testing.assert_allclose(acts["most_likely_mean"], 1.0)
    assert set(np.unique(acts["sampled_mean"])) == {1.0, 201.0}
    assert abs((acts["sampled_mean"] > 100).mean() - 0.2) < 0.08
    low = acts["sample"][acts["sample"] < 100]
    assert abs(len(low) / 400 - 0.8) < 0.08
    assert abs(low.mean() - 1.0) < 0.25 and abs(low.std() - 1.0) < 0.15  # 0.5 × the unit 2


def test_the_teacher_with_its_sampler():
    """Where the denoised action does not depend on the noise, it is what is done, whatever the
    number of steps; the number asked for is the number of calls."""
    calls = []

    def denoise(x, context, t):
        assert x.shape == (N, 4) and t.shape == (N,)
        jax.debug.callback(lambda t: calls.append(float(t[0])), t)
        return context.observations[:, -1]

    teacher = Teacher(None, schedules.ve(0.1, 3.0), None, denoise)
    settings = config_lib.default().teacher
    settings.sampler.num_steps = 5
    expected = closed_loop.of_student(
        CONFIG, student(lambda c: c.observations[:, -1]), {}, SCALER, "most_likely_mean")(
            HISTORY, VALID, KEY)
    for given, wanted in ((0, 5), (1, 1), (3, 3)):
        calls.clear()
        actor = closed_loop.of_teacher(CONFIG, teacher, settings, SCALER, given)
        found = jax.block_until_ready(jax.jit(actor)(HISTORY, VALID, KEY))
        jax.effects_barrier()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert len(calls) == wanted and max(calls) == pytest.approx(3.0)


def test_chunks_are_executed_open_loop():
    """Of each chunk of 4 the first 3, in their order, then the actor is asked again, with the
    window of the newest observations; seconds are counted."""
    chunk = np.array([[0.001, 0.004], [0.002, 0.003], [-0.001, 0.002], [9.0, 9.0]], np.float32)

    def actor(history, valid, key):
        assert history.shape == (2, T, 4) and valid.shape == (2, T)
        asked = jnp.sum(valid, axis=1)[:, None, None]  # 1 at the first, then the whole window
        return asked * jnp.broadcast_to(chunk, (2, 4, 2))

    config = tiny_avoiding(task__window=T, task__chunk=4, task__execute_steps=3)
    episodes, seconds = closed_loop.run(config, actor, KEY, 2)
    assert isinstance(episodes, avoiding.Episodes) and seconds > 0
    assert episodes.success.shape == (2,)
    expected = np.concatenate([chunk[:3], T * chunk[:3], T * chunk[:3]])
    assert np.all(episodes.mask[:, :9])
    np.testing.assert_allclose(episodes.actions[:, :9], np.stack([expected] * 2), rtol=1e-5)
    moved = np.diff(np.asarray(episodes.observations)[:, :10, :2], axis=1)
    np.testing.assert_allclose(moved, np.stack([expected] * 2), atol=1e-6)


@pytest.mark.parametrize("file", ["", "contexts.pkl"])
def test_a_simulator_that_is_not_jaxs_is_run_as_it_is(monkeypatch, file):
    """Outside jit, with the window and, where a file is given, its contexts."""
    given = {}

    def rollout(actor, key, num_episodes, **options):
        assert not isinstance(key, jax.core.Tracer)
        given.update(options, episodes=num_episodes)
        return "ran"

    task = SimpleNamespace(COMPILED=False, rollout=rollout, read_contexts=lambda f: f"of {f}")
    monkeypatch.setitem(closed_loop.TASKS, "pushing", task)
    config = config_lib.default()
    config.task.update(name="pushing", window=3, contexts=file)
    ran, seconds = closed_loop.run(config, None, jax.random.key(0), 7)
    assert ran == "ran" and seconds >= 0
    contexts = {"contexts": f"of {file}"} if file else {}
    assert given == {"window": 3, "execute_steps": 1, "episodes": 7, **contexts}
