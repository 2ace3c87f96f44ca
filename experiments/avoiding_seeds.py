"""Several seeds of an Avoiding configuration, one after the other, and their table.

    python experiments/avoiding_seeds.py --config=configs/avoiding.py --seeds=0,1,2 \
        --out=experiments/results/avoiding.json --name=scripted -- [--config.key=value …]

What follows `--` goes to `vdd_jax.main` as it is. A finished seed is not run again. The JSON keeps,
under `name`, the command, the commit, and of every seed what the report says of each actor.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from vdd_jax.checkpoint import write_json

ROOT = Path(__file__).parents[1]
ACTOR = ("success", "success_low", "success_high", "entropy", "modes_found", "collision",
         "time_out", "left_corridor", "mean_steps", "episodes", "network_calls", "latency_ms",
         "seconds_of_episodes")
STUDENT = (*ACTOR, "sliced_wasserstein", "mmd", "hdr_coverage", "fisher_by_noise",
           "mean_slope", "std_ratio", "nll_held_out", "nll_teacher_samples", "gating_entropy",
           "experts_used")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/avoiding.py")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--name", required=True)
    parser.add_argument("--runs", default="runs/seeds", type=Path)
    parser.add_argument("--out", default="experiments/results/avoiding.json", type=Path)
    parser.add_argument("--commit", help="of the runs, where they are older than HEAD")
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_args()
    commit = arguments.commit or subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT,
    ).stdout.strip()
    results = []
    for seed in map(int, arguments.seeds.split(",")):
        workdir = arguments.runs / f"{arguments.name}_{seed}"
        command = [sys.executable, "-m", "vdd_jax.main", f"--config={arguments.config}",
                   f"--workdir={workdir}", f"--config.seed={seed}", *arguments.rest]
        if not (workdir / "report.json").exists():
            subprocess.run(command, check=True)
        report = json.loads((workdir / "report.json").read_text())
        student = report["student"]
        results.append({
            "seed": seed,
            "teacher": {k: report["teacher"][k] for k in ACTOR},
            "one_step_teacher": {k: report["few_step_teachers"]["1"][k] for k in ACTOR},
            "student": {k: student[k] for k in STUDENT},
            "other_ways_of_acting": {
                way: {k: v[k] for k in ("success", "entropy", "modes_found")}
                for way, v in student["other_ways_of_acting"].items()},
            "wall_seconds": report["wall_seconds"],
            "demonstrations": report["teacher"]["demonstrations"],
            "versions": report["versions"],
        })
    record = {
        "command": f"python -m vdd_jax.main --config={arguments.config} "
                   + " ".join(arguments.rest), "commit": commit, "seeds": results,
    }
    everything = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    write_json(arguments.out, {**everything, arguments.name: record})
    print(table(results))


def table(results: list[dict]) -> str:
    """Mean and range over seeds of success and entropy, one line an actor."""
    lines = []
    for actor in ("teacher", "one_step_teacher", "student"):
        cells = []
        for key in ("success", "entropy"):
            values = [r[actor][key] for r in results]
            cells.append(f"{statistics.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]")
        lines.append(f"| {actor.replace('_', ' ')} | {cells[0]} | {cells[1]} |")
    return "\n".join(["| actor | success, mean [range] | entropy, mean [range] |", "|---|---|---|",
                      *lines])


if __name__ == "__main__":
    main()
