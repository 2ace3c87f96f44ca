"""The scaler, windows of trajectories, and batches as a function of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import context

from vdd_jax.data import (
    Scaler,
    batch_at,
    first,
    fit_scaler,
    fit_trajectory_scaler,
    jitter,
    windows,
)
from vdd_jax.types import Batch, Trajectory


def pairs(n=500, seed=0):
    rng = np.random.default_rng(seed)
    return (jnp.asarray(rng.normal([1, -2, 5], [0.5, 2, 9], (n, 3)), jnp.float32),
            jnp.asarray(rng.normal([10, -20], [3, 0.1], (n, 2)), jnp.float32))


def test_scaled_data_has_mean_0_and_std_1():
    """Each number of an action and of an observation on its own."""
    observation, action = pairs()
    scaler = fit_scaler(observation, action)
    for scaled in (scaler.scale_observation(observation), scaler.scale_action(action)):
        np.testing.assert_allclose(scaled.mean(0), 0.0, atol=1e-4)
        np.testing.assert_allclose(scaled.std(0), 1.0, atol=1e-4)


def test_scaling_by_hand_and_back():
    """(x − mean)/std with the numbers of its own kind, and the inverse."""
    scaler = Scaler(*(jnp.asarray(v) for v in ([1.0, 2.0], [2.0, 4.0], [10.0], [0.5], [9.0])))
    np.testing.assert_allclose(scaler.scale_action(jnp.array([[3.0, -2.0]])), [[1.0, -1.0]])
    np.testing.assert_allclose(scaler.scale_observation(jnp.array([11.0])), [2.0])
    np.testing.assert_allclose(scaler.unscale_action(jnp.array([1.0, -1.0])), [3.0, -2.0])
    np.testing.assert_allclose(scaler.unscale_observation(jnp.array([2.0])), [11.0])


@pytest.mark.parametrize("kind", ["standard", "bounded", "min_max", "quantile"])
@pytest.mark.parametrize("value", [0.0, 0.1, 3.0, 123.456, -1e4])
@pytest.mark.parametrize("n", [7, 1000])
def test_constant_data_is_not_divided_by_rounding_errors(value, n, kind):
    """A column without spread keeps a std of exactly 1, whatever its value."""
    observation = jnp.full((n, 1), value)
    scaler = fit_scaler(observation, observation, kind)
    np.testing.assert_array_equal(scaler.observation_std, 1.0)
    np.testing.assert_array_equal(scaler.action_std, 1.0)


def test_ranges_and_quantiles_become_plus_minus_one():
    """Least and greatest; the 1st and 99th percentile, whatever lies beyond; each column alone."""
    observation, action = pairs()
    action = action.at[3].set(1e3)  # an outlier
    scaled = fit_scaler(observation, action, "min_max").scale_action(action)
    np.testing.assert_allclose(scaled.min(0), -1.0, atol=1e-5)
    np.testing.assert_allclose(scaled.max(0), 1.0, atol=1e-5)
    scaler = fit_scaler(observation, action, "quantile")
    for values, scaled in ((action, scaler.scale_action(action)),
                           (observation, scaler.scale_observation(observation))):
        low, high = np.quantile(np.asarray(values), [0.01, 0.99], axis=0)
        np.testing.assert_allclose(
            np.quantile(np.asarray(scaled), [0.01, 0.99], axis=0), [[-1.0] * len(low),
                                                                     [1.0] * len(high)], atol=1e-3)
    assert scaler.scale_action(action).max() > 10  # not clipped


def test_quantiles_of_a_column_that_hardly_ever_changes_are_its_range():
    """Such as a gripper that closes in one step of 200: its percentiles are the same number."""
    column = jnp.zeros((1000, 1)).at[:5].set(4.0)
    scaler = fit_scaler(column, column, "quantile")
    np.testing.assert_allclose(scaler.scale_action(column)[jnp.array([0, 9])], [[1.0], [-1.0]])


def test_what_is_seldom_moved_does_not_go_far():
    """By std the one other number of a thousand would be 31 away; the other column is as ever."""
    column = jnp.zeros((1000, 1)).at[7].set(1e-3)
    values = jnp.concatenate([column, pairs(1000)[0][:, :1]], axis=1)
    steps = jnp.diff(values, axis=0)
    plain, scaler = (fit_scaler(values, values, kind, steps) for kind in ("standard", "bounded"))
    assert jnp.abs(plain.scale_observation(values)[:, 0]).max() > 30
    np.testing.assert_allclose(jnp.abs(scaler.scale_observation(values)[:, 0]).max(), 10.0,
                               rtol=1e-5)
    for name in ("action_std", "observation_std", "step_std"):
        mine, std = getattr(scaler, name), getattr(plain, name)
        assert mine[0] > 2 * std[0] and mine[1] == std[1], name
    np.testing.assert_array_equal(scaler.observation_mean, plain.observation_mean)


@pytest.mark.parametrize("kind", ["standard", "bounded", "min_max", "quantile", "none"])
def test_scaling_is_undone_exactly_and_steps_keep_their_std(kind):
    observation, action = pairs()
    steps = 0.1 * observation
    scaler = fit_scaler(observation, action, kind, steps)
    np.testing.assert_allclose(scaler.unscale_action(scaler.scale_action(action)), action,
                               rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scaler.unscale_observation(scaler.scale_observation(observation)),
                               observation, rtol=1e-4, atol=1e-5)
    expected = np.ones(3) if kind == "none" else np.asarray(steps).std(0)
    np.testing.assert_allclose(scaler.step_std, expected, rtol=1e-4)


def test_small_data_keeps_its_spread():
    """A std of 1e-4 is a std, not a constant."""
    observation, _ = pairs()
    small = 1e-4 * observation
    np.testing.assert_allclose(fit_scaler(small, small).action_std, small.std(0), rtol=1e-5)


def test_scaler_none_leaves_data_as_it_is():
    """The identity, exactly, of the right sizes."""
    observation, action = pairs()
    scaler = fit_scaler(observation, action, "none")
    np.testing.assert_array_equal(scaler.scale_action(action), action)
    np.testing.assert_array_equal(scaler.scale_observation(observation), observation)
    assert scaler.action_std.shape == (2,) and scaler.observation_mean.shape == (3,)


def test_observations_of_size_0():
    """A task without observations is scaled like any other."""
    _, action = pairs()
    scaler = fit_scaler(jnp.zeros((500, 0)), action)
    assert scaler.scale_observation(jnp.zeros((4, 0))).shape == (4, 0)
    np.testing.assert_allclose(scaler.action_mean, action.mean(0))


@pytest.mark.parametrize("what", ["observation", "action"])
@pytest.mark.parametrize("kind", ["standard", "quantile", "none"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_with_nan_is_refused(what, kind, value):
    """The complaint says which data, how many rows, and the first of them."""
    data = dict(zip(("observation", "action"), pairs(), strict=True))
    data[what] = data[what].at[7, 0].set(value).at[9, 1].set(value).at[7, 1].set(value)
    with pytest.raises(ValueError, match=f"2 of 500 {what}s .*first is number 7"):
        fit_scaler(**data, kind=kind)


def numbered(n):
    column = jnp.arange(n, dtype=jnp.float32)[:, None]
    return Batch(column, -column)


def test_a_batch_is_a_function_of_key_and_step():
    """The same twice; another for another step or key; no state anywhere."""
    data, key = numbered(1000), jax.random.key(0)
    batch = batch_at(data, key, 3, 64)
    again = batch_at(data, key, jnp.asarray(3), 64)
    np.testing.assert_array_equal(batch.action, again.action)
    for other in (batch_at(data, key, 4, 64), batch_at(data, jax.random.key(1), 3, 64)):
        assert np.mean(np.asarray(batch.action) == np.asarray(other.action)) < 0.1


def test_pairs_stay_pairs_and_all_data_is_drawn():
    """An observation comes with its own action; in time every pair comes, about equally often."""
    data = numbered(10)
    batches = jax.vmap(lambda step: batch_at(data, jax.random.key(0), step, 32))(jnp.arange(100))
    np.testing.assert_array_equal(batches.action, -batches.observation)
    assert batches.action.shape == (100, 32, 1)
    counts = np.bincount(np.asarray(batches.observation, int).ravel(), minlength=10)
    assert len(counts) == 10 and counts.min() > 240 and counts.max() < 400


# ---- trajectories


def episodes(*lengths, seed=0) -> list[Trajectory]:
    """Random ones, of 3 numbers seen and 2 done."""
    rng = np.random.default_rng(seed)
    return [Trajectory(rng.normal([1, -2, 5], [0.5, 2, 9], (n, 3)).astype(np.float32),
                       rng.normal([10, -20], [3, 0.1], (n, 2)).astype(np.float32))
            for n in lengths]


@pytest.mark.parametrize("window, chunk, goal", [(1, 1, 0), (3, 1, 0), (4, 3, 2), (2, 5, 1)])
def test_windows_by_brute_force(window, chunk, goal):
    """Step by step in plain Python: repeated first observation, flags, steps, past actions, chunk
    with its last action repeated, and the goal; no window reaches into another episode."""
    trajectories = episodes(5, 2, 7)
    scaler = fit_trajectory_scaler(trajectories, chunk=chunk)
    found = windows(trajectories, scaler, window, chunk, goal)
    a_mean, a_std, o_mean, o_std, step_std = (np.asarray(v) for v in scaler[:5])
    row = 0
    for observations, actions in trajectories:
        for now in range(len(actions)):
            seen, mine = found.observation, first(found, row + 1)
            for i in range(window):
                then = now - window + 1 + i
                near = dict(rtol=1e-4, atol=1e-4)
                expected = (observations[max(then, 0)] - o_mean) / o_std
                np.testing.assert_allclose(seen.observations[row, i], expected, **near)
                assert bool(seen.valid[row, i]) is (then >= 0)
                step = observations[then] - observations[then - 1] if i and then > 0 else 0 * o_std
                np.testing.assert_allclose(seen.steps[row, i], step / step_std, **near)
                if i < window - 1:
                    past = (actions[then] - a_mean[:2]) / a_std[:2] if then >= 0 else np.zeros(2)
                    np.testing.assert_allclose(seen.past_actions[row, i], past, **near)
            ahead = np.concatenate([actions[min(now + h, len(actions) - 1)]
                                    for h in range(chunk)])
            np.testing.assert_allclose(mine.action[row], (ahead - a_mean) / a_std, **near)
            for g in range(goal):
                expected = (observations[len(actions) - goal + g] - o_mean) / o_std
                np.testing.assert_allclose(seen.goal[row, g], expected, **near)
            row += 1
    shapes = [v.shape for v in (*found.observation[:5], found.action)]
    assert row == 14 and shapes == [(14, window, 3), (14, window, 3), (14, window),
                                    (14, window - 1, 2), (14, goal, 3), (14, 2 * chunk)]


def test_future_goals_are_after_the_step():
    """Of the same episode, successive, anywhere after the step; the last ones where no others are
    left; the same at every call."""
    lengths = (40, 3)
    trajectories = [Trajectory(np.arange(n, dtype=np.float32)[:, None] + 100 * i,
                               np.zeros((n, 1), np.float32)) for i, n in enumerate(lengths)]
    scaler = fit_trajectory_scaler(trajectories, "none")
    found = windows(trajectories, scaler, 2, goal_length=2, goal="future")
    goals = np.asarray(found.observation.goal)[..., 0]
    np.testing.assert_array_equal(goals[:, 1] - goals[:, 0], 1.0)
    np.testing.assert_array_equal(goals[40:, 0], [101.0, 101.0, 101.0])
    ahead = goals[:40, 0] - np.arange(40)
    assert (ahead[:37] >= 1).all() and (goals[:40, 1] < 40).all()
    assert len(set(ahead[:20])) > 8 and (goals[37:40, 0] == 38).all()
    again = windows(trajectories, scaler, 2, goal_length=2, goal="future")
    np.testing.assert_array_equal(again.observation.goal, found.observation.goal)


def test_goals_that_episodes_were_given():
    """Scaled, the same at every step, also of an episode that is shorter than its goal."""
    trajectories = episodes(5, 1, 7)
    scaler = fit_trajectory_scaler(trajectories)
    pursued = np.random.default_rng(1).normal(size=(3, 2, 3)).astype(np.float32)
    found = windows(trajectories, scaler, 4, goal_length=2, pursued=pursued)
    expected = np.repeat(scaler.scale_observation(pursued), [5, 1, 7], axis=0)
    np.testing.assert_array_equal(found.observation.goal, expected)
    plain = windows(trajectories, scaler, 4)
    np.testing.assert_array_equal(found.observation.observations, plain.observation.observations)
    np.testing.assert_array_equal(found.action, plain.action)


def test_the_scaler_of_trajectories():
    """Mean and std over all steps of all episodes; steps never cross from one episode to the
    next; every action of a chunk is scaled alike."""
    trajectories = episodes(50, 30)
    scaler = fit_trajectory_scaler(trajectories, chunk=3)
    observations = np.concatenate([t.observations for t in trajectories])
    actions = np.concatenate([t.actions for t in trajectories])
    steps = np.concatenate([np.diff(t.observations, axis=0) for t in trajectories])
    assert len(steps) == 78
    for found, expected in zip(scaler[:5], (
            np.tile(actions.mean(0), 3), np.tile(actions.std(0), 3), observations.mean(0),
            observations.std(0), steps.std(0)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("what", ["observations", "actions"])
@pytest.mark.parametrize("kind", ["standard", "none"])
def test_trajectories_with_nan_are_refused(what, kind):
    """In any episode, of what kind the data is and where."""
    trajectories = episodes(5, 4)
    getattr(trajectories[1], what)[2, 1] = np.nan
    with pytest.raises(ValueError, match=f"1 of 9 {what} hold NaN .*first is number 7"):
        fit_trajectory_scaler(trajectories, kind)


def test_a_trajectory_shorter_than_its_goal():
    """Is refused by its number; one just as long is not."""
    trajectories = episodes(5, 2)
    scaler = fit_trajectory_scaler(trajectories)
    with pytest.raises(ValueError, match="trajectory 1 has 2 steps; a goal of 3 observations"):
        windows(trajectories, scaler, 1, goal_length=3)
    found = windows(trajectories, scaler, 1, goal_length=2)
    np.testing.assert_allclose(found.observation.goal[5:, 0],
                               found.observation.observations[5:6, 0].repeat(2, axis=0))


def test_angles_are_shown_in_place_of_their_tangents():
    """2/π of the angle, by a scaler of every kind but for what the other numbers are; near ±90°
    too, there and back; and the steps between observations are steps of the angle."""
    rng = np.random.default_rng(0)
    yaw = np.clip(np.cumsum(rng.normal(scale=0.3, size=60)), -1.57, 1.57)
    numbers = np.stack([rng.normal(size=60), np.tan(yaw)], -1).astype(np.float32)
    episode = Trajectory(numbers, rng.normal(size=(60, 2)).astype(np.float32))
    plain = fit_trajectory_scaler([episode])
    scaler = fit_trajectory_scaler([episode], tangents=(1,))
    seen = scaler.scale_observation(numbers)
    np.testing.assert_allclose(seen[:, 1], yaw * 2 / np.pi, atol=1e-4)
    np.testing.assert_allclose(seen[:, 0], plain.scale_observation(numbers)[:, 0], rtol=1e-6)
    inside = np.abs(yaw) < 1.5
    np.testing.assert_allclose(scaler.unscale_observation(seen)[inside], numbers[inside], rtol=1e-3)
    found = windows([episode], scaler, 2).observation.steps[1:, -1, 1]
    change = np.diff(yaw)
    np.testing.assert_allclose(found, change / change.std(), atol=1e-3)


@pytest.mark.parametrize("kind", ["standard", "bounded", "min_max", "quantile", "none"])
def test_hidden_numbers_are_not_shown(kind):
    """They and their steps are 0 to a network, to the last digit of its other inputs, whatever
    the scaler; the others are as without; the numbers themselves come back."""
    episode = episodes(20)[0]
    plain = fit_trajectory_scaler([episode], kind)
    scaler = fit_trajectory_scaler([episode], kind, hidden=(1,))
    seen, without = (windows([episode], s, 3, goal_length=1).observation for s in (scaler, plain))
    for name in ("observations", "steps", "goal"):
        found, expected = getattr(seen, name), getattr(without, name)
        assert jnp.abs(found[..., 1]).max() < 1e-15 and jnp.abs(expected[..., 1]).max() > 0.1
        np.testing.assert_array_equal(np.delete(found, 1, -1), np.delete(expected, 1, -1), name)
    there = scaler.scale_observation(episode.observations)
    np.testing.assert_allclose(scaler.unscale_observation(there), episode.observations, rtol=1e-5,
                               atol=1e-5)


def test_differences_are_shown_behind_an_observation():
    """Of the numbers that are named, with a scale of their own, in windows, steps and goals; what
    comes back is the observation; without them nothing is changed."""
    trajectories = episodes(9)
    raw = np.concatenate([t.observations for t in trajectories])
    plain = fit_trajectory_scaler(trajectories)
    scaler = fit_trajectory_scaler(trajectories, relative=((2, 0), (1, 2)))
    assert (plain.observation_dim, scaler.observation_dim) == (3, 3)
    differences = np.stack([raw[:, 2] - raw[:, 0], raw[:, 1] - raw[:, 2]], -1)
    np.testing.assert_allclose(scaler.shown(raw), np.concatenate([raw, differences], -1),
                               rtol=1e-6, atol=1e-6)
    seen = scaler.scale_observation(raw)
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(0), 1, rtol=1e-4)
    np.testing.assert_allclose(seen[:, :3], plain.scale_observation(raw), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaler.unscale_observation(seen), raw, rtol=1e-5, atol=1e-5)
    found, without = (windows(trajectories, s, 3, goal_length=2).observation
                      for s in (scaler, plain))
    for name in ("observations", "steps", "goal"):
        shown = getattr(found, name)
        np.testing.assert_allclose(shown[..., :3], getattr(without, name), rtol=1e-5, atol=1e-6)
    one, two = (differences[:-1] - differences[1:])[:2] / -scaler.step_std[3:]
    np.testing.assert_allclose(found.steps[2, -2:, 3:], [one, two], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found.observations[0, -1, 3:],
        (differences[0] - scaler.observation_mean[3:]) / scaler.observation_std[3:], rtol=1e-4)


def test_a_difference_with_a_hidden_number_is_hidden():
    """It would show it."""
    scaler = fit_trajectory_scaler(episodes(9), relative=((2, 0), (1, 0)), hidden=(2,))
    seen = np.abs(scaler.scale_observation(episodes(9)[0].observations))
    assert (seen[:, [2, 3]] < 1e-15).all() and (seen[:, [0, 1, 4]].max(0) > 0.1).all()


def test_a_tangent_beside_differences():
    """The angle is shown; differences are of what an observation has."""
    episode = episodes(9)[0]
    scaler = fit_trajectory_scaler([episode], tangents=(1,), relative=((2, 0),))
    found = scaler.scale_observation(episode.observations)
    np.testing.assert_allclose(found[:, 1], np.arctan(episode.observations[:, 1]) * 2 / np.pi,
                               rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaler.unscale_observation(found), episode.observations, rtol=1e-4,
                               atol=1e-5)
    assert abs(float(found[:, 3].std()) - 1) < 1e-4


def test_a_hidden_number_that_is_not_there():
    """Is refused with the numbers there are."""
    with pytest.raises(ValueError, match="config.task.hidden names 3, .* the numbers 0 to 2"):
        fit_trajectory_scaler(episodes(5), hidden=(0, 3))


def test_the_range_of_actions():
    """Of the demonstrations, for every action of a chunk, whatever the scaler; asked for, or there
    is none and nothing is changed."""
    trajectories = episodes(8)
    actions = np.concatenate([t.actions for t in trajectories])
    low, high = actions.min(0), actions.max(0)
    wild = np.array([[[1e30, -1e30], [0.0, np.inf]], [[np.nan, 0.0], [low[0], high[1]]]])
    for kind in ("standard", "min_max"):
        scaler = fit_trajectory_scaler(trajectories, kind, chunk=2, clip_actions=True)
        found = scaler.within_range(wild.reshape(2, 4)).reshape(2, 2, 2)
        np.testing.assert_array_equal(found, np.clip(wild, low, high).astype(np.float32))
        without = fit_trajectory_scaler(trajectories, kind, chunk=2)
        np.testing.assert_array_equal(without.within_range(wild), wild)
        np.testing.assert_array_equal(without.action_std, scaler.action_std)


def test_a_context_is_that_of_the_training_windows():
    """What a policy makes of raw observations in a rollout is what the networks were trained
    on: cut from the trajectory by hand and given to `Scaler.context`, any batch axes."""
    trajectories = episodes(6)
    scaler = fit_trajectory_scaler(trajectories)
    trained = windows(trajectories, scaler, 3, goal_length=1).observation
    observations, actions = trajectories[0]
    index = np.array([[0, 0, 0], [0, 0, 1], [2, 3, 4]])
    valid = np.array([[False, False, True], [False, True, True], [True] * 3])
    goal = np.broadcast_to(observations[-1:], (3, 1, 3))
    found = scaler.context(observations[index], valid, actions[index[:, :-1]], goal)
    for name in found._fields[:5]:  # and no images
        value, expected = getattr(found, name), getattr(trained, name)[jnp.array([0, 1, 4])]
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    alone = scaler.context(observations[index[2]], None, actions[index[2, :-1]], goal[2])
    for one, many in zip(alone[:5], found[:5], strict=True):
        np.testing.assert_allclose(one, many[2], rtol=1e-5, atol=1e-6)


def test_the_first_rows_of_a_tree():
    """Of every array in it."""
    batch = first(windows(episodes(5), fit_trajectory_scaler(episodes(5)), 2), 3)
    assert {len(v) for v in jax.tree.leaves(batch)} == {3}


def test_jitter_moves_a_window_as_a_whole():
    """Each window and number by a shift of its own, of the given spread; nothing else changes."""
    given = context(batch=(2_000,), goal=1)
    moved = jitter(given, 0.1, jax.random.key(0))
    shift = np.asarray(moved.observations - given.observations)
    np.testing.assert_allclose(shift, shift[:, :1].repeat(shift.shape[1], 1), atol=1e-5)
    np.testing.assert_allclose(shift[:, 0].std(axis=0), 0.1, rtol=0.1)
    np.testing.assert_allclose(np.corrcoef(shift[:, 0].T), np.eye(shift.shape[2]), atol=0.1)
    assert all(np.array_equal(a, b) for name, a, b in zip(given._fields, given, moved, strict=True)
               if name != "observations")
