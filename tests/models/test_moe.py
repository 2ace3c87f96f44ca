"""The student: shapes, starting point, covariance floor, what the gating may touch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import B, T, context, randomised

from vdd_jax.core import gaussian
from vdd_jax.models.moe import MixtureOfExperts, build_scale_tril

SIZES = dict(trunk_width=8, trunk_depth=1, head_width=8, gating_width=8, gating_depth=1)


def module(**values):
    return MixtureOfExperts(**{"action_dim": 2, "num_experts": 3, **SIZES, **values})


def start(size=3, **values):
    """A module and the parameters it starts from (of a generator that compiles quickly)."""
    model, key = module(**values), jax.random.key(0, impl="unsafe_rbg")
    return model, jax.jit(model.init)(key, jnp.zeros((1, size)))


def random(size=3, scale=0.5, **values):
    """A module and random parameters: zero kernels would hide what is connected."""
    model, rng = module(**values), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size)))
    return model, jax.tree.map(
        lambda v: jnp.asarray(scale * rng.normal(size=v.shape), v.dtype), shapes)


OBSERVATIONS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.mark.parametrize("independent, covariance, size", list(itertools.product(
    (False, True), ("full", "diagonal"), (3, 0))))
def test_shapes(independent, covariance, size):
    """Both kinds of student, both covariances, with observations and without, any batch axes."""
    model, variables = random(size, independent=independent, covariance=covariance)
    for batch in ((), (5,), (4, 5)):
        q = jax.eval_shape(model.apply, variables, jnp.zeros((*batch, size)))
        assert q.log_weights.shape == (*batch, 3)
        assert q.means.shape == (*batch, 3, 2)
        assert q.scale_tril.shape == (*batch, 3, 2) + ((2,) if covariance == "full" else ())
    assert set(variables["params"]) == {"experts", "gating"}


@pytest.mark.parametrize("independent", [False, True])
def test_parameters_of_the_experts_are_stacked(independent):
    """Heads have a leading axis Z; a trunk is one of them only where experts are independent."""
    _, variables = random(independent=independent)
    experts = variables["params"]["experts"]
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(experts["experts"]))
    assert ("trunk" in experts) is not independent
    assert ("trunk" in experts["experts"]) is independent


def test_batched_equals_one_by_one():
    """No state leaks into another's mixture."""
    model, variables = random()
    apply = jax.jit(model.apply)
    together = apply(variables, OBSERVATIONS)
    alone = [apply(variables, o) for o in OBSERVATIONS]
    for batch, single in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(batch, np.stack(single), rtol=1e-5, atol=1e-6)
    assert np.std(together.means, axis=0).min() > 1e-3  # and the observation matters
    assert np.std(together.log_weights, axis=0).min() > 1e-3


@pytest.mark.parametrize("values", [
    {}, {"independent": True}, {"covariance": "diagonal", "gating": "uniform"}])
def test_one_expert_is_that_of_the_mixture(values):
    """Mean and factor of expert z, of z from the outside or computed; nothing of the others."""
    model, variables = random(**values)
    whole = model.apply(variables, OBSERVATIONS)
    one = jax.jit(lambda z: model.apply_one(variables["params"], OBSERVATIONS, z))
    for z in range(3):
        found = one(z)
        assert found.means.shape == (5, 1, 2) and np.all(found.log_weights == 0)
        np.testing.assert_allclose(found.means[:, 0], whole.means[:, z], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            found.scale_tril[:, 0], whole.scale_tril[:, z], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("independent", [False, True])
def test_the_start(independent):
    """Means spread evenly over ± init_spread, stds near init_std, weights uniform, bodies of the
    heads of full size (the published code shrinks every layer) and different."""
    model, variables = start(
        num_experts=200, independent=independent, init_spread=3.0, init_std=0.5, std_floor=0.01,
        head_width=32, trunk_width=32, head_depth=2)
    q = jax.jit(model.apply)(variables, OBSERVATIONS)
    assert np.abs(q.means).max() < 3.3
    np.testing.assert_allclose(np.std(q.means, axis=1), 3.0 / np.sqrt(3), rtol=0.15)
    np.testing.assert_allclose(np.mean(q.means, axis=1), 0.0, atol=0.4)
    assert abs(np.corrcoef(np.asarray(q.means[0]).T)[0, 1]) < 0.3  # not on the diagonal
    stds = np.linalg.svd(np.asarray(q.scale_tril), compute_uv=False)
    np.testing.assert_allclose(stds, 0.5, rtol=0.2)
    np.testing.assert_allclose(q.log_weights, -np.log(200.0), rtol=1e-6)
    head = variables["params"]["experts"]["experts"]
    last = {name: head[name]["kernel"] for name in ("mean", "scale")}
    bodies = [v for name, tree in head.items() if name not in last
              for v in jax.tree.leaves(tree) if v.ndim == 3 and v.shape[1] == 32]
    assert len(bodies) == 2
    for kernel in bodies:
        np.testing.assert_allclose(np.std(kernel), 32**-0.5, rtol=0.1)
        assert not np.allclose(kernel[0], kernel[1])
    for kernel in last.values():
        np.testing.assert_allclose(np.std(kernel), 1e-2 * 32**-0.5, rtol=0.1)


def test_uniform_gating_has_no_parameters():
    """Weights are 1/Z, always, and there is nothing for its optimiser."""
    model, variables = random(gating="uniform")
    assert set(variables["params"]) == {"experts"}
    log_weights = jax.jit(model.apply)(variables, OBSERVATIONS).log_weights
    np.testing.assert_allclose(log_weights, np.full((5, 3), -np.log(3.0)), rtol=1e-6)


@pytest.mark.parametrize("independent", [False, True])
def test_the_gating_reads_features_through_a_stop_gradient(independent):
    """A loss of the weights alone gives the experts, trunk included, a gradient of exactly 0;
    the weights are normalised and depend on the observation."""
    model, variables = random(independent=independent, scale=1.0)

    @jax.jit
    @jax.grad
    def grads(params):
        return model.apply({"params": params}, OBSERVATIONS).log_weights[..., 0].sum()

    found = grads(variables["params"])
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(found["experts"]))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(found["gating"]))
    log_weights = jax.jit(model.apply)(variables, OBSERVATIONS).log_weights
    np.testing.assert_allclose(np.exp(log_weights).sum(-1), 1.0, rtol=1e-5)
    assert np.std(log_weights, axis=0).max() > 0.1


