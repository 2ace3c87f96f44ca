"""Physics and closed loop: servos, threads, what a policy is shown, chunks, scores by hand."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from vdd_jax.tasks.planar import block_push, d3il, engine, physics, pushing, scores
from vdd_jax.tasks.planar.physics import World

pytest.importorskip("mujoco", reason="mujoco is not installed")


def world(task=pushing, n=1, threads=1, seed=0):
    return World(task.SCENE, task.starts(np.random.default_rng(seed), n), threads)


def drive(world, actions):
    """The tcp after each of the actions `[L, 2]`, `[L, 2]`, and the commands."""
    tcp, desired = [], []
    for action in actions:
        world.step(np.tile(action, (len(world.tcp), 1)), np.ones(len(world.tcp), bool))
        tcp.append(world.tcp[0])
        desired.append(world.desired[0])
    return np.array(tcp), np.array(desired)


def test_servos_are_the_documented_second_order_systems():
    """Free of boxes, against the exact response of x'' = ω² (u − x) − 2ζω x'."""
    actions = np.zeros((60, 2))
    actions[5:30] = [-0.004, -0.006]  # away from the boxes
    tcp, _ = drive(world(), actions)
    for axis, servo in enumerate(d3il.SERVOS):
        w, z, f = servo
        a = np.array([[0, 1], [-w * w, -2 * z * w]])
        block = np.zeros((3, 3))
        block[:2, :2], block[1, 2] = a, w * w
        flow = scipy.linalg.expm(block * d3il.CONTROL_SECONDS)
        state, command, path = np.array([pushing.START[axis], 0.0]), pushing.START[axis], []
        for action in actions[:, axis]:
            command += action
            told = command + f * 2 * z / w * action / d3il.CONTROL_SECONDS
            state = flow[:2, :2] @ state + flow[:2, 2] * told
            path.append(state[0])
        np.testing.assert_allclose(tcp[:, axis], path, atol=2e-3)


@pytest.mark.parametrize("axis, coefficients", [
    (0, (0.131, 0.609, 0.150, 0.167)), (1, (0.047, 0.860, 0.029, 0.084))])
def test_the_rod_lags_as_in_the_recorded_demonstrations(axis, coefficients):
    """Against c' − c = k (des − c) + m Δc + n Δdes' + o Δdes, identified from the recordings."""
    k, m, n, o = coefficients
    desired = np.concatenate([np.zeros(2), 0.01 * np.arange(1, 21), np.full(60, 0.2)])
    identified = [0.0, 0.0]
    for t in range(1, len(desired) - 1):
        c, before = identified[-1], identified[-2]
        identified.append(c + k * (desired[t] - c) + m * (c - before)
                          + n * (desired[t + 1] - desired[t]) + o * (desired[t] - desired[t - 1]))
    actions = np.zeros((len(desired) - 2, 2))
    actions[:, axis] = -np.diff(desired[1:])  # away from the boxes
    tcp, _ = drive(world(), actions)
    # The tcp paired with a command is the one before its physics.
    ours = np.concatenate([[0.0, 0.0, 0.0], pushing.START[axis] - tcp[:, axis]])
    difference = ours[: len(identified)] - identified
    assert np.abs(difference).max() < 0.008 and np.sqrt(np.mean(difference**2)) < 0.003


def test_the_tcp_lags_then_swings_then_arrives():
    actions = np.zeros((120, 2))
    actions[:20] = [-0.005, -0.005]
    tcp, desired = drive(world(), actions)
    assert (desired[2] - tcp[2] < -0.002).all()  # both axes still behind the command
    assert tcp[:, 1].min() < desired[-1, 1] - 0.003  # y swings beyond it
    np.testing.assert_allclose(tcp[-1], desired[-1], atol=1e-3)


def test_block_pushs_effector_is_at_its_command_after_a_step():
    tcp, desired = drive(world(block_push), np.full((8, 2), [0.0, -0.01]))
    np.testing.assert_allclose(tcp, desired, atol=1e-3)


def test_commands_stay_within_the_bounds_of_block_push():
    _, desired = drive(world(block_push), np.full((20, 2), [-0.03, -0.03]))
    np.testing.assert_allclose(desired[-1], [0.15, -0.5])


