"""The two ways of taking several steps are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import tiny

from vdd_jax import config as config_lib
from vdd_jax import distill, sharding, train_teacher, training
from vdd_jax.baselines import consistency, from_scratch


def step(state, data, key):
    count, value = state
    drawn = data[jax.random.randint(jax.random.fold_in(key, count), (), 0, len(data))]
    return (count + 1, 0.9 * value + drawn), {"value": value, "drawn": drawn}


def test_one_by_one_is_as_in_one_dispatch():
    """State and metrics of each step, of several calls, one of a single step; two programs."""
    mesh = sharding.make_mesh(config_lib.default())
    data, key = jnp.arange(7.0), jax.random.key(0)
    results = []
    traced = []

    def counted(*given):
        traced.append(1)
        return step(*given)

    for whole in (3, 1):
        state = jnp.zeros((), int), jnp.ones(())
        shardings = jax.tree.map(lambda _: sharding.replicated(mesh), state)
        state = jax.device_put(state, shardings)
        advance, metrics = training.dispatched(counted, shardings, True, whole), []
        for num in (3, 1, 2, 3):
            state, found = advance(state, data, key, num)
            assert {len(v) for v in found.values()} == {num}
            metrics.append(found)
        assert int(state[0]) == 9
        results.append((state, jax.tree.map(lambda *v: np.concatenate(v), *metrics)))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert len(traced) == 2  # in a loop, and alone for both


def test_images_on_a_cpu_are_learned_one_by_one():
    config, images = config_lib.default(), (2, 96, 96, 3)
    config.run.update(steps_per_dispatch=100, checkpoint_every=1_000)
    config.teacher.check_every = 500
    found = {(seen, platform): train_teacher.whole_dispatch(config, seen, platform)
             for seen in ((), images) for platform in ("cpu", "gpu")}
    assert found.pop((images, "cpu")) == 1 and set(found.values()) == {100}
    config.teacher.check_every = 50
    assert train_teacher.whole_dispatch(config, (), "cpu") == 50


@pytest.mark.parametrize("stage", [distill, consistency, from_scratch])
def test_a_stage_without_marks_is_whole_dispatches(stage, tmp_path, monkeypatch):
    """20 iterations, 4 in a program, a log line and a checkpoint at multiples of that."""
    def alone(*_):
        return lambda *_: pytest.fail("steps went one by one")

    monkeypatch.setattr(training, "one_by_one", alone)
    name = stage.__name__.rpartition(".")[2]
    config = tiny(stages=(name,), run__num_snapshots=0, distill__reallocations=0)
    config[name].num_iterations = 20
    config.teacher.update(width=8, depth=1, encoder_depth=1)
    stage.run(config, tmp_path)
    assert stage.finished(config, tmp_path)
