"""What lies where: held by the shardings themselves, as numbers would agree without them too."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import context
from jax.sharding import PartitionSpec
from tiny_config import tiny_avoiding

from vdd_jax import distill, problem, sharding, stages
from vdd_jax.data import batch_at
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


@pytest.mark.parametrize("split", [False, True])
def test_a_batch_lies_over_data(split):
    """Every array of it, by a constraint in the program; the rows are those that `batch_at` draws,
    wherever the data set lies. A batch that does not divide has no constraint."""
    mesh = sharding.make_mesh(tiny_avoiding())
    data = jax.device_get(Batch(context(batch=(7,)), jnp.arange(14.0).reshape(7, 2)))
    there, draw = sharding.resident(data, mesh, split)
    key = jax.random.key(0)
    constraints = [e.params["sharding"].spec for e in
                   jax.make_jaxpr(lambda d: draw(d, key, 3, 4))(there).eqns
                   if e.primitive.name == "sharding_constraint"]
    assert len(constraints) == len(jax.tree.leaves(data))
    assert {spec[0] for spec in constraints} == {"data"}
    jax.tree.map(np.testing.assert_array_equal, draw(there, key, 3, 4), batch_at(data, key, 3, 4))


SPLIT = """
import jax, numpy as np
from jax.sharding import PartitionSpec
from vdd_jax import sharding
from vdd_jax.data import batch_at
from vdd_jax.types import Batch
from tiny_config import tiny_avoiding

mesh = sharding.make_mesh(tiny_avoiding(
    run__expert_parallel=2, distill__batch_size=8, teacher__batch_size=8))
data = Batch(np.arange(1002.0).reshape(501, 2), np.arange(1002).reshape(501, 2) % 3 == 0)
there, draw = sharding.resident(data, mesh, True)
place = there.action.sharding
assert place.spec == PartitionSpec("data") and there.action.shape == (504, 2)
assert {s.data.shape for s in there.action.addressable_shards} == {(126, 2)}
program = jax.jit(lambda d, key, step: draw(d, key, step, 64))
seen = []
for step in range(30):
    found = program(there, jax.random.key(1), step)
    expected = batch_at(data, jax.random.key(1), step, 64)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    seen.append(np.asarray(found.observation)[:, 0])
assert found.action.sharding.spec == PartitionSpec("data")
assert 900 < np.max(seen) <= 1000  # rows to the last, and none of those that were put behind it
text = program.lower(there, jax.random.key(1), 0).compile().as_text()
assert "[126,2]" in text and "[504,2]" not in text and "[501,2]" not in text
print("fine")
"""


def test_a_data_set_in_shares_gives_the_same_batches():
    """On a mesh of 4 x 2 devices: each holds a quarter, of 501 rows, and no program ever gathers
    the whole."""
    found = subprocess.run(
        [sys.executable, "-c", SPLIT], capture_output=True, text=True, cwd=Path(__file__).parent,
        env={**os.environ, "XLA_FLAGS": " ".join(
            [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"])})
    assert found.stdout.strip() == "fine", found.stderr


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
