"""The scaler, and batches as a function of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.data import Scaler, batch_at, fit_scaler
from vdd_jax.types import Batch


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
    scaler = Scaler(*(jnp.asarray(v) for v in ([1.0, 2.0], [2.0, 4.0], [10.0], [0.5])))
    np.testing.assert_allclose(scaler.scale_action(jnp.array([[3.0, -2.0]])), [[1.0, -1.0]])
    np.testing.assert_allclose(scaler.scale_observation(jnp.array([11.0])), [2.0])
    np.testing.assert_allclose(scaler.unscale_action(jnp.array([1.0, -1.0])), [3.0, -2.0])
    np.testing.assert_allclose(scaler.unscale_observation(jnp.array([2.0])), [11.0])


@pytest.mark.parametrize("value", [0.0, 0.1, 3.0, 123.456, -1e4])
@pytest.mark.parametrize("n", [7, 1000])
def test_constant_data_is_not_divided_by_rounding_errors(value, n):
    """A column without spread keeps a std of exactly 1, whatever its value."""
    observation = jnp.full((n, 1), value)
    scaler = fit_scaler(observation, observation)
    np.testing.assert_array_equal(scaler.observation_std, 1.0)
    np.testing.assert_array_equal(scaler.action_std, 1.0)


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
@pytest.mark.parametrize("kind", ["standard", "none"])
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
