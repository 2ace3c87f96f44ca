"""The kitchens step as FrankaKitchen does, whatever the number of threads."""

import builtins

import numpy as np
import pytest

from vdd_jax.tasks.kitchen import world as world_lib
from vdd_jax.tasks.kitchen.subtasks import SUBTASKS, TOLERANCE
from vdd_jax.tasks.kitchen.world import START, World

pytest.importorskip("gymnasium_robotics", reason="the kitchen extra is not installed")
ALL = np.ones(1, bool)


def test_positions_are_those_of_frankakitchen_to_the_last_bit():
    """Noise, limits, servos; actions beyond ±1 too. (The package's own step fails in newer MuJoCo.)
    """
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import KitchenEnv

    try:
        official = KitchenEnv(terminate_on_tasks_completed=False)
        seen, _ = official.reset(seed=7)
    except AssertionError:
        pytest.skip("this FrankaKitchen does not start with this MuJoCo")
    positions = np.r_[0:9, 18:39]
    rng = np.random.default_rng(0)
    with World([3, 7], threads=2) as ours:
        for _ in range(40):
            np.testing.assert_array_equal(ours.observed[1], seen["observation"][positions])
            action = rng.uniform(-1.3, 1.3, 9)
            seen, *_ = official.step(action)
            ours.step(np.stack([0.3 * action, action]), np.ones(2, bool))
        np.testing.assert_array_equal(ours.observed[1], seen["observation"][positions])


def test_start_and_subtasks_are_the_packages():
    kitchen = pytest.importorskip("gymnasium_robotics.envs.franka_kitchen.kitchen_env")
    assert TOLERANCE == kitchen.BONUS_THRESH and set(SUBTASKS) == set(kitchen.OBS_ELEMENT_GOALS)
    for name, (where, values) in SUBTASKS.items():
        np.testing.assert_array_equal(np.arange(30)[where], kitchen.OBS_ELEMENT_INDICES[name])
        np.testing.assert_array_equal(values, kitchen.OBS_ELEMENT_GOALS[name])
    with World([0]) as ours:
        np.testing.assert_array_equal(ours.states[0], START)
        assert 0 < np.abs(ours.observed[0] - ours.states[0])[:9].max() <= 1e-3


def test_threads_and_neighbours_change_nothing():
    actions = np.random.default_rng(1).uniform(-1, 1, (3, 9))
    found = []
    for threads, running in ((1, [True] * 3), (3, [True, True, False])):
        with World([1, 2, 3], threads) as ours:
            for _ in range(3):
                ours.step(actions, np.array(running))
            found.append(ours.observed[:2].copy())
    np.testing.assert_array_equal(*found)


def test_an_episode_that_does_not_run_stands_still():
    with World([1], 1) as ours:
        before = ours.observed.copy()
        ours.step(np.ones((1, 9)), ~ALL)
        np.testing.assert_array_equal(ours.observed, before)


def test_missing_packages_are_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name.startswith("gymnasium_robotics"):
            raise ImportError("No module named 'gymnasium_robotics'")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'vdd_jax\[kitchen\]'"):
        world_lib.packages()
