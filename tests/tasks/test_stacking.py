"""Stacking: observation, gripper, success, orders and scores by hand, rollouts, contexts."""

import os
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.tasks import stacking
from vdd_jax.tasks.planar import engine, sorting
from vdd_jax.tasks.planar.physics import Starts
from vdd_jax.tasks.stacking import physics, rules
from vdd_jax.tasks.stacking.scene import TIP

pytest.importorskip("mujoco", reason="mujoco is not installed")
APART = np.array([[[0.4, -0.2, 0.0], [0.4, -0.05, 0.0], [0.57, -0.1, 0.0]]])
REST = rules.SCENE.table + rules.HALF


def world(boxes=APART, tcp=rules.START):
    boxes = np.asarray(boxes, float).reshape(1, 3, 3)
    targets = np.array([[[*rules.TARGET, 0.0]]])
    return physics.World(rules.SCENE, Starts(np.array([tcp]), boxes, targets, np.zeros(1, int)), 1)


def act(now, *action, times=1):
    for _ in range(times):
        now.step(np.array([action]), np.ones(1, bool))
    return now


def test_sizes():
    spec = stacking.spec(None)
    assert (spec.observation_dim, spec.action_dim, spec.num_modes, spec.episode_limit) == (
        17, 5, 6, 1000)
    assert spec.control_hz == pytest.approx(33.33, abs=0.01) and stacking.COMPILED is False


def test_the_hand_follows_and_the_observation_says_so():
    now = world()
    act(now, 0.01, -0.005, -0.01, 0.02, physics.OPEN, times=10)
    act(now, 0.0, 0.0, 0.0, 0.0, physics.OPEN, times=20)
    np.testing.assert_allclose(now.desired[0], [0.625, -0.05, 0.2, 0.2, 0.08], atol=1e-9)
    np.testing.assert_allclose(now.tcp[0], now.desired[0], atol=1e-3)
    seen = rules.observe(now)[0]
    np.testing.assert_allclose(seen[:5], now.desired[0])
    expected = np.concatenate([[x, y, REST, np.tan(yaw)] for x, y, yaw in APART[0]])
    np.testing.assert_allclose(seen[5:], expected, atol=2e-3)


def test_the_command_stays_within_bounds():
    now = act(world(), 0.0, 0.0, -0.02, 0.0, physics.OPEN, times=30)
    assert now.desired[0, 2] == pytest.approx(rules.SCENE.table + TIP + 0.002)
    assert now.tcp[0, 2] - TIP > rules.SCENE.table - 1e-3  # the fingertips above the table


@pytest.mark.parametrize("width, opens", [(0.08, True), (0.0751, True), (0.075, False),
                                          (0.0, False), (-1.0, False), (9.0, True)])
def test_the_gripper_opens_above_the_threshold_alone(width, opens):
    now = act(world(), 0.0, 0.0, 0.0, 0.0, width, times=20)
    assert now.desired[0, 4] == (physics.OPEN if opens else physics.CLOSED)
    assert (now.tcp[0, 4] > 0.079) == opens
    if not opens:
        assert now.tcp[0, 4] < 0.005  # there is nothing between the fingers


def test_a_box_is_lifted_by_friction_alone_and_falls_when_let_go():
    x, y, _ = APART[0, 0]
    now = world(tcp=(x, y, REST, 0.0, physics.OPEN))
    act(now, 0.0, 0.0, 0.0, 0.0, physics.CLOSED, times=10)
    assert 0.05 < now.tcp[0, 4] < 0.061
    act(now, 0.0, 0.0, 0.01, 0.02, physics.CLOSED, times=20)
    act(now, 0.0, 0.0, 0.0, 0.0, physics.CLOSED, times=200)
    assert now.positions[0, 0, 2] == pytest.approx(now.tcp[0, 2], abs=4e-3)  # held, without creep
    assert now.yaw[0, 0] == pytest.approx(0.4, abs=0.02)  # and turned along
    act(now, 0.0, 0.0, 0.0, 0.0, physics.OPEN, times=40)
    assert now.positions[0, 0, 2] == pytest.approx(REST, abs=2e-3)


def test_the_blue_box_is_too_long_for_the_gripper_lengthwise():
    x, y, _ = APART[0, 2]
    lying = world(tcp=(x, y, 0.15, 0.0, physics.OPEN))
    act(lying, 0.0, 0.0, -0.01, 0.0, physics.OPEN, times=20)
    assert lying.tcp[0, 2] > REST + 0.02 or lying.positions[0, 2, 2] < REST - 0.002
    across = world(tcp=(x, y, 0.15, np.pi / 2, physics.OPEN))
    act(across, 0.0, 0.0, -0.01, 0.0, physics.OPEN, times=14)
    act(across, 0.0, 0.0, 0.0, 0.0, physics.CLOSED, times=10)
    act(across, 0.0, 0.0, 0.01, 0.0, physics.CLOSED, times=10)
    assert across.positions[0, 2, 2] > REST + 0.05


def test_what_was_done_is_found_in_the_observations():
    spread, middle = jnp.array([0.003] * 4 + [0.05]), jnp.array([0.0] * 4 + [0.07])
    policy = lambda h, v, k: middle + spread * jax.random.normal(k, (len(h), 5))  # noqa: E731
    ran = stacking.rollout(policy, jax.random.key(0), 3, episode_limit=12, threads=1)
    done = stacking.past_actions(ran.observations)
    np.testing.assert_allclose(done[..., :4], ran.actions[:, :-1, :4], atol=1e-6)
    np.testing.assert_allclose(done[..., 4], physics.snapped(ran.actions[:, :-1, 4]), atol=1e-6)
    assert 0.2 < (done[..., 4] > 0.07).mean() < 0.8  # both occur


