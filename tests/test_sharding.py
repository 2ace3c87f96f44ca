"""What lies where: held by the shardings themselves, as numbers would agree without them too."""

import jax
import jax.numpy as jnp
import pytest
from contexts import context
from jax.sharding import PartitionSpec
from tiny_config import tiny_avoiding

from vdd_jax import distill, problem, sharding, stages
from vdd_jax.types import Batch


@pytest.mark.parametrize("independent", [False, True])
def test_stacked_experts_lie_over_expert_and_the_rest_everywhere(independent):
    """The optimiser's moments as the parameters that they are of; a shared trunk and the gating
    are whole, trunks of independent experts are stacked."""
    config = tiny_avoiding(student__independent=independent)
    mesh = sharding.make_mesh(config)
    model = problem.student(config)
    shapes = jax.eval_shape(lambda: distill.init(
        config.distill, model, jax.random.key(0), problem.example(config).observation))
    placed = jax.tree_util.tree_leaves_with_path(sharding.of_state(shapes, mesh))
    split = {jax.tree_util.keystr(path) for path, place in placed
             if place.spec == PartitionSpec("expert")}
    whole = {jax.tree_util.keystr(path) for path, place in placed
             if place.spec == PartitionSpec()}
    assert len(split) + len(whole) == len(placed)
    of_params = [p for p in split if p.startswith(".params")]
    assert sum(".mu[" in p for p in split) == sum(".nu[" in p for p in split) == len(of_params) > 3
    assert any("trunk" in p for p in (split if independent else whole))
    assert not any("trunk" in p for p in (whole if independent else split))
    assert any("gating" in p for p in whole) and not any("gating" in p for p in split)
    sizes = dict(jax.tree_util.tree_leaves_with_path(shapes))
    assert all(sizes[path].shape[0] == config.student.num_experts
               for path, place in placed if place.spec == PartitionSpec("expert"))


def test_a_batch_lies_over_data():
    """Every array of it, by a constraint in the program."""
    mesh = sharding.make_mesh(tiny_avoiding())
    batch = Batch(context(), jnp.zeros((4, 2)))
    found = [e.params["sharding"].spec for e in
             jax.make_jaxpr(sharding.split_batch(mesh))(batch).eqns]
    assert len(found) == len(jax.tree.leaves(batch))
    assert {spec[0] for spec in found} == {"data"}


def test_keys_and_arrays_are_the_same_everywhere():
    mesh = sharding.make_mesh(tiny_avoiding())
    key = jax.random.key(3, impl="rbg")
    there = sharding.everywhere((key, jnp.arange(3.0)), mesh)
    assert there[0] == key and (there[1] == jnp.arange(3.0)).all()
    assert there[1].sharding == sharding.replicated(mesh)
    assert (sharding.here(there[1], mesh) == there[1]).all()


def test_the_precision_of_products_is_that_of_the_configuration(monkeypatch, tmp_path):
    """Whatever JAX's default is on the device."""
    seen = []
    monkeypatch.setattr(
        stages, "_run", lambda *_: seen.append(jax.config.jax_default_matmul_precision))
    for precision in ("float32", "tf32", "bfloat16"):
        stages.run(tiny_avoiding(precision=precision), tmp_path)
    assert seen == ["highest", "tensorfloat32", "highest"]
