"""Latency of one action, student beside teacher, measured in turns in one process.

    python experiments/benchmarks/latency.py --workdir=runs/avoiding --out=latency.json

For each batch size, rounds of single calls go through all actors in turn, so that what else the
machine does falls on all of them alike. A call is timed from arrays on the device to
`block_until_ready`, after compilation and warm-up, and computed on the calling thread: on a CPU JAX
hands a program to another one unless `jax_cpu_enable_async_dispatch` is off (--async leaves it on).
The table gives milliseconds (median over calls, 99th percentile) and the ratio to the student: the
median, and the least and greatest, over the rounds' medians.
"""

import argparse
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vdd_jax import closed_loop, policy, problem
from vdd_jax import config as config_lib
from vdd_jax.checkpoint import write_json
from vdd_jax.core import samplers
from vdd_jax.metrics import table

WARM_UP = 50


def actors_of(workdir: Path, calls: list[int]) -> tuple[dict, tuple[int, int]]:
    """Actors by name, and the shape `(T, O)` of a history."""
    config = config_lib.from_json((workdir / "config.json").read_text())
    task = problem.build(config, workdir)
    student = policy.load(workdir)
    kind = task.teacher_config.sampler.kind
    actors = {"student": closed_loop.of_student(
        config, student.apply, student.params, student.scaler, student.acting,
        min_weight=student.min_weight)}
    for steps in calls:
        actors[f"teacher, {samplers.network_calls(kind, steps)} calls"] = closed_loop.of_teacher(
            config, task.teacher, task.teacher_config, task.scaler, steps)
    return actors, (config.task.window, task.spec.observation_dim)


def measure(actors: dict, window: tuple[int, int], batch: int, rounds: int, each: int) -> dict:
    """Milliseconds `[rounds, each]` of every actor."""
    programs = {name: jax.jit(actor) for name, actor in actors.items()}
    history, valid = jnp.zeros((batch, *window)), jnp.ones((batch, window[0]), bool)
    keys = list(jax.random.split(jax.random.key(0), each))
    for program in programs.values():
        for key in keys[:WARM_UP]:
            jax.block_until_ready(program(history, valid, key))
    times = {name: np.zeros((rounds, each)) for name in programs}
    for i in range(rounds):
        for name, program in programs.items():
            for j, key in enumerate(keys):
                start = time.perf_counter()
                jax.block_until_ready(program(history, valid, key))
                times[name][i, j] = 1e3 * (time.perf_counter() - start)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--calls", default="1,3,8,16", help="sampling steps of the teacher")
    parser.add_argument("--batches", default="1,256")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--each", type=int, default=200, help="calls of an actor in a round")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--async", action="store_true", dest="hand_over")
    arguments = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", arguments.hand_over)
    actors, window = actors_of(arguments.workdir, [int(n) for n in arguments.calls.split(",")])
    device = jax.devices()[0]
    record = {"device": f"{device.device_kind} ({device.platform})", "cpu": platform.processor()
              or platform.machine(), "versions": config_lib.versions(), "rounds": arguments.rounds,
              "async_dispatch": arguments.hand_over, "calls_in_a_round": arguments.each,
              "batches": {}}
    for batch in map(int, arguments.batches.split(",")):
        times = measure(actors, window, batch, arguments.rounds, arguments.each)
        medians = {name: np.median(t, axis=1) for name, t in times.items()}
        found, rows = {}, []
        for name, t in times.items():
            ratio = medians[name] / medians["student"]
            found[name] = {
                "p50_ms": round(float(np.median(t)), 4),
                "p99_ms": round(float(np.percentile(t, 99)), 4),
                "ratio_to_student": [round(float(v), 2)
                                     for v in (np.median(ratio), ratio.min(), ratio.max())],
            }
            middle, least, most = found[name]["ratio_to_student"]
            rows.append((name, f"{found[name]['p50_ms']:.3f}", f"{found[name]['p99_ms']:.3f}",
                         f"{middle:.2f} [{least:.2f}, {most:.2f}]"))
        record["batches"][str(batch)] = found
        print(table(rows, (f"batch {batch}", "p50 ms", "p99 ms", "times the student")) + "\n")
    if arguments.out:
        write_json(arguments.out, record)


if __name__ == "__main__":
    main()
