"""A policy compiled for a control loop: the actions of `act`, and its errors."""

import jax
import numpy as np
import pytest

from vdd_jax import ahead_of_time
from vdd_jax import policy as policy_lib
from vdd_jax.data import Scaler
from vdd_jax.models import products
from vdd_jax.models.moe import MixtureOfExperts
from vdd_jax.policy import History, Policy

pytest_plugins = "smoke_run"

KEYS = list(jax.random.split(jax.random.key(1), 8))


@pytest.fixture(scope="module")
def pursuing():
    """A student with a transformer, after three observations of 4 numbers and of a goal."""
    model = MixtureOfExperts(action_dim=2, num_experts=3, trunk="transformer", trunk_width=32,
                             trunk_depth=1, history="plain", fourier=0)
    zero, one = np.zeros, np.ones
    scaler = jax.device_put(Scaler(zero(2), one(2), zero(4), one(4), one(4)))
    seen = scaler.context(*_seen(()))
    params = jax.jit(model.init)(jax.random.key(0), seen)["params"]
    # at birth a gating is uniform and an expert knows one action
    params = jax.tree.map(lambda v: v + 0.1 * np.random.default_rng(v.size).normal(
        size=v.shape).astype(np.float32), params)
    return Policy(params, scaler, model.apply, 4, 2, window=3, goal_length=1,
                  apply_one=model.apply_one)


def _seen(batch, seed=0):
    random = np.random.default_rng(seed)
    return History(random.normal(size=(*batch, 3, 4)), random.random((*batch, 3)) < 0.9,
                   goal=random.normal(size=(*batch, 1, 4)))


@pytest.mark.parametrize("many, batch", [(0, ()), (0, (2, 3)), (10**9, ())])
def test_actions_are_those_of_act(pursuing, many, batch, monkeypatch):
    """For observations that it was not compiled with, and every key."""
    made = []
    monkeypatch.setattr(ahead_of_time, "MANY", many)
    monkeypatch.setattr(products, "in_strips",
                        lambda params, strips=products.in_strips: made.append(strips(params)) or
                        made[-1])
    act = pursuing.compiled(_seen(batch), KEYS[0])
    assert len(made) == (many == 0)
    for seed, key in enumerate(KEYS):
        seen = _seen(batch, seed)
        found, expected = act(seen, key), pursuing.act(seen, key)
        assert found.shape == (*batch, 2)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_way_of_acting(pursuing):
    """A sample where one is asked for, and where it is the policy's own way."""
    seen = _seen(())
    expected = pursuing.act(seen, KEYS[0], how="sample")
    for policy, how in ((pursuing, "sample"), (pursuing.replace(acting="sample"), None)):
        np.testing.assert_allclose(policy.compiled(seen, KEYS[0], how)(seen, KEYS[0]), expected,
                                   rtol=1e-5, atol=1e-6)
    assert not np.allclose(pursuing.act(seen, KEYS[0]), expected)


def test_what_it_was_not_compiled_for_is_refused(pursuing):
    act, seen = pursuing.compiled(_seen((1,)), KEYS[0]), _seen((1,))
    for other in (_seen(()), _seen((2,)), seen._replace(valid=None)):
        with pytest.raises(ValueError, match="compiled for the shapes .*1, 3, 4"):
            act(other, KEYS[0])
    with pytest.raises(ValueError, match="holds NaN"):
        act(seen._replace(observations=seen.observations * np.nan), KEYS[0])
    with pytest.raises(ValueError, match="pursues a goal"):
        act(seen._replace(goal=None), KEYS[0])
    with pytest.raises(ValueError, match=r"of shape \[..., 3, 4\]"):
        pursuing.compiled(np.zeros((5, 4)), KEYS[0])


def test_every_kind_of_policy_of_a_run(finished_avoiding, monkeypatch):
    """The student and the teacher of Avoiding, as they are loaded."""
    monkeypatch.setattr(ahead_of_time, "MANY", 0)
    student = policy_lib.load(finished_avoiding.workdir)
    teacher = policy_lib.load_teacher(finished_avoiding.workdir)
    observation = np.random.default_rng(0).normal(size=(student.window, 4)).astype(np.float32)
    for policy in (student, teacher):
        found = policy.compiled(observation, KEYS[0])(observation, KEYS[1])
        np.testing.assert_allclose(found, policy.act(observation, KEYS[1]), rtol=1e-4, atol=1e-5)