def test_activation_and_backbones_are_those_asked_for():
    """Each choice changes the mixture that the same parameters give, or the parameters."""
    outputs = {}
    for name in ("mish", "relu", "tanh"):
        model, variables = random(activation=name)
        outputs[name] = jax.jit(model.apply)(variables, OBSERVATIONS)
    for a, b in itertools.combinations(outputs.values(), 2):
        assert np.abs(np.asarray(a.means) - b.means).max() > 1e-3
        assert np.abs(np.asarray(a.log_weights) - b.log_weights).max() > 1e-3
    plain, trunk, head = (len(jax.tree.leaves(random(**values)[1])) for values in (
        {}, {"trunk": "residual_mlp"}, {"head": "residual_mlp"}))
    assert trunk == head == plain + 4  # a block is an embedding and two layers


WILD = [
    # raw log-scales, raw off-diagonal (relative to its row)
    ([0.0, 0.0], 1e3),
    ([0.0, 0.0], -1e3),
    ([-20.0, 3.0], 50.0),
    ([3.0, -20.0], 50.0),
    ([-30.0, -30.0], 0.0),
]


def unbounded(values, bound):
    """Raw numbers that are these after the soft bound."""
    return jnp.asarray(bound * np.arctanh(np.asarray(values) / bound), jnp.float32)


def test_the_floor_is_one_of_eigenvalues():
    """No direction has less than the floor, and the floor adds std_floor² I to L Lᵀ. A floor on
    the diagonal of L would be none: the first two are well above it there, and flat."""
    floor, raw = 0.5, jnp.array([[*log_scale, off] for log_scale, off in WILD])
    build = jax.jit(build_scale_tril, static_argnums=(1, 2, 3))
    tril = np.asarray(build(raw, 2, 1.0, floor), np.float64)
    bare = np.asarray(build(raw, 2, 1.0, 0.0), np.float64)
    assert np.linalg.svd(tril, compute_uv=False).min() >= floor * (1 - 1e-3)
    assert np.all(np.diagonal(tril, axis1=1, axis2=2) > 0) and np.all(tril[:, 0, 1] == 0)
    expected = bare @ bare.swapaxes(1, 2) + floor**2 * np.eye(2)
    np.testing.assert_allclose(tril @ tril.swapaxes(1, 2), expected, rtol=1e-4, atol=1e-6)
    assert np.diagonal(bare[:2], axis1=1, axis2=2).min() >= floor
    assert np.linalg.svd(bare[:2], compute_uv=False).min(-1).max() < 0.1 * floor


def test_the_floor_of_a_diagonal_covariance():
    """√(s² + floor²), and exactly s without a floor."""
    raw = unbounded(np.log([3.0, 1e-6]), 15)
    np.testing.assert_allclose(build_scale_tril(raw, 2, 2.0, 8.0), [10.0, 8.0], rtol=1e-5)
    np.testing.assert_allclose(build_scale_tril(raw, 2, 2.0, 0.0), [6.0, 2e-6], rtol=1e-4)


def test_the_factor_by_hand():
    """L = diag(s)(I + N): off-diagonals are relative to their row, filled row by row."""
    raw = jnp.concatenate([unbounded(np.log([1.0, 2.0, 4.0]), 15),
                           unbounded([0.5, -1.0, 3.0], 30)])
    tril = build_scale_tril(raw, 3, 0.5, 0.0)
    np.testing.assert_allclose(
        tril, [[0.5, 0, 0], [0.5, 1, 0], [-2, 6, 2]], rtol=1e-5)


