"""The closed loop: rules, what a policy is shown, action chunks, reproducibility, scores."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.tasks import avoiding
from vdd_jax.tasks.avoiding import dynamics, geometry, simulator
from vdd_jax.tasks.avoiding.score import wilson


def constant(*action):
    return lambda history, valid, key: jnp.tile(jnp.array(action), (len(history), 1))


def run(policy, num_episodes=4, seed=0, **options):
    return jax.jit(partial(avoiding.rollout, policy, num_episodes=num_episodes, **options))(
        jax.random.key(seed)
    )


def test_ways_to_end():
    ends = ("success", "collided", "timed_out", "left_corridor")
    for action, end in (
        ((0.004, 0.0125), "success"),  # right of everything
        ((0.0, 0.0125), "collided"),  # straight on into the first cylinder
        ((0.0, 0.0), "timed_out"),
        ((0.0125, 0.0), "left_corridor"),
    ):
        episodes = run(constant(*action))
        for name in ends:
            assert np.asarray(getattr(episodes, name)).all() == (name == end), (action, name)
            assert np.asarray(getattr(episodes, name)).any() == (name == end), (action, name)
        assert (np.asarray(episodes.mask).sum(1) == episodes.steps).all()
    assert (np.asarray(run(constant(0.004, 0.0125)).mode) == 23).all()
    assert (np.asarray(run(constant(0.0, 0.0)).mode) == -1).all()
    assert (np.asarray(run(constant(0.0, 0.0)).steps) == 250).all()


def test_a_tunnelling_action_collides():
    """One huge step from before to behind the first cylinder; both ends are free."""
    state = simulator.begin(jnp.array([0.5, -0.16]))._replace(steps=jnp.array(1))
    jump = dynamics.Track(jnp.array([0.5, -0.04]), jnp.array([0.5, -0.04]), *state.track[2:])
    assert not geometry.collides(state.track.tcp, state.track.tcp)
    assert not geometry.collides(jump.tcp, jump.tcp)
    original = dynamics.advance
    try:
        dynamics.advance = lambda track, action: jump
        assert simulator.step(state, jnp.zeros(2)).collided
    finally:
        dynamics.advance = original


def test_a_finished_episode_stays_as_it_is():
    episodes = run(constant(0.004, 0.0125), start_noise=0.0)
    steps = int(episodes.steps[0])
    np.testing.assert_array_equal(episodes.actions[0, steps:], 0.0)
    assert not episodes.mask[0, steps:].any() and episodes.mask[0, :steps].all()
    last = episodes.observations[0, steps:]
    np.testing.assert_array_equal(last, np.broadcast_to(last[0], last.shape))
    assert last[0, 3] > geometry.FINISH_Y >= episodes.observations[0, steps - 1, 3]


def test_observations_are_the_integrated_actions_and_the_tracking_tcp():
    episodes = run(constant(0.004, 0.0125), start_noise=0.0)
    steps = int(episodes.steps[0])
    observations, actions = episodes.observations[0, :steps], episodes.actions[0, :steps]
    np.testing.assert_allclose(
        observations[:, :2], geometry.START + np.arange(steps)[:, None] * [0.004, 0.0125], atol=1e-5
    )
    # The robot has not moved yet when the first command is given.
    np.testing.assert_array_equal(observations[1, 2:], observations[0, 2:])
    track = dynamics.start(jnp.asarray(geometry.START))
    track = track._replace(desired=track.desired + actions[0], last_action=actions[0])
    for t in range(1, 10):
        np.testing.assert_allclose(observations[t, 2:], track.tcp, atol=1e-5)
        track = dynamics.advance(track, actions[t])


def test_history_and_valid_at_the_first_steps():
    """A policy that moves y by a code of what it is shown, so that its actions can be read back."""

    def policy(history, valid, key):
        count = valid.sum(1)
        span = history[:, -1, 1] - history[:, 0, 1]  # des y over the window
        return jnp.stack([1e-3 * count, 1e-3 + 0 * span], -1)

    episodes = run(policy, window=4)
    counts = np.asarray(episodes.actions[:, :8, 0]) / 1e-3
    np.testing.assert_allclose(counts, np.tile([1, 2, 3, 4, 4, 4, 4, 4], (4, 1)), rtol=1e-5)

    seen = []

    def spy(history, valid, key):
        jax.debug.callback(lambda h, v: seen.append((np.array(h), np.array(v))), history, valid)
        return jnp.tile(jnp.array([0.0, 0.01]), (len(history), 1))

    episodes = avoiding.rollout(spy, jax.random.key(0), 2, window=3, episode_limit=5)
    jax.effects_barrier()
    observations = np.asarray(episodes.observations)
    for t, (history, valid) in enumerate(seen):
        np.testing.assert_array_equal(valid, np.tile(np.arange(3) >= 2 - t, (2, 1)))
        for slot in range(3):  # before the beginning: the first observation again
            at = max(t - 2 + slot, 0)
            np.testing.assert_array_equal(history[:, slot], observations[:, at])
    assert len(seen) == 5


def test_chunks_are_executed_open_loop():
    def policy(history, valid, key):
        """Four actions that number themselves; the first also tells the y of the asking."""
        chunk = jnp.arange(1.0, 5.0) * 1e-3
        return jnp.tile(jnp.stack([0 * chunk, chunk], -1), (len(history), 1, 1))

    episodes = run(policy, execute_steps=3)
    y = np.asarray(episodes.actions[0, :9, 1]) * 1e3
    np.testing.assert_allclose(y, [1, 2, 3] * 3, rtol=1e-5)
    assert episodes.observations.shape == (4, 250, 4)  # 250 is no multiple of 3
    # A one-step chunk is the plain action.
    plain = run(constant(0.004, 0.0125))
    chunk = run(lambda h, v, k: constant(0.004, 0.0125)(h, v, k)[:, None])
    np.testing.assert_array_equal(plain.observations, chunk.observations)


def test_a_chunk_policy_is_asked_as_often_as_needed():
    calls = []

    def policy(history, valid, key):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.zeros((len(history), 5, 2))

    avoiding.rollout(policy, jax.random.key(0), 2, execute_steps=5, episode_limit=23)
    jax.effects_barrier()
    assert len(calls) == 5


def test_the_policy_is_not_asked_after_all_episodes_ended():
    calls = []

    def policy(history, valid, key):
        jax.debug.callback(lambda: calls.append(1))
        return constant(0.004, 0.0125)(history, valid, key)

    episodes = avoiding.rollout(policy, jax.random.key(0), 2)
    jax.effects_barrier()
    assert len(calls) == int(episodes.steps.max())


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(4, 3\); expected \[4, 2\]"):
        run(lambda h, v, k: jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"execute_steps is 3 but the policy returns 2 action"):
        run(lambda h, v, k: jnp.zeros((4, 2, 2)), execute_steps=3)
    with pytest.raises(ValueError, match="execute_steps is 2 but the policy returns 1 action"):
        run(constant(0.0, 0.0), execute_steps=2)


def test_actions_are_clipped_only_when_asked():
    free, clipped = run(constant(0.0, 0.03)), run(constant(0.0, 0.03), action_limit=0.0125)
    np.testing.assert_allclose(free.actions[0, 0], [0.0, 0.03])
    np.testing.assert_allclose(clipped.actions[0, 0], [0.0, 0.0125])


def test_start_noise_and_reproducibility():
    noisy = lambda h, v, k: 0.01 * jax.random.normal(k, (len(h), 2))  # noqa: E731
    first, again, other = run(noisy, 256), run(noisy, 256), run(noisy, 256, seed=1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.observations, other.observations)
    start = np.asarray(first.observations[:, 0])
    np.testing.assert_allclose(start[:, :2].std(0), 0.0015, rtol=0.2)
    np.testing.assert_array_equal(start[:, :2], start[:, 2:])
    exact = run(noisy, start_noise=0.0)
    np.testing.assert_allclose(exact.observations[:, 0, :2], np.tile(geometry.START, (4, 1)))


def episodes(success, mode):
    n = len(success)
    no, success = np.zeros(n, bool), np.array(success, bool)
    steps, mode = np.full(n, 60), np.array(mode, int)
    return avoiding.Episodes(success, ~success, no, no, steps, mode, *[None] * 3)


def test_score_by_hand():
    scores = avoiding.score(episodes([True, True, True, True, False], [0, 0, 5, 5, 7]))
    assert scores["success"] == 0.8 and scores["collision"] == 0.2 and scores["modes_found"] == 2
    np.testing.assert_allclose(scores["entropy"], np.log(2) / np.log(24))
    assert scores["mode_histogram"][0] == scores["mode_histogram"][5] == 2
    assert len(scores["mode_histogram"]) == 24 and sum(scores["mode_histogram"]) == 4
    json.dumps(scores)
    every = avoiding.score(episodes([True] * 48, list(range(24)) * 2))
    np.testing.assert_allclose(every["entropy"], 1.0)
    none = avoiding.score(episodes([False] * 3, [1, 2, -1]))
    assert none["entropy"] == 0.0 and none["success_low"] == 0.0 and none["success_high"] > 0.3
    with pytest.raises(ValueError, match="no episodes"):
        avoiding.score(episodes([], []))


def test_wilson_against_a_published_value():
    # 8 of 10: [0.490, 0.943] (Wilson score interval without continuity correction).
    np.testing.assert_allclose(wilson(8, 10), [0.4902, 0.9433], atol=1e-4)
    np.testing.assert_allclose(wilson(10, 10)[1], 1.0)