def test_boxes_rest_where_they_were_put():
    for task in (block_push, pushing):
        begin = task.starts(np.random.default_rng(3), 8)
        now = World(task.SCENE, begin, 1)
        np.testing.assert_allclose(now.positions[..., :2], begin.boxes[..., :2], atol=1e-3)
        np.testing.assert_allclose(now.yaw, (begin.boxes[..., 2] + np.pi) % (2 * np.pi) - np.pi,
                                   atol=1e-2)
        before = now.positions.copy()
        for _ in range(30):
            now.step(np.zeros((8, 2)), np.ones(8, bool))
        np.testing.assert_allclose(now.positions, before, atol=1e-3)
        np.testing.assert_allclose(
            now.positions[..., 2], task.SCENE.table + task.SCENE.boxes[0].rest, atol=1e-3)


def test_a_pushed_box_moves_with_the_rod_and_stays_flat():
    begin = pushing.begin(np.array([[[0.525, -0.15, 0.0], [0.65, 0.0, 0.0]]]), 1)
    now = World(pushing.SCENE, begin, 1)
    drive(now, np.full((40, 2), [0.0, 0.006]))
    reach = d3il.BOX_HALF + d3il.ROD
    np.testing.assert_allclose(now.positions[0, 0, 1] - now.tcp[0, 1], reach, atol=4e-3)
    assert abs(now.rotations[0, 0, 1:3]).max() < 0.02
    np.testing.assert_allclose(now.positions[0, 1, :2], [0.65, 0.0], atol=1e-3)


def noisy(history, valid, key):
    return 0.004 + 0.003 * jax.random.normal(key, (len(history), 2))


@pytest.mark.parametrize("task", [block_push, pushing])
def test_the_number_of_threads_does_not_matter(task):
    one, three = (task.rollout(noisy, jax.random.key(1), 6, window=2, episode_limit=40,
                               threads=threads) for threads in (1, 3))
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.final_boxes[:, :, :2].std() > 0


def test_starts_follow_from_the_key_alone():
    still = lambda h, v, k: jnp.zeros((len(h), 2))  # noqa: E731
    for task in (block_push, pushing):
        a, b, c = (task.rollout(policy, jax.random.key(seed), 5, episode_limit=3, threads=1)
                   for policy, seed in ((noisy, 0), (still, 0), (still, 1)))
        np.testing.assert_array_equal(a.observations[:, 0], b.observations[:, 0])
        assert not np.array_equal(a.observations[:, 0], c.observations[:, 0])


def test_what_a_policy_is_shown():
    shown = []

    def spy(history, valid, key):
        jax.debug.callback(lambda h, v: shown.append((np.array(h), np.array(v))), history, valid)
        return jnp.full((len(history), 2), 0.002)

    episodes = pushing.rollout(spy, jax.random.key(0), 2, window=3, episode_limit=5, threads=1)
    jax.effects_barrier()
    assert len(shown) == 5
    for t, (history, valid) in enumerate(shown):
        np.testing.assert_array_equal(valid, np.tile(np.arange(3) >= 2 - t, (2, 1)))
        for slot in range(3):
            np.testing.assert_array_equal(
                history[:, slot], episodes.observations[:, max(t - 2 + slot, 0)])


def test_d3il_shows_the_state_before_the_physics_of_the_command():
    move = lambda h, v, k: jnp.full((len(h), 2), 0.005)  # noqa: E731
    late = pushing.rollout(move, jax.random.key(0), 1, episode_limit=4, threads=1).observations[0]
    np.testing.assert_array_equal(late[1, 2:4], late[0, 2:4])  # commanded, not moved yet
    np.testing.assert_allclose(late[1, :2] - late[0, :2], 0.005, atol=1e-6)
    now = block_push.rollout(move, jax.random.key(0), 1, episode_limit=4, threads=1)
    assert (now.observations[0, 1, 6:8] - now.observations[0, 0, 6:8] > 0.004).all()
    np.testing.assert_allclose(block_push.past_actions(now.observations), now.actions[:, :-1],
                               atol=1e-6)
    np.testing.assert_allclose(pushing.past_actions(late), 0.005, atol=1e-6)


