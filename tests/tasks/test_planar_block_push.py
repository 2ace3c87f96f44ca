"""Block push: starts, observation, success, modes, goals, demonstrator, official recordings."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.tasks.planar import block_push, engine, recording
from vdd_jax.tasks.planar.physics import Starts, World

pytest.importorskip("mujoco", reason="mujoco is not installed")


def at(blocks, targets=((0.28, 0.2, 3.1), (0.52, 0.2, 3.1))):
    """A world whose blocks `[2, 3]` lie as told."""
    return World(block_push.SCENE, Starts(np.array([block_push.START]), np.array([blocks]),
                                          np.array([targets]), np.zeros(1, int)), 1)


def test_starts_are_the_benchmarks():
    begin = block_push.starts(np.random.default_rng(0), 2000)
    x, y, yaw = np.moveaxis(begin.boxes, -1, 0)
    assert 0.3 <= x.min() < 0.305 and 0.495 < x.max() <= 0.5
    assert -0.35 <= y.min() < -0.345 and -0.055 < y.max() <= -0.05
    assert 0 <= yaw.min() < 0.05 and 3.1 < yaw.max() <= np.pi
    assert np.abs(x[:, 0] - x[:, 1]).min() > 0.1
    np.testing.assert_array_equal(begin.tcp, np.tile([0.3, -0.4], (2000, 1)))
    assert np.abs(begin.targets[..., 0] - [0.28, 0.52]).max() <= 0.005
    assert np.abs(begin.targets[..., 1] - 0.2).max() <= 0.0075


def test_the_observation_by_hand():
    seen = block_push.observe(at([[0.35, -0.2, -0.5], [0.48, -0.1, 2.0]]))[0]
    np.testing.assert_allclose(
        seen, [0.35, -0.2, np.pi - 0.5, 0.48, -0.1, 2.0, 0.3, -0.4, 0.3, -0.4], atol=2e-3)


@pytest.mark.parametrize("blocks, success", [
    ([[0.28, 0.2, 0], [0.52, 0.2, 0]], True),
    ([[0.52, 0.2, 0], [0.28, 0.2, 0]], True),
    ([[0.28, 0.2, 0], [0.32, 0.2, 0]], False),  # both in the same target
    ([[0.28, 0.151, 0], [0.52, 0.249, 0]], True),
    ([[0.28, 0.149, 0], [0.52, 0.2, 0]], False),  # 5.1 cm away
])
def test_success_by_hand(blocks, success):
    world = at(blocks)
    assert block_push.solved(world, block_push.inside(world))[0] == success


@pytest.fixture(scope="module")
def attempts():
    """Three tries of each mode."""
    return recording.attempt(block_push.DEMONSTRATOR, np.arange(12) % 4, 0, threads=2)


def test_every_mode_is_demonstrated(attempts):
    assert attempts.success.all()
    np.testing.assert_array_equal(attempts.mode, np.arange(12) % 4)
    found = block_push.score(attempts)
    assert found["entropy"] == pytest.approx(1.0) and found["modes_found"] == 4
    json.dumps(found)


def test_demonstrations_are_like_the_official_ones(attempts):
    assert 70 <= attempts.steps.min() and attempts.steps.max() <= 201
    sizes = np.linalg.norm(attempts.actions, axis=-1)[attempts.mask]
    assert sizes.max() <= block_push.ACTION_LIMIT + 1e-6
    assert 0.012 < np.median(sizes) < 0.02


def test_no_two_demonstrations_are_alike(attempts):
    # Not even from the same start: scripts have random numbers of their own.
    start = block_push.starts(np.random.default_rng(0), 1)
    same = block_push.DEMONSTRATOR._replace(
        starts=lambda rng, n: Starts(*(np.repeat(v, n, 0) for v in start)))
    twins = recording.attempt(same, [2, 2], 0, threads=1)
    assert twins.success.all() and not np.array_equal(twins.actions[0], twins.actions[1])


def test_replaying_the_actions_gives_the_same_episode(attempts):
    i = 5
    begin = block_push.DEMONSTRATOR.starts(
        np.random.default_rng(np.random.SeedSequence(0).spawn(1)[0]), 12)
    begin = Starts(*(v[i : i + 1] for v in begin))
    with World(block_push.SCENE, begin, 1) as world:
        again = engine.play(block_push.RULES, world, begin,
                            lambda t, seen, running: attempts.actions[i : i + 1, t], 350)
    assert again.success[0] and again.steps[0] == attempts.steps[i]
    np.testing.assert_array_equal(again.observations[0], attempts.observations[i])


def test_goals_by_hand(attempts):
    """Goal = the last observation of a demonstration; its own episode reaches it fully."""
    last = attempts.observations[np.arange(12), attempts.steps - 1]
    wanted = block_push.goal_targets(last, attempts.targets)
    straight = np.isin(np.arange(12) % 4, (0, 3))
    np.testing.assert_array_equal(wanted, np.where(straight[:, None], [0, 1], [1, 0]))
    assert block_push.score(attempts, last[:, None])["goal_reached"] == 1.0
    # The goals of the other assignment, one for all episodes: half of them pursue it.
    assert block_push.score(attempts, last[None, :1])["goal_reached"] == pytest.approx(0.5)
    # One block only.
    events = attempts.events.copy()
    events[:, 1] = -1
    half = block_push.score(attempts._replace(events=events), last[:, None])
    assert half["goal_reached"] == pytest.approx(0.5)
    # Goals are taken in turn, and only their last observation counts.
    window = np.stack([np.zeros_like(last), last], 1)
    assert block_push.score(attempts, window)["goal_reached"] == 1.0
    assert block_push.score(attempts, jnp.asarray(window))["goal_reached"] == 1.0


def test_a_rollout_of_a_policy_that_stands_still_times_out():
    episodes = block_push.rollout(lambda h, v, k: jnp.zeros((len(h), 2)), jax.random.key(0), 3,
                                  episode_limit=10, threads=1)
    assert episodes.timed_out.all() and (episodes.steps == 10).all()
    assert (episodes.mode == -1).all() and episodes.observations.shape == (3, 10, 10)
    assert block_push.score(episodes)["entropy"] == 0.0


def official(tmp_path, **changes):
    rng = np.random.default_rng(0)
    arrays = {"observations": rng.normal(size=(2, 6, 16)), "actions": rng.normal(size=(2, 6, 2)),
              "masks": np.array([[1, 1, 1, 0, 0, 0], [1] * 6], float)}
    arrays.update(changes)
    for name, array in arrays.items():
        np.save(tmp_path / f"multimodal_push_{name}.npy", array)
    return arrays


def test_official_recordings_are_read(tmp_path):
    arrays = official(tmp_path)
    first, second = block_push.read(tmp_path)
    assert len(first.actions) == 3 and len(second.actions) == 6
    np.testing.assert_allclose(first.observations, arrays["observations"][0, :3, :10], rtol=1e-6)
    assert first.actions.dtype == np.float32


@pytest.mark.parametrize("changes, message", [
    ({"actions": np.zeros((2, 6, 3))}, r"shape \(2, 6, 3\), expected \[E, T, 2\]"),
    ({"masks": np.ones((2, 5))}, "episodes and steps"),
    ({"observations": np.full((2, 6, 16), np.nan)}, "episode 0 is empty or holds NaN"),
    ({"masks": np.zeros((2, 6))}, "episode 0 is empty"),
    ({"masks": np.array([None])}, "not a complete array"),
])
def test_hostile_recordings_are_refused(tmp_path, changes, message):
    official(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        block_push.read(tmp_path)


def test_truncated_and_missing_recordings(tmp_path):
    with pytest.raises(FileNotFoundError, match="multimodal_push_observations.npy"):
        block_push.read(tmp_path)
    official(tmp_path)
    file = tmp_path / "multimodal_push_actions.npy"
    file.write_bytes(file.read_bytes()[:150])
    with pytest.raises(ValueError, match="multimodal_push_actions.npy: not a complete array"):
        block_push.read(tmp_path)


def test_lengths_are_those_of_the_official_recordings():
    root = os.environ.get("VDD_SHARED_DATA")
    if not root:
        pytest.skip("VDD_SHARED_DATA is not set: no official recordings")
    masks = np.load(os.path.join(root, "block_push", "multimodal_push_masks.npy"))
    actions = np.load(os.path.join(root, "block_push", "multimodal_push_actions.npy"))
    lengths = (masks > 0).sum(1)
    assert (lengths.min(), lengths.max()) == block_push.LENGTHS
    steps = np.linalg.norm(actions, axis=-1)[masks > 0]
    assert steps.max() <= block_push.ACTION_LIMIT + 1e-6
