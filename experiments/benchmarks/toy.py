"""The toy's quality table: every case over seeds, through the same stages as the command line.

    python experiments/benchmarks/toy.py                       all cases, 10 seeds
    python experiments/benchmarks/toy.py --cases=std_0.05 --seeds=3

Prints Markdown and writes experiments/results/toy.json; cases that are not run keep their rows.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import tempfile
import time
from importlib import machinery, util
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402
from absl import logging  # noqa: E402

from vdd_jax import config as config_lib  # noqa: E402
from vdd_jax import stages  # noqa: E402

ROOT = Path(__file__).parents[2]
UNEQUAL = (0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05)
PAPER_UNIFORM = {"distill.noise.kind": "uniform", "distill.noise.low": 0.2,
                 "distill.noise.high": 0.5}
# name: (variant of configs/toy.py, overrides, what the row must reach or None)
CASES = {
    "default": ("", {}, 0.05),
    "default, uniform gating": ("", {"student.gating": "uniform"}, 0.05),
    "std_0.15": ("", {"task.mode_std": 0.15}, 0.05),
    "std_0.05": ("", {"task.mode_std": 0.05}, 0.05),
    "std_0.15, uniform gating": ("", {"task.mode_std": 0.15, "student.gating": "uniform"}, 0.05),
    "std_0.05, uniform gating": ("", {"task.mode_std": 0.05, "student.gating": "uniform"}, 0.05),
    "unequal weights": (
        "", {"task.mode_std": 0.15, "task.mode_weights": UNEQUAL, "student.num_experts": 16}, 0.05),
    "conditional": (
        "", {"task.mode_std": 0.15, "task.observation_dim": 2, "student.num_experts": 16}, 0.10),
    "radius 10, std 0.1, 16 modes": (
        "", {"task.radius": 10.0, "task.mode_std": 0.1, "task.num_modes": 16}, 0.05),
    "radius 0.5, std 0.05, 5 modes": (
        "", {"task.radius": 0.5, "task.mode_std": 0.05, "task.num_modes": 5}, 0.05),
    "toy1d, std 0.1": (
        "", {"task.name": "toy1d", "task.num_modes": 6, "task.mode_std": 0.1}, 0.05),
    "published, σ 0.1, std 0.5": ("paper", {}, None),
    "published, σ 0.1, std 0.15": ("paper", {"task.mode_std": 0.15}, None),
    "published, σ ~ U[.2, .5], std 0.5": ("paper", PAPER_UNIFORM, None),
    "published, σ ~ U[.2, .5], std 0.15": (
        "paper", {**PAPER_UNIFORM, "task.mode_std": 0.15}, None),
    # the published losses with our budget: is it the losses or the length?
    "published losses, our budget, σ 0.1, std 0.15": (
        "paper", {"task.mode_std": 0.15, "distill.num_iterations": 8_000,
                  "distill.learning_rate": 2e-3, "run.log_every": 1_000}, None),
}


def get_config(variant: str):
    """configs/toy.py, loaded from its file as the command line does."""
    loader = machinery.SourceFileLoader("toy_config", str(ROOT / "configs" / "toy.py"))
    module = util.module_from_spec(util.spec_from_loader("toy_config", loader))
    loader.exec_module(module)
    return module.get_config(variant)


def run(case: str, seed: int) -> dict:
    variant, overrides, _ = CASES[case]
    config = get_config(variant)
    settings = {"run.figures": False, "run.num_snapshots": 0, "seed": seed, **overrides}
    config.update_from_flattened_dict(settings)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stdout(io.StringIO()):
        report = stages.run(config, Path(workdir) / "run")
    student = report["student"]
    keys = ("kl_teacher_student", "kl_student_teacher", "modes_found", "modes_total")
    return {"seed": seed, **{k: student[k] for k in keys},
            "seconds": round(time.monotonic() - start, 1)}


def passes(row: dict, limit: float) -> bool:
    return (max(row["kl_teacher_student"], row["kl_student_teacher"]) <= limit
            and row["modes_found"] == row["modes_total"])


def render(results: dict) -> str:
    head = ("case", "KL(π‖q) median [max]", "KL(q‖π) median [max]", "all modes found", "target",
            "reached", "seconds")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for case in CASES:
        if case not in results:
            continue
        rows = results[case]["runs"]
        cells = [case]
        for key in ("kl_teacher_student", "kl_student_teacher"):
            values = [r[key] for r in rows]
            cells.append(f"{statistics.median(values):.4f} [{max(values):.4f}]")
        cells.append(f"{sum(r['modes_found'] == r['modes_total'] for r in rows)} of {len(rows)}")
        limit = CASES[case][2]
        cells += ["–", "–"] if limit is None else [
            f"≤ {limit}", f"{sum(passes(r, limit) for r in rows)} of {len(rows)}"]
        cells.append(f"{statistics.median(r['seconds'] for r in rows):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--cases", help="names separated by ';' (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "toy.json")
    arguments = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    names = [n.strip() for n in arguments.cases.split(";")] if arguments.cases else list(CASES)
    if unknown := set(names) - set(CASES):
        parser.error(f"unknown cases {sorted(unknown)}; there are: {'; '.join(CASES)}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True,
                            capture_output=True).stdout.strip()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    device = jax.devices()[0]
    for case in names:
        runs = []
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            runs.append(run(case, seed))
            print(case, runs[-1], flush=True)
        results[case] = {
            "commit": commit, "variant": CASES[case][0], "overrides": CASES[case][1],
            "device": f"{device.device_kind}, {os.cpu_count()} cores",
            "versions": config_lib.versions(), "runs": runs,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print("\n" + render(results))


if __name__ == "__main__":
    main()
