"""bfloat16: layers compute in it, parameters and what is done with a mixture do not."""

import dataclasses

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import B, at_once, context
from tiny_config import tiny_avoiding

from vdd_jax import problem, teachers
from vdd_jax.models import denoiser
from vdd_jax.types import Batch

CONTEXT = context()


def products(function, *args) -> set:
    """Types of the operands of every matrix product in a function."""
    found = set()

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                found.update(str(v.aval.dtype) for v in equation.invars)
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                visit(inner)

    visit(jax.make_jaxpr(function)(*args).jaxpr)
    return found


@pytest.mark.parametrize("trunk", ["residual_mlp", "transformer"])
@pytest.mark.parametrize("precision, expected", [
    ("float32", {"float32"}), ("tf32", {"float32"}), ("bfloat16", {"bfloat16"})])
def test_layers_of_the_student(trunk, precision, expected):
    """All their products are of that type; parameters and the mixture are float32, and in
    bfloat16 the same within its rounding."""
    config = tiny_avoiding(precision=precision, student__trunk=trunk)
    model = problem.student(config)
    params = jax.jit(model.init)(jax.random.key(0), CONTEXT)["params"]
    assert {v.dtype for v in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    apply = lambda p: model.apply({"params": p}, CONTEXT)  # noqa: E731
    assert products(apply, params) == expected
    q = apply(params)
    assert {v.dtype for v in q} == {jnp.dtype("float32")}
    exact = dataclasses.replace(model, dtype=jnp.float32).apply({"params": params}, CONTEXT)
    for got, want in zip(q, exact, strict=True):
        np.testing.assert_allclose(got, want, atol=0.03 if precision == "bfloat16" else 1e-6)
    if precision == "bfloat16":
        assert np.any(q.means != exact.means)


@pytest.mark.parametrize("backbone, window", [
    ("mlp", "last"), ("transformer", "last"), ("transformer", "all")])
def test_layers_of_the_teacher(backbone, window):
    """The score is float32, and its products are bfloat16."""
    config = tiny_avoiding(precision="bfloat16", teacher__backbone=backbone,
                           teacher__window=window)
    settings = config.teacher
    model = denoiser.build(settings, 2, problem.dtype(config))
    example = Batch(context(batch=(1,)), jnp.ones((1, 2)))
    params = at_once(denoiser.init, settings, model, jax.random.key(0), example)
    params = jax.tree.map(lambda v: v + 0.05, params)  # the last layer starts at 0
    x, t = jnp.ones((B, 2)), jnp.full(B, 0.5)
    rounded = teachers.from_network(settings, params, 2, jnp.bfloat16)
    assert products(rounded.score, x, CONTEXT, t) == {"bfloat16"}
    exact = teachers.from_network(settings, params, 2).score(x, CONTEXT, t)
    assert rounded.score(x, CONTEXT, t).dtype == jnp.float32
    np.testing.assert_allclose(rounded.score(x, CONTEXT, t), exact, rtol=0.05, atol=0.1)
    assert np.any(rounded.score(x, CONTEXT, t) != exact)
    assert rounded.of(params).score(x, CONTEXT, t).dtype == jnp.float32
