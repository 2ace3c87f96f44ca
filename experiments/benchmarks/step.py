"""One distillation iteration: this library beside the published algorithm in plain PyTorch.

    python experiments/benchmarks/step.py --batches=64,256 --threads=2 --out=step.json
    python experiments/benchmarks/step.py --device=cuda --batches=1024 --precisions=tf32,bfloat16

An iteration is one update of all experts, with its E-step and the teacher's scores, and one of the
gating, at the published sizes for the relay kitchen, with random weights and data. Every row of the
table is a process of its own on the same cores (Linux). They are asked in turn, one at work while
the others wait, so that what else the machine does falls on all alike. Times are medians over
rounds of the rounds' medians, with the least and the greatest of these; ratios are taken within a
round. What each row does, and how many actions it distils, is printed below the table. PyTorch's
rows need torch, the compiled one a C++ compiler too; rows that cannot run say why.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import step_cost
from step_rows import ROWS, Row, Sizes

# Nothing that imports JAX or PyTorch here: workers import this file, and their memory is measured.
HERE = Path(__file__).resolve().parent
WARM_UP = 2


class Job(NamedTuple):
    """What a row's module builds in its worker."""

    step: Callable[[], None]  # one dispatch, to its end
    peak_mib: Callable[[], float]
    facts: dict  # device, versions, parameters, …
    iterations: int = 1  # in a dispatch


class Unavailable(RuntimeError):
    """A row cannot run here; the text says why, to the user."""


def peak_rss_mib() -> float:
    """The most memory this process had."""
    status = Path("/proc/self/status").read_text()
    # not `resource.ru_maxrss`: a child inherits the peak of the process that it was forked from
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# ---- the worker: one row, one process

