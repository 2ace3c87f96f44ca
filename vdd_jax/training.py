"""The loop of every training stage: dispatches, log, checkpoints, resume."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdd_jax import checkpoint, host_memory, loggers, preemption, sharding
from vdd_jax import config as config_lib
from vdd_jax.data import Scaler
from vdd_jax.metrics import Log, check_finite


class Stage(NamedTuple):
    """What tells one training stage from another. A state has a `step`; the rest is its own."""

    name: str  # of its directory in the workdir and of its lines in the log
    iterations: int
    split: Callable[[Any], tuple[dict, dict]]  # state → (parameters, what only a resume needs)
    join: Callable[[dict, dict], Any]  # the inverse
    finished: Callable[[Any], bool] = lambda state: False  # whether to stop before the end


def value_and_grad(loss, parts: int, has_aux: bool = False):
    """As `jax.value_and_grad`, the batch in `parts` slices one after the other (gradient
    accumulation): the memory of one slice, the same numbers but for rounding and dropout.

    Args:
      loss: (params, batch, key, *rest) → scalar, a mean over the batch, which every array of
        `batch` has as its first axis; with `has_aux`, two of them, of which the first is derived.
    """
    compute = jax.value_and_grad(loss, has_aux=has_aux)
    if parts == 1:
        return compute

    def accumulated(params, batch, key, *rest):
        # strided: a slice takes its share from every device that the batch is split over
        slices = jax.tree.map(
            lambda v: v.reshape(len(v) // parts, parts, *v.shape[1:]).swapaxes(0, 1), batch)

        def add(total, given):
            number, part = given
            found = compute(params, part, jax.random.fold_in(key, number), *rest)
            return jax.tree.map(jnp.add, total, found), None

        zero = jnp.zeros(())
        start = ((zero, zero) if has_aux else zero, jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add, start, (jnp.arange(parts), slices))
        return jax.tree.map(lambda v: v / parts, total)

    return accumulated


def moving_average(decay: float, average, params, step):
    """The exponential moving average of parameters after one more iteration, the one counted
    `step`. It forgets its start: early on it follows faster than its decay says."""
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, average, params)


def scanned(step, shardings, donate: bool, num: int, options: dict | None = None):
    """`advance(state, data, key) → (state, metrics [num])`: `num` steps in one program.

    Args:
      step: (state, data, key) → (state, metrics).
      shardings: of the state; the metrics lie on every device.
      options: of XLA for this program.
    """
    mesh = jax.tree.leaves(shardings)[0].mesh

    def advance(state, data, key):
        return jax.lax.scan(lambda s, _: step(s, data, key), state, length=num)

    return jax.jit(advance, donate_argnums=(0,) if donate else (),
                   out_shardings=(shardings, sharding.replicated(mesh)), compiler_options=options)


def one_by_one(step, shardings, donate: bool, options: dict | None = None):
    """`advance(state, data, key, num) → (state, metrics [num])`: as `scanned`, each step
    dispatched by itself.

    XLA's compiler for CPUs (of JAX 0.10) finds the fast form of a convolution's gradient only
    outside of loops; within one it takes 2 to 40 times as long (experiments/results/images.md).
    """
    mesh = jax.tree.leaves(shardings)[0].mesh
    once = jax.jit(step, donate_argnums=(0,) if donate else (),
                   out_shardings=(shardings, sharding.replicated(mesh)), compiler_options=options)

    def advance(state, data, key, num):
        found = []
        for _ in range(num):
            state, metrics = once(state, data, key)
            found.append(metrics)
        return state, jax.tree.map(lambda *of: np.stack(of), *jax.device_get(found))

    return advance


def dispatched(step, shardings, donate: bool, whole: int, options: dict | None = None,
               ahead: tuple | None = None):
    """`advance(state, data, key, num) → (state, metrics [num])`: `whole` steps in one program, any
    other number of them one by one. Two programs are compiled at most, however many marks cut a
    run into pieces.

    Args:
      options: of XLA for both.
      ahead: what a whole dispatch will be given, `placed` shapes or arrays: it is compiled now,
        and the compiler's memory does not come on top of the state's if that is born later.
    """
    together = scanned(step, shardings, donate, whole, options)
    apart = one_by_one(step, shardings, donate, options)
    if ahead:
        together = together.lower(*ahead).compile()

    def advance(state, data, key, num):
        return together(state, data, key) if num == whole > 1 else apart(state, data, key, num)

    return advance


def has_whole(whole: int, end: int, marks: Iterable[int]) -> bool:
    """Whether a run of `end` steps has a dispatch of `whole`, with all that it is cut at; of one
    step it has none, which goes alone."""
    ends = {0, end, *range(0, end, whole), *(m for m in marks if m < end)}
    return whole > 1 and whole in np.diff(sorted(ends))


def whole_dispatch(config: ConfigDict, *every: int) -> int:
    """Steps between two ends of dispatches, where no mark is between; `every` as of `run`."""
    return min(config.run.steps_per_dispatch, config.run.checkpoint_every, *every)


def placed(init, shardings_of, *args):
    """Shapes of `init(*args)` that say where each array belongs; `shardings_of` is as of `born`."""
    shapes = jax.eval_shape(init, *args)
    return jax.tree.map(lambda v, to: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=to),
                        shapes, shardings_of(shapes))


def born(init, shardings_of, *args):
    """`init(*args)`, each array created where it belongs, and the shardings.

    Args:
      shardings_of: shapes of the state → its shardings.
    """
    shardings = shardings_of(jax.eval_shape(init, *args))
    with host_memory.given_back():  # of a function of its own: its program is freed with it
        state = jax.jit(lambda *args: init(*args), out_shardings=shardings)(*args)
    return state, shardings


def run(
    stage: Stage, config: ConfigDict, workdir: Path, state, advance, look, *, scaler: Scaler,
    about: dict | None = None, every: Iterable[int] = (), marks: Iterable[int] = (),
    stop_at: int | None = None,
):
    """Trains to `workdir/<stage.name>/checkpoints`, resuming what is there.

    Args:
      config: the whole configuration.
      state: a fresh one.
      advance: (state, number of steps) → (state, metrics of each step).
      look: (state, steps done, metrics, log) → state, after each dispatch and before what is
        saved then; a resume repeats it.
      scaler, about: kept with the checkpoint, beside the configuration.
      every: a dispatch also ends at the multiples of these.
      marks: and at these steps.
      stop_at: save and stop after this many iterations, as when asked to leave (for tests; that
        comes between dispatches alone: a step by itself may round unlike one in a whole dispatch).

    Returns:
      The state, and whether it is the stage's last one.

    Raises:
      TrainingDiverged: at NaN or infinity.
      Preempted: when the machine is about to be taken away.
      CheckpointError: when the directory's checkpoint cannot be read.
    """
    end = min(stage.iterations, stop_at or stage.iterations)
    every = (config.run.steps_per_dispatch, config.run.checkpoint_every, *every)
    identity = {"stage": stage.name, "config": json.loads(config_lib.to_json(config)),
                "versions": config_lib.versions(), **(about or {})}
    with (
        checkpoint.Checkpoints(workdir / stage.name / "checkpoints") as checkpoints,
        Log(workdir / "metrics.jsonl", stage.name, stage.iterations,
            loggers=loggers.opened(config, workdir, stage.name)) as log,
        preemption.listening() as noticed,
    ):
        if checkpoints.latest_step() is not None:
            state = stage.join(*checkpoints.restore_training(
                *map(checkpoint.abstract, stage.split(state))))
        done = int(state.step)
        while done < end and not stage.finished(state):
            after = min(*((done // n + 1) * n for n in every), *(m for m in marks if m > done),
                        end)
            state, metrics = advance(state, after - done)
            metrics = jax.device_get(metrics)
            check_finite(metrics, done, stage.name)
            done = after
            log.progress(done)
            state = look(state, done, metrics, log)
            leaving = noticed(done)
            if (leaving or done % config.run.checkpoint_every == 0 or done == end
                    or stage.finished(state)):
                checkpoints.save(done, *stage.split(state), scaler, identity)
            if leaving and done < end:
                checkpoints.wait()
                raise preemption.Preempted(
                    f"asked to stop at step {done} of {stage.iterations} of {stage.name}; saved. "
                    "The same command goes on from there")
    return state, done == stage.iterations or stage.finished(state)
