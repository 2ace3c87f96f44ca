"""One distillation iteration: this library beside the published algorithm in plain PyTorch.

    python experiments/benchmarks/step.py --batches=64,256 --threads=2 --out=step.json

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

# Nothing that imports JAX or PyTorch here: workers import this file, and their memory is measured.
HERE = Path(__file__).resolve().parent
WARM_UP = 2


class Sizes(NamedTuple):
    """Of the relay kitchen, as published (VDD-BESO)."""

    observation_dim: int = 30
    action_dim: int = 9
    window: int = 4
    goal_length: int = 2
    experts: int = 4
    samples: int = 2
    teacher_width: int = 360
    teacher_depth: int = 6
    teacher_heads: int = 6
    student_width: int = 240
    student_depth: int = 6
    student_heads: int = 12
    head_width: int = 256
    gating_width: int = 64
    gating_depth: int = 2
    dropout: float = 0.1  # of the student, attention and features


class Row(NamedTuple):
    """One line of the table."""

    title: str
    module: str  # that builds it
    how: str
    note: str
    equal_actions: bool = False  # T times the windows

    @property
    def joint(self) -> bool:
        return self.how != "teacher-forced"

    def windows(self, sizes: Sizes, batch: int) -> int:
        return batch * (sizes.window if self.equal_actions else 1)

    def actions(self, sizes: Sizes, batch: int) -> int:
        """Distilled in a step: those of a whole window or the newest of each."""
        return self.windows(sizes, batch) * (sizes.window if self.joint else 1)


ROWS = {
    "eager": Row(
        "PyTorch, eager", "published_torch", "eager",
        "The published algorithm. All T actions of a window are distilled; every expert and sample "
        "is a sequence of its own through the teacher; published bound, closed entropy. No data "
        "loader, no logging; fused attention and Adam."),
    "compile": Row(
        "PyTorch, compiled", "published_torch", "compile",
        "The same with both losses, forward and backward, through torch.compile."),
    "joint": Row(
        "JAX, joint", "step_jax", "joint",
        "The published algorithm in this library, window='joint', bound='published': as many "
        "sequences and actions as PyTorch. What differs: covariances have a floor on eigenvalues, "
        "not on the factor's diagonal; steps before an episode are masked; GELU is approximate."),
    "forced": Row(
        "JAX, teacher-forced", "step_jax", "teacher-forced",
        "This library's algorithm, window='last', bound='diffused'. Only the newest action of a "
        "window is distilled, its past actions are the demonstrated ones, and samples are single "
        "tokens that share the window's prefix. As many windows as PyTorch but T times fewer "
        "distilled actions: less work, not the same work faster."),
    "forced-equal": Row(
        "JAX, teacher-forced, equal actions", "step_jax", "teacher-forced",
        "The same with T times the windows: as many distilled actions in a step as PyTorch. The "
        "student's trunk runs over T times the windows for them.", equal_actions=True),
}


class Job(NamedTuple):
    """What a row's module builds in its worker."""

    step: Callable[[], None]  # one iteration, to its end
    peak_mib: Callable[[], float]
    facts: dict  # device, versions, parameters, …


class Unavailable(RuntimeError):
    """A row cannot run here; the text says why, to the user."""


def peak_rss_mib() -> float:
    """The most memory this process had."""
    status = Path("/proc/self/status").read_text()
    # not `resource.ru_maxrss`: a child inherits the peak of the process that it was forked from
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# ---- what a step costs

