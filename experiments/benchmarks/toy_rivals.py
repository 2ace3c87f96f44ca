"""The rivals on the toy, beside VDD: how each behaves where the target is known exactly.

    python experiments/benchmarks/toy_rivals.py --seeds=5
    python experiments/benchmarks/toy_rivals.py --methods=em,imc --stds=0.15
    python experiments/benchmarks/toy_rivals.py --methods=vdd,em,imc --experts=4   half the modes
    python experiments/benchmarks/toy_rivals.py --methods=imc --experts=4 --pacing=0.02

Prints Markdown and writes experiments/results/toy_rivals.json; what is not run keeps its rows.
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
from pathlib import Path

from absl import logging
from toy import ROOT, get_config

from vdd_jax import config as config_lib
from vdd_jax import stages

# a consistency model's network has the sizes of teacher.*; on the toy a small one will do
SMALL = {"stages": ("consistency", "evaluate"), "teacher.width": 64, "teacher.depth": 2,
         "teacher.sigma_min": 0.01, "consistency.batch_size": 256,
         "consistency.learning_rate": 2e-3}
SCRATCH = {"stages": ("from_scratch", "evaluate")}
METHODS = {
    "vdd": {},
    "em": {**SCRATCH, "from_scratch.method": "em"},
    "imc": {**SCRATCH, "from_scratch.method": "imc"},
    "bc_gmm": {**SCRATCH, "from_scratch.method": "bc_gmm"},
    "cd": {**SMALL, "consistency.method": "cd"},
    "ctm": {**SMALL, "consistency.method": "ctm", "consistency.teacher_steps": 3},
}
KEPT = ("kl_teacher_student", "kl_student_teacher", "modes_found", "modes_total", "std_ratio",
        "sliced_wasserstein", "mmd")


def keys(method: str, experts: int, pacing: float) -> dict:
    """What a row sets beside std and seed; 0: an expert a mode, the default of the pacing."""
    return (METHODS[method] | ({"student.num_experts": experts} if experts else {})
            | ({"from_scratch.pacing": pacing} if pacing else {}))


def run(std: float, seed: int, of_row: dict) -> dict:
    """One run through the same stages as the command line; `of_row` is of `keys`."""
    config = get_config("")
    config.update_from_flattened_dict({
        "run.figures": False, "run.num_snapshots": 0, "seed": seed, "task.mode_std": std,
        **of_row})
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stdout(io.StringIO()):
        report = stages.run(config, Path(workdir) / "run")
    student = report["student"]
    return {"seed": seed, **{k: student[k] for k in KEPT if k in student},
            "floor": report["teacher"]["sliced_wasserstein"],
            "seconds": round(time.monotonic() - start, 1)}


def render(results: dict) -> str:
    """Median [least, greatest] over seeds."""
    head = ("std", "method", "KL(π‖q)", "KL(q‖π)", "modes found", "sliced Wasserstein / floor",
            "std / teacher's", "seeds")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, case in results.items():
        rows = case["runs"]

        def over(values, digits=3):
            values = list(values)
            if None in values:
                return "–"
            return (f"{statistics.median(values):.{digits}f} "
                    f"[{min(values):.{digits}f}, {max(values):.{digits}f}]")

        method, std = name.split(", std ")
        found = sorted(r["modes_found"] for r in rows)
        lines.append("| " + " | ".join((
            std, method, over(r.get("kl_teacher_student") for r in rows),
            over(r.get("kl_student_teacher") for r in rows),
            f"{statistics.median(found):g} [{found[0]}, {found[-1]}] of {rows[0]['modes_total']}",
            over((r["sliced_wasserstein"] / r["floor"] for r in rows), 2),
            over((r["std_ratio"] for r in rows), 2), str(len(rows)))) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--stds", default="0.5,0.15,0.05")
    parser.add_argument("--experts", type=int, default=0, help="of mixtures; 0: one a mode")
    parser.add_argument("--pacing", type=float, default=0, help="of IMC; 0: the default")
    parser.add_argument("--out", type=Path,
                        default=ROOT / "experiments" / "results" / "toy_rivals.json")
    arguments = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    methods = arguments.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"unknown methods {sorted(unknown)}; there are {', '.join(METHODS)}")
    if arguments.pacing and methods != ["imc"]:
        parser.error("--pacing is of imc alone: --methods=imc")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True,
                            capture_output=True).stdout.strip()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for std in arguments.stds.split(","):
        for method in methods:
            of_row = keys(method, arguments.experts, arguments.pacing)
            name = (method + f" of {arguments.experts}" * bool(arguments.experts)
                    + f", pacing {arguments.pacing:g}" * bool(arguments.pacing) + f", std {std}")
            runs = []
            for seed in range(arguments.seeds):
                runs.append(run(float(std), seed, of_row))
                print(name, runs[-1], flush=True)
            results[name] = {"commit": commit, "overrides": of_row,
                             "cores": os.cpu_count(), "versions": config_lib.versions(),
                             "runs": runs}
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print("\n" + render(results))


if __name__ == "__main__":
    main()
