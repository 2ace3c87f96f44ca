"""Experts that are moved: stretched ones are split, uncovered modes are given one, others stay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax import reallocate
from vdd_jax.core import mixture
from vdd_jax.core.mixture import Mixture
from vdd_jax.core.objectives import Level
from vdd_jax.models.moe import MixtureOfExperts, split_expert
from vdd_jax.types import Batch

BATCH = 64
KEY = jax.random.key(0)
MODES = jnp.array([[-3.0, 0.0], [0.0, 0.0], [3.0, 0.0]])
STD = 0.1


def teacher() -> Mixture:
    return mixture.uniform(
        jnp.broadcast_to(MODES, (BATCH, 3, 2)), jnp.full((BATCH, 3, 2), STD)
    )


def student(experts) -> tuple[MixtureOfExperts, dict]:
    """A student without observations whose experts are (mean, std of each axis)."""
    model = MixtureOfExperts(2, len(experts), covariance="diagonal", trunk_depth=0, std_floor=0.0)
    params = jax.jit(model.init)(KEY, jnp.zeros((1, 0)))["params"]
    params = jax.tree.map(lambda v: 0 * v, params)  # biases alone decide
    stacked = params["experts"]["experts"]
    stacked["mean"]["bias"] = jnp.array([mean for mean, _ in experts])
    stacked["scale"]["bias"] = jnp.log(jnp.array([std for _, std in experts]))
    return model, params


@functools.partial(jax.jit, static_argnums=(0, 2))
def reallocated(model, params, sigma):
    """Parameters after an attempt, whether an expert was moved, and the mixture then."""
    observation = jnp.zeros((BATCH, 0))
    action = mixture.sample(teacher(), jax.random.key(1))
    level = Level(*(jnp.full((BATCH,), v) for v in (sigma, 1.0, sigma)))

    def score(x, t):
        return mixture.score(mixture.diffuse(teacher(), 1.0, t), x)

    q = model.apply({"params": params}, observation)
    new, moved = reallocate.reallocate(
        params, q, score, Batch(observation, action), level, jax.random.key(2)
    )
    return new, moved, model.apply({"params": new}, observation)


def attempt(experts, sigma=0.05):
    """Reallocation against three modes; (mixture after, whether an expert was moved)."""
    model, params = student(experts)
    new, moved, after = reallocated(model, params, sigma)
    if not moved:
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, new))
    return jax.tree.map(lambda v: np.asarray(v[0]), after), bool(moved)


FIT = [(m.tolist(), (STD, STD)) for m in MODES]


def test_a_student_that_is_the_teacher_is_left_alone():
    """No tension, nothing uncovered: not even with an expert to spare."""
    assert not attempt(FIT)[1]
    assert not attempt([*FIT, FIT[0]])[1]


def test_an_uncovered_mode_is_given_the_expert_that_can_be_spared():
    """Two experts share a mode and one mode has none: one of the two goes there."""
    after, moved = attempt([FIT[0], FIT[1], FIT[1]])
    assert moved
    found = sorted(after.means[:, 0])
    np.testing.assert_allclose(found, [-3.0, 0.0, 3.0], atol=4 * STD)


def test_a_stretched_expert_is_split_along_its_axis():
    """One expert bridges two modes, two share the third: a shared one takes half the bridge."""
    bridge = ([1.5, 0.0], (1.5, STD))
    after, moved = attempt([FIT[0], FIT[0], bridge])
    assert moved
    np.testing.assert_allclose(sorted(after.means[:, 0]), [-3.0, 0.0, 3.0], atol=0.1)
    np.testing.assert_allclose(after.means[:, 1], 0.0, atol=1e-3)


def test_no_expert_is_taken_from_a_mode_that_needs_it():
    """With a mode uncovered and no expert to spare, nothing moves."""
    assert not attempt([FIT[0], FIT[1]])[1]


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("gating", ["learned", "uniform"])
def test_split_expert_copies_one_and_touches_no_other(independent, gating):
    """Target = source + shift at every state; source's weight is halved; the rest is unchanged."""
    model = MixtureOfExperts(2, 4, independent=independent, gating=gating, trunk_width=8,
                             head_width=8, gating_width=8)
    observation = jax.random.normal(KEY, (5, 3))
    params, apply = jax.jit(model.init)(KEY, observation)["params"], jax.jit(model.apply)
    params = jax.tree.map(lambda v: v + 0.1 * jax.random.normal(KEY, v.shape), params)
    shifts = jnp.array([0.5, -1.0]), jnp.array([2.0, 3.0])
    before = apply({"params": params}, observation)
    after = apply({"params": split_expert(params, 2, 0, *shifts)}, observation)
    close = dict(atol=1e-5)
    np.testing.assert_allclose(after.means[:, 2], before.means[:, 2] + shifts[0], **close)
    np.testing.assert_allclose(after.means[:, 0], before.means[:, 2] + shifts[1], **close)
    np.testing.assert_allclose(after.scale_tril[:, 0], before.scale_tril[:, 2], **close)
    for z in (1, 3):
        np.testing.assert_allclose(after.means[:, z], before.means[:, z], **close)
        np.testing.assert_allclose(after.scale_tril[:, z], before.scale_tril[:, z], **close)
    if gating == "learned":
        np.testing.assert_allclose(after.log_weights[:, 0], after.log_weights[:, 2], **close)
        ratio = before.log_weights[:, 2] - before.log_weights[:, 1]
        halved = after.log_weights[:, 2] - after.log_weights[:, 1]
        np.testing.assert_allclose(halved, ratio - np.log(2), **close)