class Boxes:
    """Of a world that which rules look at."""

    def __init__(self, *positions):
        self.positions = np.array([positions])
        self.targets = np.array([[[*rules.TARGET, 0.0]]])


@pytest.mark.parametrize("boxes, solved", [
    (((0.5, 0.2, 0.01), (0.5, 0.2, 0.07), (0.5, 0.2, 0.13)), True),
    (((0.5, 0.2, 0.13), (0.55, 0.2, 0.01), (0.5, 0.25, 0.07)), True),
    (((0.5, 0.2, 0.01), (0.5, 0.2, 0.035), (0.5, 0.2, 0.13)), False),  # side by side, nearly
    (((0.5, 0.2, 0.01), (0.5, 0.2, 0.07), (0.5, 0.265, 0.13)), False),  # too far
    (((0.5, 0.2, 0.01), (0.55, 0.24, 0.07), (0.5, 0.2, 0.13)), False),  # diagonally too far
])
def test_success_by_hand(boxes, solved):
    now = Boxes(*boxes)
    assert rules.solved(now, rules.inside(now))[0] == solved


def test_orders_by_hand():
    events = np.array([[1, 2, 3], [1, 3, 2], [2, 1, 3], [3, 1, 2], [2, 3, 1], [3, 2, 1],
                       [5, -1, 4], [-1, 8, -1], [-1, -1, -1]])[..., None]
    # The benchmark's numbers: rgb rbg grb gbr brg bgr; rg rb gr gb br bg; r g b.
    np.testing.assert_array_equal(rules.order_mode(events, 3), [0, 1, 2, 3, 4, 5, -1, -1, -1])
    np.testing.assert_array_equal(rules.order_mode(events, 2), [0, 1, 2, 3, 4, 5, 4, -1, -1])
    np.testing.assert_array_equal(rules.order_mode(events, 1), [0, 0, 1, 1, 2, 2, 2, 1, -1])


def test_scores_by_hand():
    """Two contexts; in the second nothing succeeds but one box comes."""
    never = [-1, -1, -1]
    events = np.array([[1, 2, 3], [3, 1, 2], [1, 2, -1], [-1, -1, 4], never, never])[..., None]
    success = np.array([1, 1, 0, 0, 0, 0], bool)
    mode = rules.order_mode(events, 3)
    ran = engine.Episodes(success, ~success, np.full(6, 9), mode, np.array([0, 0, 0, 1, 1, 1]),
                          events, *[None] * 5)
    found = stacking.score(ran)
    assert found["success"] == pytest.approx(2 / 6)
    assert (found["success_1"], found["success_2"]) == (pytest.approx(4 / 6), pytest.approx(0.5))
    assert found["entropy"] == pytest.approx(np.log(2) / np.log(6))  # the other one is dropped
    two = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))  # rg, gb, rg
    assert found["entropy_2"] == pytest.approx(two / np.log(6))
    assert found["entropy_1"] == pytest.approx(two / np.log(3) / 2)  # r, g, r; and b alone


def test_contexts_are_the_benchmarks_and_do_not_overlap():
    contexts = stacking.draw_contexts(np.random.default_rng(0), 300)
    low, high = np.moveaxis(np.array(rules.AREAS), 1, 0)
    assert ((contexts[..., :2] >= low) & (contexts[..., :2] <= high)).all()
    assert np.abs(contexts[..., 2]).max() <= np.pi / 2
    assert not sorting.overlap(contexts[:, :2]).any()
    spread = contexts[..., :2].max(0) - contexts[..., :2].min(0)
    assert (spread > 0.95 * (high - low)).all()


def test_rollouts_depend_on_the_key_and_not_on_the_threads():
    policy = lambda h, v, k: 0.004 * jax.random.normal(k, (len(h), 5))  # noqa: E731
    one, two = (stacking.rollout(policy, jax.random.key(0), 36, episode_limit=4, threads=threads)
                for threads in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.context, np.arange(36) % 2)  # 18 episodes each
    given = stacking.rollout(policy, jax.random.key(0), 2, contexts=APART, episode_limit=1,
                             threads=1)
    np.testing.assert_allclose(given.observations[:, 0, 5:7], np.tile(APART[0, 0, :2], (2, 1)),
                               atol=1e-3)


def test_contexts_are_read(tmp_path):
    turned = np.array([np.cos(0.25), 0, 0, np.sin(0.25)])
    pair = ([np.array([0.4, -0.2, 30.0], np.float32), turned],)
    (tmp_path / "test_contexts.pkl").write_bytes(pickle.dumps([pair * 4] * 2))
    contexts = stacking.read_contexts(tmp_path)
    assert contexts.shape == (2, 3, 3)
    np.testing.assert_allclose(contexts[0, 1], [0.4, -0.2, 0.5], atol=1e-6)


@pytest.mark.skipif("VDD_SHARED_DATA" not in os.environ, reason="VDD_SHARED_DATA is not set")
def test_the_official_contexts_lie_where_ours_are_drawn():
    contexts = stacking.read_contexts(
        Path(os.environ["VDD_SHARED_DATA"]) / "d3il_contexts" / "stacking")
    assert contexts.shape == (100, 3, 3)
    low, high = np.moveaxis(np.array(rules.AREAS), 1, 0)
    assert ((contexts[..., :2] >= low - 1e-6) & (contexts[..., :2] <= high + 1e-6)).all()
