"""Pushing: contexts (drawn, official, hostile), observation, success, modes, demonstrator."""

import os
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.tasks.planar import d3il, pushing, recording
from vdd_jax.tasks.planar.physics import World

pytest.importorskip("mujoco", reason="mujoco is not installed")


def at(red, green):
    return World(pushing.SCENE, pushing.begin(np.array([[red, green]], float), 1), 1)


def test_drawn_contexts_are_the_benchmarks():
    x, y, yaw = np.moveaxis(pushing.draw_contexts(np.random.default_rng(0), 3000), -1, 0)
    assert 0.4 <= x[:, 0].min() < 0.401 and 0.499 < x[:, 0].max() <= 0.5
    assert 0.55 <= x[:, 1].min() < 0.551 and 0.649 < x[:, 1].max() <= 0.65
    assert -0.15 <= y.min() and y.max() <= 0 and np.abs(yaw).max() <= np.pi / 2


def test_the_observation_by_hand():
    seen = d3il.observe_flat(at([0.45, -0.1, 0.3], [0.6, -0.05, -1.2]))[0]
    expected = [0.525, -0.28, 0.525, -0.28, 0.45, -0.1, np.tan(0.3), 0.6, -0.05, np.tan(-1.2)]
    np.testing.assert_allclose(seen, expected, atol=5e-3)


@pytest.mark.parametrize("red, green, success", [
    ([0.42, 0.3, 0], [0.63, 0.3, 0], True),
    ([0.63, 0.3, 0], [0.42, 0.3, 0], True),
    ([0.42, 0.251, 0], [0.63, 0.349, 1], True),
    ([0.42, 0.249, 0], [0.63, 0.3, 0], False),
    ([0.42, 0.3, 0], [0.55, 0.3, 0], False),
])
def test_success_by_hand(red, green, success):
    world = at(red, green)
    assert pushing.solved(world, pushing.inside(world))[0] == success