def test_chunks_are_executed_open_loop():
    def policy(history, valid, key):
        chunk = 1e-3 * jnp.arange(1.0, 5.0)
        return jnp.tile(jnp.stack([chunk, 0 * chunk], -1), (len(history), 1, 1))

    episodes = pushing.rollout(policy, jax.random.key(0), 2, execute_steps=3, episode_limit=8,
                               threads=1)
    np.testing.assert_allclose(1e3 * episodes.actions[0, :, 0], [1, 2, 3, 1, 2, 3, 1, 2],
                               rtol=1e-5)
    for task in (block_push, pushing):
        with pytest.raises(ValueError, match=r"execute_steps is 5 but the policy returns 4"):
            task.rollout(policy, jax.random.key(0), 2, execute_steps=5, threads=1)
        with pytest.raises(ValueError, match=r"shape \(2, 3\); expected \[2, 2\]"):
            task.rollout(lambda h, v, k: jnp.zeros((2, 3)), jax.random.key(0), 2, threads=1)


def test_no_policy_is_asked_after_the_end_and_the_end_is_kept():
    """A box that starts between two targets of its own is pushed in by hand."""
    boxes = np.array([[[0.42, 0.3, 0.0], [0.63, 0.235, 0.0]]])
    begin = pushing.begin(boxes, 1)._replace(tcp=np.array([[0.63, 0.1]]))
    asked = []

    def policy(history, valid, key):
        jax.debug.callback(lambda: asked.append(1))
        return jnp.tile(jnp.array([0.0, 0.006]), (len(history), 1))

    episodes = engine.rollout(pushing.RULES, policy, jax.random.key(0), begin, limit=100,
                              threads=1)
    jax.effects_barrier()
    steps = int(episodes.steps[0])
    assert episodes.success[0] and not episodes.timed_out[0] and 5 < steps < 60
    assert len(asked) == steps == episodes.mask.sum()
    assert episodes.events[0].tolist() == [[1, -1], [-1, steps]] and episodes.mode[0] == 0
    np.testing.assert_array_equal(episodes.actions[0, steps:], 0.0)
    rest = episodes.observations[0, steps:]
    np.testing.assert_array_equal(rest, np.broadcast_to(rest[0], rest.shape))


def test_compiled_is_exposed():
    assert block_push.COMPILED is False and pushing.COMPILED is False


def test_a_missing_simulator_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    physics.model_of.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'vdd_jax\[sim\]'"):
        world()


def test_first_events_and_pair_modes_by_hand():
    never = -1
    events = np.array([
        [[5, never], [never, 9]],  # 0 → 0, then 1 → 1
        [[9, never], [never, 5]],  # 1 → 1 first
        [[never, 4], [8, never]],  # crossed
        [[never, 8], [4, never]],
        [[3, 9], [6, never]],  # box 0 left target 0 again: no mode
        [[never, never], [never, never]],
        [[7, never], [never, 7]],  # at once: the smaller number
    ])
    inside = np.array([[[1, 0], [0, 1]], [[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, 1], [1, 0]],
                       [[0, 1], [1, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 1]]], bool)
    np.testing.assert_array_equal(scores.first_event(events), [0, 3, 1, 2, 0, -1, 0])
    np.testing.assert_array_equal(scores.pair_mode(events, inside), [0, 3, 1, 2, -1, -1, 0])


def episodes(success, mode, context):
    n = len(success)
    success = np.array(success, bool)
    return engine.Episodes(success, ~success, np.full(n, 10), np.array(mode), np.array(context),
                           *[None] * 6)


def test_entropies_by_hand():
    assert scores.entropy(np.array([0, 0, 1, 1]), 2) == pytest.approx(1.0)
    assert scores.entropy(np.array([0, 1, 2, 3, -1]), 4) == pytest.approx(1.0)
    assert scores.entropy(np.array([-1, -1]), 4) == 0.0
    ran = episodes([1, 1, 1, 1, 0, 0], [0, 1, 2, 2, 3, 0], [0, 0, 1, 1, 2, 2])
    # Contexts: one bit of two, none, no success.
    assert scores.entropy_per_context(ran, 4, drop_failed=False) == pytest.approx(0.5 / 3)
    assert scores.entropy_per_context(ran, 4, drop_failed=True) == pytest.approx(0.25)
    found = pushing.score(ran)
    assert found["entropy"] == pytest.approx(0.5 / 3) and found["contexts"] == 3
    assert found["success"] == pytest.approx(4 / 6) and found["time_out"] == pytest.approx(2 / 6)
    assert found["mode_histogram"] == [1, 1, 2, 0] and found["modes_found"] == 3
    nothing = episodes([0], [-1], [0])
    assert pushing.score(nothing)["entropy"] == 0.0
    with pytest.raises(ValueError, match="no episodes"):
        pushing.score(episodes([], [], []))
