"""Table 3: milliseconds of one action by network calls.

DDPM, BESO, CD and CTM with as many calls as asked for, VDD with its one, through the interface of
the policies (`act`, NumPy in), a batch of 1. Networks have the published sizes and random weights,
on which time does not depend. In every round all are timed in turn in one process, so that what
else the machine does falls on all alike.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np
import render
import runs as runs_lib
from options import command, finish
from published_sizes import SIZES, VDD, policies
from runs import ROOT, Failed

from vdd_jax import config as config_lib
from vdd_jax.policy import History

sys.path.append(str(ROOT / "experiments" / "benchmarks"))
import step  # noqa: E402

WARM_UP = 20  # calls, of which the first compiles
NOTES = (
    "ms: of `policy.act`, NumPy observations in, until the action is there; the median over "
    "rounds of a round's median [least, greatest]. Ratio: to VDD in the same round; above 1 is "
    "slower than VDD.",
    "Avoiding: the networks of configs/avoiding_beso.py. Kitchen: those of "
    "experiments/benchmarks/actions.py. Sorting with images: those of configs/published.py; all "
    "encode the images of the whole window with each action, whose share is the same. DDPM is the "
    "same network in a VP chain, CD and CTM the same as consistency models. Random weights.",
    "The paper's milliseconds could not be recovered.")


def measure(actors: dict, sizes, images: tuple[int, ...], rounds: int, each: int) -> dict:
    """Milliseconds of every policy, its median in each round; `sizes` and `images` of what they
    see."""
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.standard_normal(shape, np.float32)

    seen = History(
        normal(sizes.window, sizes.observation_dim),
        past_actions=normal(sizes.window - 1, sizes.action_dim),
        goal=normal(sizes.goal_length, sizes.observation_dim) if sizes.goal_length else None,
        images=random.integers(0, 256, (sizes.window, *images), np.uint8) if images else None)
    keys = list(jax.random.split(jax.random.key(1), each))

    def calls(actor, num):
        times = []
        for i in range(num):
            start = time.perf_counter()
            jax.block_until_ready(actor.act(seen, keys[i % each]))
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)

    for name, actor in actors.items():
        print(f"compiling {name}", flush=True)
        calls(actor, WARM_UP)
    found = {name: [] for name in actors}
    for _ in range(rounds):
        for name, actor in actors.items():
            found[name].append(calls(actor, each))
    return found


def summary(found: dict) -> dict:
    """Policy → `ms` and `ratio_to_vdd`, each [median, least, greatest] over rounds."""
    def spread(values):
        return [round(v, 4) for v in (statistics.median(values), min(values), max(values))]

    return {name: {"ms": spread(times), "ratio_to_vdd": spread(
        [mine / its for mine, its in zip(times, found[VDD], strict=True)])}
        for name, times in found.items()}


def markdown(record: dict) -> list[str]:
    """A table for each size of networks."""
    parts = ["# Table 3: time of one action by network calls"]
    for name, of in record["sizes"].items():
        rows = [[policy, "{:.3f} [{:.3f}, {:.3f}]".format(*v["ms"]),
                 "{:.2f} [{:.2f}, {:.2f}]".format(*v["ratio_to_vdd"])] for policy, v in of.items()]
        parts += [f"## {name}", render.table(("", "ms", "ratio to VDD"), rows)]
    return parts


def main(argv: list[str]) -> None:
    asked = _parse(argv)
    file = asked.out / "table3.json"
    if asked.render:
        try:
            record = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise Failed(f"there is nothing to render: {error}") from error
    else:
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # as README says of one action
        device = jax.devices()[0]
        record = {
            "device": device.device_kind, "cpu": step.cpu(), "versions": config_lib.versions(),
            "rounds": asked.rounds, "each": asked.each, "commit": runs_lib.commit(),
            "command": command("table3", argv), "sizes": {}}
        for name in asked.sizes:
            sized = SIZES[name]()
            print(f"[{name}]", flush=True)
            record["sizes"][name] = summary(measure(
                policies(sized), sized.sizes, sized.images, asked.rounds, asked.each))
    said = [*NOTES, f"{record['device']} ({record['cpu']}), jax {record['versions']['jax']}; "
            f"{record['rounds']} rounds of {record['each']} calls each.",
            f"Commit {record['commit']}. Command: `{record['command']}`"]
    render.write(asked.out, "table3", markdown(record), said, record)


def _parse(argv):
    parser = argparse.ArgumentParser(prog="table3.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES), help="of networks, by comma")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--each", type=int, default=50, help="calls of a policy in a round")
    parser.add_argument("--out", default=ROOT / "experiments" / "results", type=Path)
    parser.add_argument("--render", action="store_true", help="show table3.json again, run nothing")
    asked = parser.parse_args(argv)
    asked.sizes = asked.sizes.split(",")
    if unknown := set(asked.sizes) - set(SIZES):
        parser.error(f"--sizes has {', '.join(sorted(unknown))}; there are {', '.join(SIZES)}")
    return asked


if __name__ == "__main__":
    finish(main)