def test_episodes_take_contexts_in_turn():
    still = lambda h, v, k: jnp.zeros((len(h), 2))  # noqa: E731
    drawn = pushing.rollout(still, jax.random.key(0), 48, episode_limit=2, threads=1)
    np.testing.assert_array_equal(drawn.context, np.arange(48) % 3)  # 16 episodes each
    contexts = pushing.draw_contexts(np.random.default_rng(1), 2)
    given = pushing.rollout(still, jax.random.key(0), 5, contexts=contexts, episode_limit=2,
                            threads=1)
    np.testing.assert_array_equal(given.context, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(given.observations[0], given.observations[2])
    np.testing.assert_allclose(given.observations[1, 0, 4:6], contexts[1, 0, :2], atol=1e-3)


@pytest.fixture(scope="module")
def attempts():
    return recording.attempt(pushing.DEMONSTRATOR, np.arange(8) % 4, 0, threads=2)


def test_every_mode_is_demonstrated(attempts):
    assert attempts.success.all()
    np.testing.assert_array_equal(attempts.mode, np.arange(8) % 4)
    sizes = np.linalg.norm(attempts.actions, axis=-1)[attempts.mask]
    assert sizes.max() <= 0.0125 + 1e-6 and 100 < np.median(attempts.steps) < 300


def save(path, contexts):
    path.write_bytes(pickle.dumps(contexts))
    return path


def context(x=0.45, quaternion=(1.0, 0.0, 0.0, 0.0)):
    pose = [np.array([x, -0.1, 10.0], np.float32), np.array(quaternion)]
    return [*pose, *pose]


def test_contexts_are_read(tmp_path):
    half = np.deg2rad(35.0)
    file = save(tmp_path / "test_contexts.pkl",
                [context(), context(0.5, (np.cos(half), 0.0, 0.0, np.sin(half)))])
    for path in (file, tmp_path, str(file)):
        found = pushing.read_contexts(path)
        np.testing.assert_allclose(found[:, 0], [[0.45, -0.1, 0.0], [0.5, -0.1, 2 * half]],
                                   rtol=1e-6)
        assert found.shape == (2, 2, 3)


@pytest.mark.parametrize("contexts, message", [
    ({"no": "list"}, "expected a list of contexts, found dict"),
    ([], "expected a list of contexts"),
    ([context(), context()[:2]], "context 1 has 1 poses, expected 2"),
    ([context(np.nan)], "context 0 contains NaN or infinity"),
    ([context(quaternion=(0.0, 0.0, 0.0, 0.0))], "not a unit quaternion"),
    ([context(quaternion=(1.0, 0.0, 0.0))], r"shapes \(3,\) and \(3,\)"),
    ([context(99.0)], "not on the table"),
    ([["a", "b", "c", "d"]], "context 0 does not hold arrays of numbers"),
    ([7], "context 0 does not hold arrays of numbers"),
])
def test_hostile_contexts_are_refused(tmp_path, contexts, message):
    with pytest.raises(ValueError, match=message):
        pushing.read_contexts(save(tmp_path / "contexts.pkl", contexts))


def test_truncated_missing_and_dangerous_contexts(tmp_path):
    with pytest.raises(FileNotFoundError, match="no contexts at"):
        pushing.read_contexts(tmp_path)
    file = save(tmp_path / "contexts.pkl", [context()])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a complete pickle"):
        pushing.read_contexts(file)
    file.write_bytes(pickle.dumps(Path("/")))
    with pytest.raises(ValueError, match="refused"):
        pushing.read_contexts(file)


def test_official_contexts():
    root = os.environ.get("VDD_SHARED_DATA")
    if not root:
        pytest.skip("VDD_SHARED_DATA is not set: no official contexts")
    contexts = pushing.read_contexts(os.path.join(root, "d3il_contexts", "pushing"))
    assert contexts.shape == (60, 2, 3)
    low, high = np.moveaxis(np.array(pushing.AREAS), 1, 0)
    assert (contexts[..., :2] >= low - 1e-6).all() and (contexts[..., :2] <= high + 1e-6).all()
    np.testing.assert_allclose(contexts[0, :, 2], np.deg2rad([69.603806, -15.701174]), atol=1e-3)


def recorded(tmp_path, **changes):
    """A file in the form of the official recordings, of 5 frames."""
    rng = np.random.default_rng(0)
    quaternion = np.tile([np.cos(0.2), 0.0, 0.0, np.sin(0.2)], (5, 1))
    record = {
        "robot": {"des_c_pos": rng.normal(size=(5, 3)), "c_pos": rng.normal(size=(5, 3))},
        "red-box": {"pos": rng.normal(size=(5, 3)), "quat": quaternion},
        "green-box": {"pos": rng.normal(size=(5, 3)), "quat": quaternion},
    }
    record.update(changes)
    save(tmp_path / "env_0.pkl", record)
    return record


def test_official_demonstrations_are_read(tmp_path):
    record = recorded(tmp_path)
    (trajectory,) = pushing.read(tmp_path)
    assert trajectory.observations.shape == (4, 10) and trajectory.actions.shape == (4, 2)
    robot = record["robot"]
    np.testing.assert_allclose(trajectory.observations[1, :4],
                               [*robot["des_c_pos"][1, :2], *robot["c_pos"][1, :2]], rtol=1e-5)
    np.testing.assert_allclose(trajectory.observations[:, [6, 9]], np.tan(0.4), rtol=1e-5)
    np.testing.assert_allclose(trajectory.actions, np.diff(robot["des_c_pos"][:, :2], axis=0),
                               rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(pushing.past_actions(trajectory.observations),
                               trajectory.actions[:-1], atol=1e-5)


@pytest.mark.parametrize("changes, message", [
    ({"red-box": {}}, "no array 'red-box/pos'"),
    ({"robot": 3}, "no array 'robot/des_c_pos'"),
    ({"green-box": {"pos": np.zeros((5, 2)), "quat": np.zeros((5, 4))}}, r"shape \(5, 2\)"),
    ({"green-box": {"pos": np.zeros((4, 3)), "quat": np.ones((4, 4))}}, r"have \[4, 5\] frames"),
    ({"green-box": {"pos": np.full((5, 3), np.inf), "quat": np.ones((5, 4))}}, "NaN or infinity"),
])
def test_hostile_demonstrations_are_refused(tmp_path, changes, message):
    recorded(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        pushing.read(tmp_path)


def test_a_directory_without_demonstrations(tmp_path):
    with pytest.raises(FileNotFoundError, match="no demonstrations"):
        pushing.read(tmp_path)