def serve():
    """Builds the row that the first line of the input asks for; then every line is a turn."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer

    def answer(**values):
        print(json.dumps(values), file=channel, flush=True)

    request = json.loads(sys.stdin.readline())
    # before the libraries are imported, which make as many threads as there are cores for them
    os.sched_setaffinity(0, request.pop("cores"))
    try:
        module = importlib.import_module(request.pop("module"))
        started = time.perf_counter()
        job = module.build(Sizes(**request.pop("sizes")), **request)
        for _ in range(WARM_UP):
            job.step()
        seconds = round(time.perf_counter() - started, 1)
        answer(facts={**job.facts, "seconds_to_build_and_warm_up": seconds})
        for line in sys.stdin:
            job.step()  # not timed: the caches are those of the row before
            busy = time.process_time()
            ms = [_milliseconds(job.step) for _ in range(json.loads(line)["each"])]
            busy = 1e3 * (time.process_time() - busy) / sum(ms)
            answer(ms=[v / job.iterations for v in ms], busy=busy,
                   peak_mib=round(job.peak_mib(), 1))
    except Unavailable as reason:
        answer(skipped=str(reason))
    except ModuleNotFoundError as error:
        word = "skipped" if error.name == "torch" else "failed"
        answer(**{word: f"{error.name} is not installed"})
    except Exception as error:
        traceback.print_exc()
        answer(failed=f"{type(error).__name__}: {str(error).strip()[:300]}")


def _milliseconds(step) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


# ---- the parent

class Worker:
    """A row's process, seen from the outside."""

    def __init__(self, row: Row, sizes: Sizes, batch: int, cores: list[int], device: str,
                 precision: str):
        threads = str(len(cores))
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
            "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "JAX_PLATFORMS": device,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # rows share a GPU's memory
        self._errors = tempfile.TemporaryFile(mode="w+")
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import step; step.serve()"], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)
        self._send(dict(
            module=row.module, how=row.how, sizes=sizes._asdict(),
            windows=batch, cores=cores, threads=len(cores), device=device,
            precision=precision))

    def _send(self, message):
        with contextlib.suppress(BrokenPipeError):  # `answer` says that it ended
            print(json.dumps(message), file=self._process.stdin, flush=True)

    def answer(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._errors.seek(0)
        last = self._errors.read().strip().splitlines()[-1:] or ["no message"]
        return {"failed": f"its process ended with exit status {self._process.wait()}: {last[0]}"}

    def turn(self, each: int) -> dict:
        self._send({"each": each})
        return self.answer()

    def close(self):
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()


def measure(names: list[str], sizes: Sizes, batch: int, cores: list[int], device: str,
            precision: str, rounds: int, each: int, rows: dict[str, Row] | None = None) -> dict:
    """By row of `rows` (None: `ROWS`): its 'facts', 'peak_mib', 'busy' `[rounds]` (cores at work
    for it) and 'ms' `[rounds][each]`; or why it is 'skipped' or 'failed'."""
    workers, found, rows = {}, {}, rows or ROWS
    try:
        for name in names:
            workers[name] = Worker(rows[name], sizes, batch, cores, device, precision)
            if device != "cpu":  # there kernels are chosen by timing them: alone
                found[name] = workers[name].answer()
        for name in names:
            if name not in found:
                found[name] = workers[name].answer()
        for _ in range(rounds):
            for name in names:
                if "facts" not in found[name]:
                    continue
                turn = workers[name].turn(each)
                if "ms" not in turn:
                    found[name] = turn
                    continue
                found[name]["peak_mib"] = turn["peak_mib"]
                for key in ("ms", "busy"):
                    found[name].setdefault(key, []).append(turn[key])
    finally:
        for worker in workers.values():
            worker.close()
    return found


def summary(found: dict, sizes: Sizes, batch: int) -> dict:
    """What `measure` found, as numbers of the table, by row."""
    medians = {name: [statistics.median(turn) for turn in row["ms"]]
               for name, row in found.items() if "ms" in row}
    result = {}
    for name, row in found.items():
        actions = batch * ROWS[name].places(sizes)
        result[name] = {"title": ROWS[name].title, "actions": actions}
        if name not in medians:
            result[name] |= row
            continue
        middle, least, most = spread(medians[name])
        work = step_cost.gflop(sizes, ROWS[name], batch)
        result[name] |= {
            "ms": [round(v, 3) for v in (middle, least, most)],
            "us_per_action": round(1e3 * middle / actions, 3),
            "gflop": round(work, 3), "gflop_per_s": round(1e3 * work / middle, 1),
            "windows_per_s": round(1e3 * batch / middle, 1),
            "busy_cores": round(statistics.median(row["busy"]), 2), "peak_mib": row["peak_mib"],
            **row["facts"],
        }
        if "library_mib" in row["facts"]:  # PyTorch has no plan of its memory
            result[name]["arrays_mib"] = round(row["peak_mib"] - row["facts"]["library_mib"], 1)
        if "eager" in medians:
            ratio = [mine / eager for mine, eager in
                     zip(medians[name], medians["eager"], strict=True)]
            fewer = sizes.window / ROWS[name].places(sizes)
            result[name]["step_of_eager"] = [round(v, 3) for v in spread(ratio)]
            result[name]["action_of_eager"] = [round(fewer * v, 3) for v in spread(ratio)]
    return result


def spread(values):
    return statistics.median(values), min(values), max(values)


HEADER = ("actions", "ms a step", "windows/s", "µs an action", "step / eager", "action / eager",
          "GFLOP", "by XLA", "GFLOP/s", "MFU", "cores", "arrays MiB", "peak MiB")


def render(result: dict, title: str, precision: str, peak_gflops: float | None = None) -> str:
    """One table, and why rows are missing; `peak_gflops` 10⁹ operations a second are possible."""
    from vdd_jax.metrics import table  # imports JAX

    rows, missing = [], []
    for row in result.values():
        counts = (row["title"], row["actions"])
        if "ms" not in row:
            word = "skipped" if "skipped" in row else "failed"
            rows.append((*counts, word, *["–"] * (len(HEADER) - 2)))
            missing.append(f"{row['title']}: {word}: {row[word]}")
            continue
        possible = peak_gflops or step_cost.peak(row["device"], precision)
        rows.append((
            *counts, with_range(row["ms"], 1), f"{row['windows_per_s']:.0f}",
            f"{row['us_per_action']:.0f}",
            with_range(row.get("step_of_eager"), 2), with_range(row.get("action_of_eager"), 2),
            f"{row['gflop']:.1f}", f"{row['xla_gflop']:.1f}" if "xla_gflop" in row else "–",
            f"{row['gflop_per_s']:.0f}",
            f"{row['gflop_per_s'] / possible:.2f}" if possible else "–",
            f"{row['busy_cores']:.2f}", f"{row['arrays_mib']:.0f}", f"{row['peak_mib']:.0f}",
        ))
    return "\n".join([table(rows, (title, *HEADER)), *missing])


def with_range(values, digits) -> str:
    if values is None:
        return "–"
    middle, least, most = (f"{v:.{digits}f}" for v in values)
    return f"{middle} [{least}, {most}]"


def notes(names: list[str], device: str) -> list[str]:
    """What the table's rows and columns are."""
    said = [f"{ROWS[name].title}: {ROWS[name].note}" for name in names]
    memory = ("what was allocated on the GPU" if device == "cuda" else
              "the whole process, with library and compiler")
    return [*said,
            "action: one time step of one window; all experts and samples are for it.",
            "JAX on a GPU: 10 iterations in a dispatch, as config.run.steps_per_dispatch; "
            "PyTorch: 1.",
            "ms, ratios: median over rounds [least, greatest]; below 1 is faster than eager.",
            "GFLOP: of matrix products, by formula; by XLA: of everything in the program.",
            "MFU: GFLOP/s of those that the device could do at most (--peak_gflops).",
            "cores: processor time by elapsed time; far below the threads, others were at work.",
            "arrays MiB: by XLA's plan of the program; PyTorch: the peak less the library alone.",
            f"peak MiB: {memory}."]


def cpu() -> str:
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    return names[0] if names else platform.machine()


def changed_sizes(parser, text: str) -> Sizes:
    """The kitchen's with those of 'name=value,…'; the parser tells of unknown names."""
    changed = dict(pair.split("=") for pair in text.split(",") if pair)
    if unknown := set(changed) - set(Sizes._fields):
        parser.error(f"unknown sizes {', '.join(unknown)}; there are {', '.join(Sizes._fields)}")
    return Sizes(**{name: Sizes.__annotations__[name](value) for name, value in changed.items()})


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="64,256", help="windows in a step")
    parser.add_argument("--experts", default="4", help="in a student")
    parser.add_argument("--threads", type=int, default=2, help="cores that each row may use")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--each", type=int, default=5, help="timed dispatches of a row in a round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precisions", default="float32", help="of float32, tf32 (on a GPU) and "
                        "bfloat16, which is config.precision and PyTorch's autocast")
    parser.add_argument("--peak_gflops", type=float, help="of the device, 10⁹ operations a second "
                        "in matrix products; known for some GPUs")
    parser.add_argument("--rows", default=",".join(ROWS), help="which, and in which order")
    parser.add_argument("--sizes", default="", help="other sizes than the kitchen's, name=value,…")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    arguments.batches = [int(n) for n in arguments.batches.split(",")]
    arguments.experts = [int(n) for n in arguments.experts.split(",")]
    arguments.precisions = arguments.precisions.split(",")
    if unknown := set(arguments.precisions) - {"float32", "tf32", "bfloat16"}:
        parser.error(f"unknown precision {', '.join(unknown)}; there are float32, tf32, bfloat16")
    settle(parser, arguments, ROWS)
    return arguments


