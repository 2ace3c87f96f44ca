"""The kitchen in closed loop: what a policy is shown, determinism, when an episode ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax import closed_loop
from vdd_jax import config as config_lib
from vdd_jax.data import Scaler
from vdd_jax.tasks import kitchen

pytest.importorskip("gymnasium_robotics", reason="the kitchen extra is not installed")
KEY = jax.random.key(3)


def wave(history, valid, key, past):
    return 0.3 * jax.random.normal(key, (len(history), 9))


def test_the_same_key_gives_the_same_episodes():
    """Whatever the number of threads; noise differs between episodes and keys."""
    one, two = (kitchen.rollout(wave, KEY, 2, window=2, episode_limit=6, threads=t)
                for t in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(one.observations[0, 0] - one.observations[1, 0]).max() > 0
    other = kitchen.rollout(wave, jax.random.key(4), 2, episode_limit=1)
    assert np.abs(one.observations[:, 0] - other.observations[:, 0]).max() > 0


def test_a_policy_sees_windows_and_what_it_did():
    """Two observations, the one action between them; before the start the first again and 0."""
    seen = []

    def watch(history, valid, key, past):
        jax.debug.callback(lambda *v: seen.append([np.array(x) for x in v]), history, valid, past,
                           ordered=True)
        return jnp.full((1, 9), 0.1) * (1 + history[:, -1, :1])

    episodes = kitchen.rollout(watch, KEY, 1, window=2, episode_limit=4)
    jax.effects_barrier()
    assert len(seen) == 4
    history, valid, past = seen[0]
    np.testing.assert_array_equal(history[0, 0], history[0, 1])
    assert valid.tolist() == [[False, True]] and not past.any()
    for t in (1, 2, 3):
        history, valid, past = seen[t]
        np.testing.assert_array_equal(history[0], episodes.observations[0, t - 1 : t + 1])
        np.testing.assert_array_equal(past[0, 0], episodes.actions[0, t - 1])
        assert valid.all()


def test_episodes_and_their_ends(monkeypatch):
    """Solved at once: the step is noted; an episode with all seven ends; four are a success."""
    from vdd_jax.tasks.kitchen import subtasks

    done = np.zeros((2, 7), bool)
    done[0], done[1, :4] = True, True
    monkeypatch.setattr(kitchen, "solved", lambda states: done)
    episodes = kitchen.rollout(wave, KEY, 2, episode_limit=3)
    assert list(episodes.steps) == [1, 3] and list(episodes.success) == [True, True]
    assert episodes.events[1].tolist() == [1, 1, 1, 1, -1, -1, -1]
    assert episodes.mask.tolist() == [[True, False, False], [True] * 3]
    assert not episodes.actions[0, 1:].any()
    np.testing.assert_array_equal(episodes.observations[0, 1], episodes.observations[0, 2])
    assert subtasks.ORDERS[episodes.mode[1]] == (0, 1, 2, 3)


def test_actors_take_past_actions():
    """Scaled, and 0 where there was none, whatever the task could tell from positions."""
    config = config_lib.default()
    config.task.update(name="kitchen", window=2)
    scaler = Scaler(jnp.full(9, 1.0), jnp.full(9, 2.0), jnp.zeros(30), jnp.ones(30), jnp.ones(30))
    given = []

    def act(context, key):
        given.append(context.past_actions)
        return jnp.zeros((1, 9))

    actor = closed_loop.actor_of(config, scaler, act)
    history, past = jnp.zeros((1, 2, 30)), jnp.full((1, 1, 9), 5.0)
    actor(history, jnp.ones((1, 2), bool), KEY, past)
    np.testing.assert_allclose(given[-1], 2.0)
    actor(history, jnp.array([[False, True]]), KEY, past)
    assert not given[-1].any()


def test_reports_name_the_simulator_and_its_versions():
    config = config_lib.default()
    config.task.name = "kitchen"
    assert closed_loop.simulator(config).startswith("FrankaKitchen of gymnasium-robotics 1.")
    assert "MuJoCo" in closed_loop.simulator(config)
    config.task.name = "avoiding"
    assert "re-created" in closed_loop.simulator(config)
    config.task.update(name="avoiding", simulator="official")
    assert closed_loop.simulator(config) == "official D3IL simulator"
    config.task.update(name="recorded", simulator="own")
    assert "without episodes" in closed_loop.simulator(config)
