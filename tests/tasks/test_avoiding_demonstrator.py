"""The scripted demonstrator: balanced modes, the gamepad's limits, success, reproducibility."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vdd_jax.tasks import avoiding
from vdd_jax.tasks.avoiding import demonstrator, geometry, simulator


@pytest.fixture(scope="module")
def drawn():
    return avoiding.demonstrate_counted(seed=0, episodes_per_mode=4)


@pytest.fixture(scope="module")
def replays(drawn):
    """All trajectories through the simulator at once."""
    trajectories, _ = drawn
    frames = demonstrator.FRAMES
    actions = np.stack(
        [np.pad(t.actions, ((0, frames - len(t.actions)), (0, 0))) for t in trajectories]
    )
    starts = np.stack([t.observations[0, 2:] for t in trajectories])

    def one(start, actions):
        def frame(state, action):
            return simulator.step(state, action), simulator.observe(state)

        return jax.lax.scan(frame, simulator.begin(start), actions)

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(starts, actions))


def test_the_modes_are_covered_evenly_and_in_turn(drawn, replays):
    trajectories, _ = drawn
    states, _ = replays
    assert len(trajectories) == 96
    modes = np.asarray(geometry.mode_of(jnp.asarray(states.ways)))
    np.testing.assert_array_equal(modes, np.tile(np.arange(24), 4))


def test_all_succeed_in_the_simulator_from_their_disturbed_starts(drawn, replays):
    trajectories, _ = drawn
    states, observations = replays
    assert states.success.all()
    starts = np.stack([t.observations[0] for t in trajectories])
    assert 0.002 < (starts[:, :2] - geometry.START).std() < 0.004
    for trajectory, simulated in zip(trajectories, observations, strict=True):
        # The simulator stops at the finish line; the recording goes on for some frames.
        end = int(np.argmax(trajectory.observations[:, 3] > geometry.FINISH_Y))
        np.testing.assert_allclose(simulated[:end], trajectory.observations[:end], atol=1e-5)


def test_observations_integrate_the_actions(drawn):
    for trajectory in drawn[0]:
        np.testing.assert_allclose(
            np.diff(trajectory.observations[:, :2], axis=0), trajectory.actions[:-1], atol=1e-6
        )


def test_actions_are_a_gamepads(drawn):
    actions = np.concatenate([t.actions for t in drawn[0]])
    limit = geometry.ACTION_LIMIT
    assert np.abs(actions).max() <= limit + 1e-7 and actions[:, 1].min() >= 0
    sizes = np.abs(actions)
    assert ((sizes == 0) | (sizes >= 0.4 * limit - 1e-7)).all()  # the dead zone
    at_rest, at_limit = (sizes == 0).mean(0), (sizes > 0.995 * limit).mean(0)
    # The recordings: 0.44 and 0.15 at rest, 0.08 and 0.48 at the limit.
    np.testing.assert_allclose(at_rest, [0.44, 0.15], atol=0.12)
    np.testing.assert_allclose(at_limit, [0.08, 0.48], atol=0.12)


def test_lengths_and_idle_beginnings_vary_like_the_recordings(drawn):
    trajectories, _ = drawn
    lengths = np.array([len(t.actions) for t in trajectories])
    assert lengths.max() <= demonstrator.FRAMES and 60 < np.median(lengths) < 100
    assert lengths.std() > 5
    idle = np.array([np.argmax(np.abs(t.actions).sum(1) > 0) for t in trajectories])
    assert 3 <= np.median(idle) <= 6 and idle.max() >= 9


def test_few_attempts_are_discarded():
    # Of the attempts themselves, before any is discarded.
    good = demonstrator._attempts(jax.random.key(7), 20).good
    assert good.mean() >= 0.97


def test_the_same_seed_gives_the_same_episodes(drawn):
    again, other = avoiding.demonstrate(0, 4), avoiding.demonstrate(1, 4)
    for a, b in zip(drawn[0], again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not np.array_equal(drawn[0][0].observations[0], other[0].observations[0])


def test_no_two_episodes_of_a_mode_are_alike(drawn):
    of_mode_0 = drawn[0][::24]
    assert len({t.actions.tobytes() for t in of_mode_0}) == 4


def test_load_uses_the_demonstrator_without_a_directory(drawn):
    trajectories, description = avoiding.load(
        ConfigDict({"demonstrations": "", "episodes_per_mode": 4}))
    np.testing.assert_array_equal(trajectories[5].actions, drawn[0][5].actions)
    assert description["demonstrations"] == "scripted demonstrator of vdd_jax, 96 episodes"
    assert description["discarded"] == drawn[1]
    spec = avoiding.SPEC
    assert trajectories[0].observations.shape[1] == spec.observation_dim == 4
    assert trajectories[0].actions.shape[1] == spec.action_dim == 2
    assert trajectories[0].actions.dtype == trajectories[0].observations.dtype == np.float32


def test_numbers_of_episodes_must_be_positive():
    with pytest.raises(ValueError, match="episodes_per_mode must be at least 1, got 0"):
        avoiding.demonstrate(0, 0)
