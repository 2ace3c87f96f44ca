"""What is alike exchanges its numbers, in batches and in what they are scaled by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_data import episodes

from vdd_jax import exchange
from vdd_jax.data import batch_at, fit_trajectory_scaler, windows
from vdd_jax.types import Trajectory

BOXES = (((1, 2), (3, 4)), ((5,), (6,), (7,)))  # two of two numbers, three of one; 0 is the robot's


def test_orders_are_all_and_the_first_is_the_given_one():
    """Numbers of one thing stay together, and within its kind."""
    found = exchange.orders(BOXES, 9)
    assert found.shape == (2 * 6, 9) and len({*map(tuple, found)}) == 12
    assert found[0].tolist() == list(range(9))
    for order in found:
        assert sorted(order) == list(range(9)) and order[0] == 0 and order[8] == 8
        assert order[1:5].tolist() in ([1, 2, 3, 4], [3, 4, 1, 2])
    assert exchange.orders((), 3).tolist() == [[0, 1, 2]]


def test_rotations_bring_each_to_every_place():
    found = exchange.rotations(BOXES, 9)
    every = {*map(tuple, exchange.orders(BOXES, 9))}
    assert found.shape == (3, 9) and {*map(tuple, found)} <= every
    for things in BOXES:
        for at in things:
            assert {tuple(order[list(at)]) for order in found} == {*things}
    assert exchange.rotations((), 3).tolist() == [[0, 1, 2]]


def test_differences_go_with_their_thing():
    """After an exchange they are still those of the numbers before them."""
    relative = ((1, 0), (2, 0), (3, 0), (4, 0), (6, 0), (8, 0))
    found = exchange.with_differences(BOXES, relative, 9)
    assert found == (((1, 2, 9, 10), (3, 4, 11, 12)), ((5,), (6, 13), (7,)))
    boxes = found[:1]  # of the other kind not every one has a difference
    scaler = fit_trajectory_scaler(
        [Trajectory(np.random.default_rng(0).normal(size=(30, 9)).astype(np.float32),
                    np.zeros((30, 2), np.float32))], alike=boxes, relative=relative)
    seen = np.asarray(scaler.scale_observation(np.random.default_rng(1).normal(size=(50, 9))))
    for order in exchange.orders(boxes, 15):
        raw = scaler.unscale_observation(seen[:, order])
        np.testing.assert_allclose(scaler.scale_observation(raw), seen[:, order], rtol=1e-3,
                                   atol=1e-5)


def data(goal_length=0):
    """Windows of three observations of nine random numbers."""
    rng = np.random.default_rng(0)
    trajectories = [Trajectory(rng.normal(size=(20, 9)).astype(np.float32),
                               rng.normal(size=(20, 2)).astype(np.float32)) for _ in range(4)]
    scaler = fit_trajectory_scaler(trajectories, "none", alike=BOXES)
    return windows(trajectories, scaler, 3, goal_length=goal_length)


@pytest.mark.parametrize("goal_length", [0, 2])
def test_a_batch_is_exchanged_row_by_row(goal_length):
    """One order for the windows, steps and goal of a row; all orders about equally often; actions,
    past ones too, and rows are those of the draw without."""
    whole, key = data(goal_length), jax.random.key(3)
    plain = batch_at(whole, key, 5, 1_200)
    found = jax.jit(exchange.drawing(batch_at, BOXES), static_argnums=3)(whole, key, 5, 1_200)
    np.testing.assert_array_equal(found.action, plain.action)
    np.testing.assert_array_equal(found.observation.past_actions, plain.observation.past_actions)
    seen, before = (np.asarray(v.observation.observations) for v in (found, plain))
    table = exchange.orders(BOXES, 9)
    matches = np.stack([(seen == before[:, :, order]).all((1, 2)) for order in table], 1)
    assert (matches.sum(1) == 1).all()
    assert matches.sum(0).min() > 60  # of 100 expected
    for row, order in enumerate(table[matches.argmax(1)]):
        for name in ("steps", "goal"):
            now, then = (np.asarray(getattr(v.observation, name))[row] for v in (found, plain))
            np.testing.assert_array_equal(now, then[:, order])


def test_another_step_draws_other_orders():
    whole, key = data(), jax.random.key(3)
    draw = exchange.drawing(lambda data, key, step, size: data, BOXES)
    one, same, other = (draw(whole, key, step, 80).observation.observations for step in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_without_anything_alike_nothing_changes():
    assert exchange.drawing(batch_at, ()) is batch_at


@pytest.mark.parametrize("kind", ["standard", "bounded", "min_max", "quantile"])
def test_what_is_alike_is_scaled_alike(kind):
    """As if every demonstration had been there in every order; the rest as without."""
    trajectories = [t._replace(observations=t.observations * np.array([1.0, 2.0, 5.0]) + [0, 1, 9])
                    for t in episodes(300, 120)]
    alike = (((1,), (2,)),)
    found, plain = (fit_trajectory_scaler(trajectories, kind, alike=a) for a in (alike, ()))
    for name in ("observation_mean", "observation_std", "step_std"):
        mine, without = getattr(found, name), getattr(plain, name)
        assert mine[1] == pytest.approx(float(mine[2]), rel=1e-5)
        # of twice as many equal numbers a percentile lies elsewhere between two of them
        assert mine[0] == pytest.approx(float(without[0]), rel=0.02 if kind == "quantile" else 1e-4,
                                        abs=1e-5)
    twice = [t._replace(observations=t.observations[:, order])
            for order in ([0, 1, 2], [0, 2, 1]) for t in trajectories]
    expected = fit_trajectory_scaler(twice, kind)
    for name in ("observation_mean", "observation_std", "step_std"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-4)
    assert jnp.abs(plain.observation_mean[1] - plain.observation_mean[2]) > 0.1
