"""The demonstrators' skills: ways around circles, and the hand's noise and limit."""

import math
import subprocess
import sys

import numpy as np
import pytest

from vdd_jax.tasks.planar import skills

HAND = skills.Hand(travel=0.01, push=0.006, gap=0.01, steer=0.2, noise=0.0005, smooth=0.6,
                   pause=0.0, limit=0.0125)
SHAPE = skills.Shape(0.03, 0.01)


def walk(start, goal, obstacles, step=0.004):
    """All places on the way, until the goal or 400 steps."""
    places = [start]
    for _ in range(400):
        if math.dist(places[-1], goal) < step:
            break
        dx, dy = skills.around(places[-1], goal, obstacles)
        assert math.hypot(dx, dy) == pytest.approx(1.0)
        places.append((places[-1][0] + step * dx, places[-1][1] + step * dy))
    return np.array(places)


@pytest.mark.parametrize("x", [-0.03, -0.001, 0.0, 0.02])
def test_ways_pass_a_circle_on_the_shorter_side_without_entering(x):
    places = walk((x, -0.2), (0.0, 0.2), [(0.0, 0.0, 0.06)])
    assert math.dist(places[-1], (0.0, 0.2)) < 0.004
    distance = np.linalg.norm(places, axis=1)
    assert distance.min() > 0.057
    assert 0.4 < 0.004 * (len(places) - 1) < 0.46
    if abs(x) > 0.01:
        assert np.sign(places[np.abs(places[:, 1]).argmin(), 0]) == np.sign(x)


def test_ways_through_several_circles_and_out_of_one():
    circles = [(0.0, 0.0, 0.06), (0.1, 0.1, 0.06), (-0.1, 0.1, 0.06)]
    places = walk((0.02, -0.3), (0.0, 0.3), circles)
    assert math.dist(places[-1], (0.0, 0.3)) < 0.004
    for x, y, radius in circles:
        assert np.linalg.norm(places - [x, y], axis=1).min() > radius - 0.006
    inside = walk((0.0, -0.03), (0.0, 0.3), circles[:1])
    assert math.dist(inside[-1], (0.0, 0.3)) < 0.004
    distance = np.linalg.norm(inside, axis=1)
    assert distance.min() > 0.029 and (np.diff(distance)[:5] > 0).all()  # out first


def test_a_free_way_is_straight():
    assert skills.around((0, 0), (3, 4), []) == pytest.approx((0.6, 0.8))
    # An obstacle beside, behind, or beyond the goal is none.
    for obstacle in ((2.0, 0.0, 0.5), (-0.6, -0.8, 0.3), (4.2, 5.6, 0.5)):
        assert skills.around((0, 0), (3, 4), [obstacle]) == pytest.approx((0.6, 0.8))


def test_a_box_is_pushed_around_those_in_its_way():
    boxes = [(0.5, 0.0, 0.0), (0.505, 0.15, 0.0)]
    view = skills.View((0.5, -0.1), (0.5, -0.1), boxes, 0)
    straight = skills.onwards(view, SHAPE, 0, (0.5, 0.3), avoid=False)
    assert straight == pytest.approx((0.0, 1.0))
    dx, dy = skills.onwards(view, SHAPE, 0, (0.5, 0.3), avoid=True)
    assert dx < -0.3 and dy > 0.5  # to the left, where the way is shorter
    behind = skills.behind(view, 0, (0.0, 1.0), 0.05)
    assert behind == pytest.approx((0.5, -0.05))


def test_a_hand_trembles_while_it_moves_and_keeps_its_limit():
    steps = skills.Steps(HAND, np.random.default_rng(0))
    moves = np.array([steps(0.01, 0.0) for _ in range(4000)])
    np.testing.assert_allclose(moves.mean(0), [0.01, 0.0], atol=1e-4)
    np.testing.assert_allclose(moves.std(0), HAND.noise, rtol=0.1)
    lagged = np.corrcoef(moves[1:, 1], moves[:-1, 1])[0, 1]
    assert lagged == pytest.approx(HAND.smooth, abs=0.05)
    assert steps(0.0, 0.0) == (0.0, 0.0)
    wild = np.array([steps(0.05, -0.05) for _ in range(100)])
    np.testing.assert_allclose(np.linalg.norm(wild, axis=1), HAND.limit)
    again = skills.Steps(HAND, np.random.default_rng(0))
    assert again(0.01, 0.0) == pytest.approx(tuple(moves[0]))


def test_the_simulator_is_not_imported_with_the_tasks():
    program = ("import sys\n"
               "from vdd_jax.tasks.planar import aligning, block_push, pushing, sorting\n"
               "sys.exit('mujoco' in sys.modules)")
    subprocess.run([sys.executable, "-c", program], check=True)
