"""Gradients in slices of a batch: the same step, one slice at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import at_once, context, randomised
from tiny_config import tiny_avoiding

from vdd_jax import distill, problem, sharding, teachers, train_teacher, training
from vdd_jax.config import ConfigError
from vdd_jax.data import first
from vdd_jax.models import denoiser
from vdd_jax.types import Batch

KEY = jax.random.key(0)
DATA = Batch(context(batch=(40,), missing=1),
             jnp.asarray(np.random.default_rng(0).normal(size=(40, 2)), jnp.float32))


def same(whole, sliced):
    """States and metrics agree but for rounding."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), whole, sliced)


@pytest.mark.parametrize("window", ["last", "all"])
def test_a_step_of_the_teacher(window):
    """Whole windows too, of which some steps do not count."""
    config = tiny_avoiding(teacher__backbone="transformer", teacher__window=window).teacher
    model = denoiser.build(config, 2)
    state = at_once(train_teacher.init, config, model, KEY, first(DATA, 1))
    state = state._replace(params=randomised(state.params, 0.2))
    same(*(jax.jit(train_teacher.make_step(config, model, parts=parts))(state, DATA, KEY)
           for parts in (1, 4)))


@pytest.mark.parametrize("values", [
    {}, {"distill__warm_start": 1.0}, {"distill__window": "joint"},
    {"distill__window": "all", "distill__gating_update": "together"},
], ids=["bounds", "warm", "joint", "together"])
def test_a_step_of_distillation(values):
    """Experts and gating, the likelihood, and whole windows."""
    config = tiny_avoiding(
        teacher__backbone="transformer", teacher__window="all", student__trunk="transformer",
        distill__batch_size=8, distill__likelihood_weight=1.0, distill__gating_start=0.0,
        distill__gating_full=0.0, **values)
    network = denoiser.build(config.teacher, 2)
    params = randomised(
        at_once(denoiser.init, config.teacher, network, KEY, first(DATA, 1)), 0.2)
    teacher = teachers.from_network(config.teacher, params, 2)
    model = problem.student(config)
    state = at_once(distill.init, config.distill, model, KEY, DATA.observation)
    whole, sliced = (
        jax.jit(distill.make_step(config.distill, model, teacher, parts=parts))(state, DATA, KEY)
        for parts in (1, 4))
    same(whole, sliced)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state.params, whole[0].params)
    assert any(jax.tree.leaves(moved["experts"])) and any(jax.tree.leaves(moved["gating"]))


def test_slices_have_other_masks():
    """The key of a slice is its own: dropout does not repeat."""
    keys = []
    loss = lambda p, batch, key: (keys.append(key), jnp.sum(p * batch))[1]  # noqa: E731
    with jax.disable_jit():
        value, grad = training.value_and_grad(loss, 2)(jnp.ones(()), jnp.arange(4.0), KEY)
    assert len(keys) == 2 and keys[0] != keys[1]
    assert float(value) == float(grad) == 3.0  # a sum over the slice, its mean over slices


def test_a_batch_that_slices_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"distill\.batch_size is 4, .*accumulate = 3 do not "
                                          r"divide; 3 or 6 would do"):
        sharding.make_mesh(tiny_avoiding(run__accumulate=3, stages=("distill",)))
