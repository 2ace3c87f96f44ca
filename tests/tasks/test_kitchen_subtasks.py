"""When a sub-task is solved, orders of sub-tasks, and scores by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from vdd_jax.tasks.kitchen.score import score
from vdd_jax.tasks.kitchen.subtasks import NAMES, ORDERS, name_of, order_of, solved

MICROWAVE, KETTLE, SLIDE, HINGE = (NAMES.index(n) for n in (
    "microwave", "kettle", "slide cabinet", "hinge cabinet"))


def state(**objects):
    """`[30]`; a closed kitchen but for what is given."""
    found = np.zeros(30)
    found[23:30] = -0.27, 0.35, 1.62, 1.0, 0.0, 0.0, 0.0
    for name, values in objects.items():
        where = {"microwave": 22, "slide": 19, "kettle": 23, "hinge": 20}[name]
        found[where : where + len(values)] = values
    return found


def test_a_closed_kitchen_has_nothing_solved():
    assert not solved(state()).any()


def test_the_tolerance_is_a_distance():
    """0.3, over all coordinates of the object together."""
    assert list(np.flatnonzero(solved(state(microwave=[-0.46])))) == [MICROWAVE]
    assert not solved(state(microwave=[-0.44])).any()
    assert solved(state(hinge=[-0.2, 1.3]))[HINGE] and not solved(state(hinge=[-0.3, 1.3])).any()
    assert solved(state(kettle=[-0.23, 0.5, 1.62, 0.99]))[KETTLE]


def test_orders():
    """The first four; of two at once the first by name; none of fewer than four."""
    assert len(ORDERS) == 7 * 6 * 5 * 4
    events = np.full((3, 7), -1)
    events[0, [MICROWAVE, KETTLE, 2, SLIDE]] = 10, 20, 30, 40
    events[1] = [50, 40, 30, 20, 10, 10, 60]
    events[2, [0, 1, 2]] = 1, 2, 3
    found = order_of(events)
    assert name_of(found[0]) == "microwave, kettle, light switch, slide cabinet"
    assert name_of(found[1]) == "hinge cabinet, microwave, slide cabinet, light switch"
    assert found[2] == -1


def test_scores_by_hand():
    events = np.full((4, 7), -1)
    events[0, [0, 1, 2, 3]] = 1, 2, 3, 4
    events[1, [3, 2, 1, 0]] = 1, 2, 3, 4
    events[2, [MICROWAVE, KETTLE]] = 5, 6
    success = np.array([True, True, False, False])
    episodes = SimpleNamespace(
        success=success, timed_out=~success, steps=np.full(4, 280), mode=order_of(events),
        context=np.zeros(4, int), events=events)
    goals = np.stack([np.tile(state(microwave=[-0.75], slide=[0.37]), (2, 1)),
                      np.tile(state(kettle=[-0.23, 0.75]), (2, 1))])
    goals[:, 0] = state(hinge=[0.0, 1.45])  # only the last state of a goal counts
    found = score(episodes, goals)
    assert found["success"] == 0.5 and found["subtasks"] == 10 / 4
    assert found["subtask_rates"]["slide cabinet"] == 0.5
    # episodes 0 and 2 pursue the first goal (of two sub-tasks), 1 and 3 the second (of one)
    assert found["subtasks_of_goal"] == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert found["goal_reached"] == pytest.approx(2 / 6)
    assert found["modes_found"] == 2 and found["num_modes"] == 840
    assert sum(found["mode_histogram"].values()) == 2
    assert found["entropy"] == pytest.approx(np.log(2) / np.log(840))
    assert "goal_reached" not in score(episodes)
