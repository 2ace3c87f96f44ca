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


def test_a_whole_dispatch_is_compiled_before_there_is_a_state():
    """From shapes alone, and then not again; the state is that of a program compiled later."""
    mesh = sharding.make_mesh(config_lib.default())
    data, key = jnp.arange(7.0), jax.random.key(0)
    traced = []

    def counted(*given):
        traced.append(1)
        return step(*given)

    def init(value):
        return jnp.zeros((), int), value

    def shardings_of(shapes):
        return jax.tree.map(lambda _: sharding.replicated(mesh), shapes)

    shapes = training.placed(init, shardings_of, jnp.ones(()))
    assert [v.shape for v in shapes] == [(), ()]
    shardings = shardings_of(shapes)
    assert [v.sharding for v in shapes] == list(shardings)
    advance = training.dispatched(counted, shardings, True, 3, None, (shapes, data, key))
    assert len(traced) == 1
    states = [training.born(init, shardings_of, jnp.ones(()))[0] for _ in range(2)]
    found = advance(states[0], data, key, 3)
    assert len(traced) == 1
    assert states[0][1].is_deleted()  # its memory was given away
    exact = training.dispatched(step, shardings, True, 3)(states[1], data, key, 3)
    for one, other in zip(*map(jax.tree.leaves, (found, exact)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("num", [3, 2])
def test_options_are_of_both_programs(num):
    """XLA refuses one that it does not know."""
    mesh = sharding.make_mesh(config_lib.default())
    state = jnp.zeros((), int), jnp.ones(())
    shardings = jax.tree.map(lambda _: sharding.replicated(mesh), state)
    advance = training.dispatched(step, shardings, False, 3, {"xla_no_such_option": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        advance(jax.device_put(state, shardings), jnp.arange(7.0), jax.random.key(0), num)


def test_distillation_is_compiled_before_there_is_a_student(tmp_path, monkeypatch):
    """With the options of its networks."""
    class Enough(Exception):
        pass

    seen, dispatched = [], training.dispatched

    def noted(step, shardings, donate, whole, options, ahead):
        seen.append((whole, options, ahead is not None))
        return dispatched(step, shardings, donate, whole, None, None)

    def born(*_):
        raise Enough

    monkeypatch.setattr(training, "dispatched", noted)
    monkeypatch.setattr(training, "born", born)
    monkeypatch.setattr(distill.host_memory, "compiler_options", lambda config: {"of": "it"})
    config = tiny(stages=("distill",), run__num_snapshots=0, distill__reallocations=0)
    config.distill.num_iterations = 20
    with pytest.raises(Enough):
        distill.run(config, tmp_path)
    assert seen == [(4, {"of": "it"}, True)]


@pytest.mark.parametrize(("whole", "end", "marks", "has"), [
    (10, 30, [], True), (10, 10, [], True), (10, 9, [], False), (10, 25, [], True),
    (10, 20, [5, 15], False), (10, 30, [5, 15], True), (10, 10, [10], True), (1, 5, [], False),
])
def test_whether_a_run_has_a_whole_dispatch(whole, end, marks, has):
    assert training.has_whole(whole, end, marks) == has


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
