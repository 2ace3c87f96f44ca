"""One distillation step over 1, 2, 4, 8 devices: the same batch, shared out.

    python experiments/benchmarks/scaling.py --batch=64 --out=scaling.json
    python experiments/benchmarks/scaling.py --device=cuda --batch=1024 --meshes=1x1,2x1,4x1,8x1

A mesh is DATAxEXPERT: parts of the batch times parts of the experts. Every mesh is a process of its
own; they are asked in turn, and ratios to the first one are taken within a round. CPU devices are
forced and share the cores: with them a ratio shows what the partitioned program costs beside the
same arithmetic on one device, and no speed-up is possible. The first two losses, after one and two
updates, are compared with the first mesh's.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

import step
from step_rows import Row


def summary(found: dict) -> dict:
    """By mesh: ms and its ratio to the first mesh's (median, least, greatest over rounds), and the
    greatest relative difference of the first losses; or why it did not run."""
    medians = {name: [statistics.median(turn) for turn in row["ms"]]
               for name, row in found.items() if "ms" in row}
    result, first = {}, next(iter(found))
    for name, row in found.items():
        if name not in medians:
            result[name] = row
            continue
        result[name] = {"ms": [round(v, 3) for v in step.spread(medians[name])],
                        "busy_cores": round(statistics.median(row["busy"]), 2), **row["facts"]}
        if first in medians:
            result[name]["of_first"] = [round(v, 3) for v in step.spread(
                [a / b for a, b in zip(medians[name], medians[first], strict=True)])]
            result[name]["loss_difference"] = max(
                abs(a - b) / abs(b) for a, b in zip(
                    row["facts"]["first_losses"], found[first]["facts"]["first_losses"],
                    strict=True))
    return result


def render(result: dict, title: str) -> str:
    from vdd_jax.metrics import table  # imports JAX

    rows, missing = [], []
    for name, row in result.items():
        if "ms" not in row:
            word = "skipped" if "skipped" in row else "failed"
            rows.append((name, word, "–", "–", "–"))
            missing.append(f"{name}: {word}: {row[word]}")
            continue
        difference = f"{row['loss_difference']:.1e}" if "loss_difference" in row else "–"
        rows.append((name, step.with_range(row["ms"], 1), step.with_range(row.get("of_first"), 2),
                     f"{row['busy_cores']:.2f}", difference))
    header = (title, "ms a step", "of the first", "cores", "losses differ by")
    return "\n".join([table(rows, header), *missing])


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", default="1x1,2x1,4x1,8x1,4x2,2x4")
    parser.add_argument("--batch", type=int, default=64, help="windows in a step, over all devices")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=3, help="timed steps of a mesh in a round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "tf32", "bfloat16"), default="float32")
    parser.add_argument("--sizes", default="", help="other sizes than the kitchen's, name=value,…")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    sizes = step.changed_sizes(parser, a.sizes)
    cores = sorted(os.sched_getaffinity(0))
    rows = {name: Row(name, "step_mesh", name, "") for name in a.meshes.split(",")}
    found = step.measure(list(rows), sizes, a.batch, cores, a.device, a.precision, a.rounds,
                         a.each, rows)
    result = summary(found)
    print(render(result, f"batch {a.batch}, {a.precision}"))
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"cpu": step.cpu(), "cores": len(cores), "device": a.device, "batch": a.batch,
                  "precision": a.precision, "rounds": a.rounds, "steps_in_a_round": a.each,
                  "sizes": sizes._asdict(), "meshes": result}
        a.out.write_text(json.dumps(record, indent=1) + "\n")
    return int(any("failed" in row for row in result.values()))


if __name__ == "__main__":
    sys.exit(main())
