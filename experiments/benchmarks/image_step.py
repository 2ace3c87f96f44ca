"""A training step of a teacher that sees: several steps in a dispatch, as the other stages take
them, beside one at a time.

    python experiments/benchmarks/image_step.py --out=experiments/results/image_step.json

Networks of configs/images.py:small, random images. In turn, after warm-up; seconds of a step,
median [least, greatest] over rounds, and the ratio within a round.
"""

import argparse
import json
import runpy
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vdd_jax import config as config_lib
from vdd_jax import problem, sharding, train_teacher, training
from vdd_jax.data import batch_at

ROOT = Path(__file__).resolve().parents[2]
WAYS = {"one by one": lambda num: 1, "in a loop": lambda num: num}  # steps in one program


def programs(config, num: int):
    """Way → `call()`, `num` steps of random data until they are done."""
    mesh, model = sharding.make_mesh(config), problem.network(config)
    random, rows = np.random.default_rng(0), 4 * config.teacher.batch_size
    one = problem.example(config, seen=False)
    data = jax.tree.map(lambda v: jnp.asarray(random.normal(size=(rows, *v.shape[1:])), v.dtype)
                        if v.dtype == jnp.float32 else jnp.ones((rows, *v.shape[1:]), v.dtype), one)
    shape = rows, *problem.spec(config).images  # of the newest observation alone, as in `windows`
    images = jnp.asarray(random.integers(0, 256, shape), jnp.uint8)
    data = data._replace(observation=data.observation._replace(images=images))
    found = {}
    for name, whole in WAYS.items():
        state, shardings = training.born(
            lambda key: train_teacher.init(config.teacher, model, key, one),
            lambda shapes: sharding.of_state(shapes, mesh), jax.random.key(0))
        advance = training.dispatched(
            train_teacher.make_step(config.teacher, model, batch_at), shardings, False, whole(num))

        def call(advance=advance, state=state):
            jax.block_until_ready(advance(state, data, jax.random.key(1), num))

        found[name] = call
    return found


def measure(calls: dict, num: int, rounds: int) -> dict:
    """Way → seconds of a step in each round."""
    times = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) / num)
    return times


def render(record: dict) -> str:
    """The table."""
    def spread(values):
        return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"

    first = record["seconds"]["one by one"]
    lines = ["| a step | seconds | of one by one |", "|---|---|---|"]
    for name, times in record["seconds"].items():
        ratio = [mine / its for mine, its in zip(times, first, strict=True)]
        lines.append(f"| {name} | {spread(times)} | {spread(ratio)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="in a dispatch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    config = runpy.run_path(str(ROOT / "configs" / "images.py"))["get_config"]("small")
    config.teacher.batch_size = asked.batch
    device = jax.devices()[0]
    record = {"device": device.device_kind, "versions": config_lib.versions(),
              "batch": asked.batch, "steps": asked.steps,
              "seconds": measure(programs(config, asked.steps), asked.steps, asked.rounds)}
    if asked.out:
        asked.out.write_text(json.dumps(record, indent=1) + "\n")
    print(render(record))


if __name__ == "__main__":
    main()