def gflop(sizes: Sizes, row: Row, batch: int) -> float:
    """10⁹ floating-point operations of the matrix products of a row's step, 2 for each
    multiply-add.

    A backward pass counts twice its forward pass; attention counts all pairs of tokens, masked
    ones too. Not counted, about a hundredth: embeddings and the teacher's last layer, what is
    done to single numbers, Gaussians, random numbers, Adam.
    """
    s, windows = sizes, row.windows(sizes, batch)
    queries, states = s.experts * s.samples, s.goal_length + s.window

    def blocks(width, depth, tokens, seen):  # of one sequence; each token attends to `seen`
        return depth * tokens * (24 * width**2 + 4 * seen * width)

    d, depth = s.teacher_width, s.teacher_depth
    tokens = 1 + states + s.window
    if row.joint:
        teacher = windows * queries * blocks(d, depth, tokens, tokens)
    else:  # all but the newest action, then that one for every query
        teacher = windows * (blocks(d, depth, tokens - 1, tokens - 1)
                             + queries * blocks(d, depth, 1, tokens))
    d, h = s.student_width, s.head_width
    head = 2 * (d * h + 2 * h * h + h * (s.action_dim + s.action_dim * (s.action_dim + 1) // 2))
    places = s.window if row.joint else 1
    student = windows * (blocks(d, s.student_depth, states, states) + places * s.experts * head)
    widths = [d, *[s.gating_width] * s.gating_depth, s.experts]
    gating = windows * places * sum(2 * a * b for a, b in zip(widths, widths[1:], strict=False))
    experts_update = teacher + 3 * student + gating
    gating_update = student + 3 * gating
    return (experts_update + gating_update) / 1e9


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
            answer(ms=ms, busy=busy, peak_mib=round(job.peak_mib(), 1))
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
            windows=row.windows(sizes, batch), cores=cores, threads=len(cores), device=device,
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
            precision: str, rounds: int, each: int) -> dict:
    """By row: its 'facts', 'peak_mib', 'busy' `[rounds]` (cores at work for it) and 'ms'
    `[rounds][each]`; or why it is 'skipped' or 'failed'."""
    workers, found = {}, {}
    try:
        for name in names:
            workers[name] = Worker(ROWS[name], sizes, batch, cores, device, precision)
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
        actions = ROWS[name].actions(sizes, batch)
        result[name] = {"title": ROWS[name].title, "windows": ROWS[name].windows(sizes, batch),
                        "actions": actions}
        if name not in medians:
            result[name] |= row
            continue
        middle, least, most = _spread(medians[name])
        work = gflop(sizes, ROWS[name], batch)
        result[name] |= {
            "ms": [round(v, 3) for v in (middle, least, most)],
            "us_per_action": round(1e3 * middle / actions, 3),
            "gflop": round(work, 3), "gflop_per_s": round(1e3 * work / middle, 1),
            "busy_cores": round(statistics.median(row["busy"]), 2), "peak_mib": row["peak_mib"],
            **row["facts"],
        }
        if "eager" in medians:
            ratio = [mine / eager for mine, eager in
                     zip(medians[name], medians["eager"], strict=True)]
            fewer = ROWS["eager"].actions(sizes, batch) / actions
            result[name]["step_of_eager"] = [round(v, 3) for v in _spread(ratio)]
            result[name]["action_of_eager"] = [round(fewer * v, 3) for v in _spread(ratio)]
    return result


def _spread(values):
    return statistics.median(values), min(values), max(values)


HEADER = ("windows", "actions", "ms a step", "µs an action", "step / eager", "action / eager",
          "GFLOP", "by XLA", "GFLOP/s", "cores", "peak MiB")


def render(result: dict, batch: int) -> str:
    """The table of one batch size, and why rows are missing."""
    from vdd_jax.metrics import table  # imports JAX

    rows, missing = [], []
    for row in result.values():
        counts = (row["title"], row["windows"], row["actions"])
        if "ms" not in row:
            word = "skipped" if "skipped" in row else "failed"
            rows.append((*counts, word, *["–"] * (len(HEADER) - 3)))
            missing.append(f"{row['title']}: {word}: {row[word]}")
            continue
        rows.append((
            *counts, _with_range(row["ms"], 1), f"{row['us_per_action']:.0f}",
            _with_range(row.get("step_of_eager"), 2), _with_range(row.get("action_of_eager"), 2),
            f"{row['gflop']:.1f}", f"{row['xla_gflop']:.1f}" if "xla_gflop" in row else "–",
            f"{row['gflop_per_s']:.0f}", f"{row['busy_cores']:.2f}", f"{row['peak_mib']:.0f}",
        ))
    return "\n".join([table(rows, (f"batch {batch}", *HEADER)), *missing])


def _with_range(values, digits) -> str:
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
            "ms, ratios: median over rounds [least, greatest]; below 1 is faster than eager.",
            "GFLOP: of matrix products, by formula; by XLA: of everything in the program.",
            "cores: processor time by elapsed time; far below the threads, others were at work.",
            f"peak MiB: {memory}."]


def _cpu() -> str:
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    return names[0] if names else platform.machine()


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="64,256", help="windows in a step")
    parser.add_argument("--threads", type=int, default=2, help="cores that each row may use")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--each", type=int, default=5, help="timed steps of a row in a round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "tf32", "bfloat16"), default="float32",
                        help="tf32 on a GPU; bfloat16 is config.precision and PyTorch's autocast")
    parser.add_argument("--rows", default=",".join(ROWS), help="which, and in which order")
    parser.add_argument("--sizes", default="", help="other sizes than the kitchen's, name=value,…")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    arguments.batches = [int(n) for n in arguments.batches.split(",")]
    arguments.rows = arguments.rows.split(",")
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"unknown rows {', '.join(unknown)}; there are {', '.join(ROWS)}")
    changed = dict(pair.split("=") for pair in arguments.sizes.split(",") if pair)
    if unknown := set(changed) - set(Sizes._fields):
        parser.error(f"unknown sizes {', '.join(unknown)}; there are {', '.join(Sizes._fields)}")
    arguments.sizes = Sizes(
        **{name: Sizes.__annotations__[name](value) for name, value in changed.items()})
    arguments.cores = sorted(os.sched_getaffinity(0))[: arguments.threads]
    if not 0 < arguments.threads == len(arguments.cores):
        parser.error(f"--threads={arguments.threads}, but this process may use "
                     f"{len(os.sched_getaffinity(0))} cores")
    return arguments


def main(argv=None) -> int:
    """Returns 1 where a row failed; what cannot run here is skipped."""
    a = parse(argv)
    said = notes(a.rows, a.device)
    record = {"cpu": _cpu(), "threads": a.threads, "device": a.device, "precision": a.precision,
              "rounds": a.rounds, "steps_in_a_round": a.each, "sizes": a.sizes._asdict(),
              "notes": said, "batches": {}}
    for batch in a.batches:
        found = measure(a.rows, a.sizes, batch, a.cores, a.device, a.precision, a.rounds, a.each)
        result = summary(found, a.sizes, batch)
        print(render(result, batch) + "\n", flush=True)
        record["batches"][str(batch)] = result
    print("\n".join(said))
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return int(any("failed" in row for result in record["batches"].values()
                   for row in result.values()))


if __name__ == "__main__":
    sys.exit(main())