def settle(parser, arguments, rows: dict[str, Row]) -> None:
    """Rows, sizes and cores of what the options say of them; ends the program where it cannot."""
    arguments.rows = arguments.rows.split(",")
    if unknown := set(arguments.rows) - set(rows):
        parser.error(f"unknown rows {', '.join(unknown)}; there are {', '.join(rows)}")
    arguments.sizes = changed_sizes(parser, arguments.sizes)
    arguments.cores = sorted(os.sched_getaffinity(0))[: arguments.threads]
    if not 0 < arguments.threads == len(arguments.cores):
        parser.error(f"--threads={arguments.threads}, but this process may use "
                     f"{len(os.sched_getaffinity(0))} cores")


def main(argv=None) -> int:
    """Returns 1 where a row failed; what cannot run here is skipped."""
    a = parse(argv)
    said = notes(a.rows, a.device)
    record = {"cpu": cpu(), "threads": a.threads, "device": a.device, "rounds": a.rounds,
              "steps_in_a_round": a.each, "peak_gflops": a.peak_gflops,
              "sizes": a.sizes._asdict(), "notes": said, "cases": []}
    for precision, experts, batch in itertools.product(a.precisions, a.experts, a.batches):
        sizes = a.sizes._replace(experts=experts)
        found = measure(a.rows, sizes, batch, a.cores, a.device, precision, a.rounds, a.each)
        rows = summary(found, sizes, batch)
        title = f"batch {batch}, {experts} experts, {precision}"
        print(render(rows, title, precision, a.peak_gflops) + "\n", flush=True)
        record["cases"].append(
            {"batch": batch, "experts": experts, "precision": precision, "rows": rows})
    print("\n".join(said))
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return int(any("failed" in row for case in record["cases"] for row in case["rows"].values()))


if __name__ == "__main__":
    sys.exit(main())
