"""The demonstrator of stacking: every order succeeds, and how it grasps."""

import math

import numpy as np
import pytest

from vdd_jax.tasks.planar import recording
from vdd_jax.tasks.planar.lapses import Lapse
from vdd_jax.tasks.planar.skills import View
from vdd_jax.tasks.stacking import demonstrator, physics, rules

pytest.importorskip("mujoco", reason="mujoco is not installed")


@pytest.fixture(scope="module")
def attempts():
    return recording.attempt(demonstrator.DEMONSTRATOR, np.arange(12) % 6, seed=11)


def test_every_order_is_demonstrated(attempts):
    assert attempts.success.all() and (attempts.steps < 600).all()
    np.testing.assert_array_equal(attempts.mode, np.arange(12) % 6)


def test_the_towers_stand_when_the_hand_has_left(attempts):
    apart = np.linalg.norm(attempts.final_boxes[..., :2] - np.array(rules.TARGET), axis=-1)
    assert apart.max() < 0.03
    for i, steps in enumerate(attempts.steps):
        last = attempts.observations[i, steps - 1]
        heights = np.sort(last[[7, 11, 15]])
        np.testing.assert_allclose(heights, rules.SCENE.table + np.array([0.03, 0.09, 0.15]),
                                   atol=4e-3)
        assert last[4] == np.float32(physics.OPEN) and last[2] > heights[-1] + 0.025


def test_actions_are_gentle_and_differ_from_one_episode_to_the_next(attempts):
    moves = attempts.actions[attempts.mask]
    assert np.linalg.norm(moves[:, :3], axis=1).max() <= 0.015 + 1e-6
    assert np.abs(moves[:, 3]).max() <= 0.06 + 1e-6
    assert set(moves[:, 4]) == {np.float32(physics.OPEN), np.float32(physics.CLOSED)}
    assert len(set(attempts.steps.tolist())) > 6
    assert not np.allclose(attempts.actions[0, 30:60], attempts.actions[6, 30:60])


def test_a_shoved_hand_builds_on():
    """Whatever it held is taken again."""
    rng = np.random.default_rng(2)
    shoves = [Lapse(begin, begin + 15, demonstrator.shove(rng)) for begin in range(20, 340, 27)]
    found = recording.attempt(demonstrator.DEMONSTRATOR, np.arange(12) % 6, seed=11, lapses=shoves)
    assert found.success.sum() >= 9
    widths = {shove.action[4] for shove in shoves}
    assert widths == {physics.OPEN, physics.CLOSED}
    assert all(0.3 * 0.012 <= np.linalg.norm(s.action[:3]) <= 0.012 + 1e-9 for s in shoves)


def view(*boxes, heights=(0.011,) * 3):
    return View((0.525, 0.0, 0.3, 0.0, 0.08), (0.525, 0.0, 0.3, 0.0, 0.08), list(boxes), 0,
                list(heights))


FAR = (0.58, -0.1, 0.0)


def test_gaps_by_hand():
    square = demonstrator.corners(0.0, 0.0, 0.0, (0.03, 0.03))
    for x, y, yaw, expected in ((0.1, 0.0, 0.0, 0.04), (0.0, 0.05, 0.0, -0.01),
                                (0.1, 0.0, math.pi / 4, 0.07 - 0.03 * math.sqrt(2))):
        other = demonstrator.corners(x, y, yaw, (0.03, 0.03))
        assert demonstrator.gap(square, other) == pytest.approx(expected)
        assert demonstrator.gap(other, square) == pytest.approx(expected)


def test_a_cube_is_taken_by_the_faces_that_are_free():
    """The neighbour in y leaves no room for a finger between the two."""
    crowded = view((0.4, -0.15, 0.0), (0.4, -0.088, 0.0), FAR)
    dx, dy, yaw = demonstrator.best_grasp(crowded, 0)
    assert abs(abs(yaw) - math.pi / 2) < 1e-6
    free = view((0.4, -0.2, 0.0), (0.4, 0.0, 0.0), FAR)
    assert demonstrator.best_grasp(free, 0) == pytest.approx((0.0, 0.0, 0.0))  # no need to turn


def test_the_blue_box_is_taken_across():
    for turned in (-1.2, 0.0, 0.4, 1.5):
        _, _, yaw = demonstrator.best_grasp(
            view((0.4, -0.2, 0.0), (0.4, 0.0, 0.0), (0.58, -0.1, turned)), 2)
        assert abs(math.cos(yaw + math.pi / 2 - turned)) == pytest.approx(1.0)
        assert abs(yaw) <= demonstrator.TURN


def test_boxes_at_other_heights_are_not_in_the_way():
    near = ((0.4, -0.15, 0.0), (0.4, -0.088, 0.0), FAR)
    assert demonstrator.best_grasp(view(*near, heights=(0.131, 0.011, 0.011)), 0)[2] == 0.0


def test_what_counts_as_the_tower():
    on = (*rules.TARGET, 0.3)
    assert demonstrator.tower(view(on, on, FAR, heights=(0.071, 0.011, 0.011))) == [1, 0]
    assert demonstrator.tower(view(on, on, FAR, heights=(0.2, 0.011, 0.011))) == [1]  # in the hand
    assert demonstrator.tower(view(FAR, (0.3, 0.0, 0.0), FAR)) == []