def test_raw_numbers_are_softly_bounded():
    """However far an optimiser steps, a factor is one that float32 holds, and has a gradient."""
    raw = jnp.array([1e4, -1e4, 1e6])
    tril = np.asarray(build_scale_tril(raw, 2, 1.0, 0.0), np.float64)
    np.testing.assert_allclose(tril[0, 0], np.exp(15), rtol=1e-4)
    np.testing.assert_allclose(tril[1], [30 * np.exp(-15), np.exp(-15)], rtol=1e-4)
    small = jnp.array([0.01, -0.02, 0.03])  # near 0 nothing is changed
    np.testing.assert_allclose(build_scale_tril(small, 2, 1.0, 0.0), [
        [np.exp(0.01), 0], [0.03 * np.exp(-0.02), np.exp(-0.02)]], rtol=1e-5)


def test_gradients_are_finite_at_the_floor():
    """An expert that has collapsed can come back."""
    @jax.jit
    @jax.grad
    def log_det(raw):
        tril = build_scale_tril(raw, 2, 1.0, 1e-4)
        return jnp.sum(jnp.log(gaussian.diagonal(jnp.zeros(2), tril)))

    grads = log_det(jnp.array([-12.0, -14.0, 0.5]))
    assert np.all(np.isfinite(grads)) and np.any(np.asarray(grads) != 0)


# ---- windows


def of_context(example, **values):
    model = module(**values)
    return jax.jit(model.apply), randomised(jax.eval_shape(model.init, jax.random.key(0), example))


@pytest.mark.parametrize("values", [
    {}, {"independent": True}, {"history": "absolute", "trunk": "residual_mlp"},
    {"trunk": "transformer", "heads": 2}])
def test_a_mixture_for_each_context(values):
    """Shapes, one at a time as together, and every part of the context matters."""
    c = context(goal=1, missing=1)
    apply, variables = of_context(c, **values)
    q = apply(variables, c)
    assert q.means.shape == (B, 3, 2) and q.log_weights.shape == (B, 3)
    alone = apply(variables, jax.tree.map(lambda v: v[2], c))
    for one, many in zip(alone, q, strict=True):
        np.testing.assert_allclose(one, many[2], rtol=1e-4, atol=1e-5)
    for change in (c._replace(observations=c.observations.at[:, -1].add(1.0)),
                   c._replace(observations=c.observations.at[:, 1].add(1.0),
                              steps=c.steps.at[:, 2].add(1.0)),
                   c._replace(goal=c.goal + 1.0), c._replace(valid=jnp.ones_like(c.valid))):
        found = apply(variables, change)
        assert np.abs(np.asarray(found.means) - q.means).max() > 1e-3
        assert np.abs(np.asarray(found.log_weights) - q.log_weights).max() > 1e-3


def test_the_last_of_every_step_is_the_newest():
    """A transformer's `per_step` mixtures `[B, T]` have the same parameters as that of the newest
    step, which is their last; each knows no later observation."""
    c = context(goal=1)
    values = {"trunk": "transformer", "trunk_depth": 2, "heads": 2}
    last, variables = of_context(c, **values)
    every, same = of_context(c, per_step=True, **values)
    jax.tree.map(np.testing.assert_array_equal, variables, same)
    q, steps = last(variables, c), every(variables, c)
    assert steps.scale_tril.shape == (B, T, 3, 2, 2)
    later = every(variables, c._replace(observations=c.observations.at[:, -1].add(1.0)))
    for one, all_, changed in zip(q, steps, later, strict=True):
        np.testing.assert_allclose(all_[:, -1], one, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(changed[:, :-1], all_[:, :-1])
        assert np.abs(np.asarray(changed)[:, -1] - one).max() > 1e-3


def test_the_gating_of_a_transformer_gives_the_trunk_no_gradient():
    """As with any trunk: its features come through a stop-gradient."""
    c = context()
    model = module(trunk="transformer", heads=2)
    _, variables = of_context(c, trunk="transformer", heads=2)
    found = jax.jit(jax.grad(lambda params: model.apply(
        {"params": params}, c).log_weights[..., 0].sum()))(variables["params"])
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(found["experts"]))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(found["gating"]))


def test_dropout_of_a_transformer_trunk_is_for_training():
    """Random by its key in training, and never otherwise."""
    c = context()
    _, variables = of_context(c, trunk="transformer", heads=2)
    model = module(trunk="transformer", heads=2, dropout=0.5)

    @jax.jit
    def train(key):
        return model.apply(variables, c, True, rngs={"dropout": key}).means

    assert np.abs(np.asarray(train(jax.random.key(0))) - train(jax.random.key(1))).max() > 1e-3
    np.testing.assert_array_equal(model.apply(variables, c).means,
                                  module(trunk="transformer", heads=2).apply(variables, c).means)
