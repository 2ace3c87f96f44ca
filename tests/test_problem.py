"""What every stage starts from is rebuilt from the configuration alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import tiny

from vdd_jax import problem
from vdd_jax.core import mixture
from vdd_jax.tasks import toy


@pytest.fixture(scope="module")
def built():
    return problem.build(tiny())


def test_sizes(built):
    """As many pairs as asked for, and held-out pairs that are no part of them."""
    assert built.data.action.shape == (200, 2) and built.data.observation.shape == (200, 1)
    assert built.held_out.action.shape == (problem.HELD_OUT, 2)
    train = {tuple(row) for row in np.asarray(built.data.action)}
    assert not train & {tuple(row) for row in np.asarray(built.held_out.action)}
    assert built.spec == toy.spec(tiny().task)


def test_the_scaler_is_fitted_to_the_training_data(built):
    """Training data is at mean 0 and std 1 to rounding; held-out data is near."""
    for part in built.data:
        np.testing.assert_allclose(part.mean(0), 0.0, atol=1e-4)
        np.testing.assert_allclose(part.std(0), 1.0, atol=1e-4)
    for part in built.held_out:
        assert 1e-4 < np.abs(part.mean(0)).max() < 0.3


def test_the_problem_does_not_depend_on_the_seed(built):
    """Runs of several seeds distil the same teacher from the same data."""
    other = problem.build(tiny(seed=1))
    np.testing.assert_array_equal(built.data.action, other.data.action)
    np.testing.assert_array_equal(built.held_out.observation, other.held_out.observation)


def test_the_teacher_is_the_law_of_the_scaled_data(built):
    """Held-out actions are as likely under the teacher as its own samples, in scaled units."""
    @jax.jit
    def likelihoods(observation, action, key):
        density = built.teacher.density(observation)
        own = mixture.sample(density, key)
        return mixture.log_prob(density, action).mean(), mixture.log_prob(density, own).mean()

    data, own = likelihoods(*built.held_out, jax.random.key(0))
    assert abs(float(data - own)) < 0.1


def test_unscaled(built):
    """With `scaler = 'none'` data and teacher are in the task's units."""
    raw = problem.build(tiny(task__scaler="none"))
    np.testing.assert_allclose(built.scaler.unscale_action(built.data.action), raw.data.action,
                               atol=1e-5)
    observation = jnp.zeros((1,))
    np.testing.assert_allclose(raw.teacher.density(observation).means,
                               toy.density(tiny().task)(observation).means, rtol=1e-6)


def test_the_student_has_the_sizes_of_the_configuration():
    """Every field is handed on."""
    config = tiny(student__num_experts=3, student__activation="relu", student__std_floor=0.25,
                  student__covariance="diagonal", student__gating="uniform")
    model = problem.student(config, 5)
    assert model.action_dim == 5
    for name, value in config.student.to_dict().items():
        assert getattr(model, name) == value
