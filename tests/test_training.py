"""The two ways of taking several steps are the same."""

import jax
import jax.numpy as jnp
import numpy as np

from vdd_jax import config as config_lib
from vdd_jax import sharding, train_teacher, training


def step(state, data, key):
    count, value = state
    drawn = data[jax.random.randint(jax.random.fold_in(key, count), (), 0, len(data))]
    return (count + 1, 0.9 * value + drawn), {"value": value, "drawn": drawn}


def test_one_by_one_is_as_in_one_dispatch():
    """State and metrics of each step, of several calls, one of a single step."""
    mesh = sharding.make_mesh(config_lib.default())
    data, key = jnp.arange(7.0), jax.random.key(0)
    results = []
    for make in (training.scanned, training.one_by_one):
        state = jnp.asarray(0), jnp.asarray(1.0)
        shardings = jax.tree.map(lambda _: sharding.replicated(mesh), state)
        advance, metrics = make(step, shardings, donate=True), []
        for num in (3, 1, 2):
            state, found = advance(state, data, key, num)
            assert {len(v) for v in found.values()} == {num}
            metrics.append(found)
        assert int(state[0]) == 6
        results.append((state, jax.tree.map(lambda *v: np.concatenate(v), *metrics)))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_images_on_a_cpu_are_learned_one_by_one():
    images = (2, 96, 96, 3)
    found = {(seen, platform): train_teacher.dispatched(seen, platform)
             for seen in ((), images) for platform in ("cpu", "gpu")}
    assert found.pop((images, "cpu")) is training.one_by_one
    assert set(found.values()) == {training.scanned}
