"""Latency of one action: this library's student and teacher beside the published ones in PyTorch.

    python experiments/benchmarks/actions.py --batches=1,256 --threads=1 --out=actions.json

At the published sizes for the relay kitchen, with random weights. A call is given NumPy
observations of the host and returns a NumPy action, as in the loop of a robot; all that happens in
between is timed. Every row of the table is a process of its own on the same cores (Linux), asked in
turn as in `step.py`. p50 and p99 are over all timed calls, ratios over rounds, each of the round's
medians. What each row does is printed below the table. Rows that cannot run say why.
"""

import argparse
import functools
import json
import math
import shutil
import statistics
import sys
from collections.abc import Callable
from os import environ
from pathlib import Path
from typing import NamedTuple

import numpy as np
import step
from step import Job, Unavailable
from step_rows import Row, Sizes

# As in `step.py`, nothing that imports JAX or PyTorch here.
FEWEST = 3  # timed calls of a row in a round, however large the batch
KEYS = 64

ROWS = {
    "torch-student": Row(
        "PyTorch student", "actions", "torch student eager",
        "The published student, eager, under inference_mode. Of the newest step alone: gating, an "
        "expert drawn from it, its mean. All experts' means are computed, no covariances."),
    "torch-student-compiled": Row(
        "PyTorch student, compiled", "actions", "torch student compiled",
        "The same through torch.compile."),
    "torch-student-bfloat16": Row(
        "PyTorch student, bfloat16", "actions", "torch student bfloat16",
        "The student in eager PyTorch with weights and numbers in bfloat16."),
    "torch-teacher": Row(
        "PyTorch teacher, 3 calls", "actions", "torch teacher eager",
        "The published teacher, eager, under inference_mode: 3 DDIM steps at exponential noise "
        "levels; all tokens of the window in each, the past actions and the newest denoised "
        "together, as BESO does."),
    "torch-teacher-compiled": Row(
        "PyTorch teacher, 3 calls, compiled", "actions", "torch teacher compiled",
        "The same through torch.compile, the steps as one program."),
    "jit": Row(
        "JAX student", "actions", "jax student jit",
        "policy.act of this library, with its checks of the observation; compiled at the first "
        "call."),
    "aot": Row(
        "JAX student, ahead of time", "actions", "jax student aot",
        "policy.compiled of this library: policy.act compiled ahead of time, with its checks, "
        "weights included and, on a CPU in float32, read in strips."),
    "aot-bfloat16": Row(
        "JAX student, bfloat16, ahead of time", "actions", "jax student-bfloat16 aot",
        "The same of a student with config.precision='bfloat16': layers compute in it, the mixture "
        "in float32."),
    "export": Row(
        "JAX student, exported", "actions", "jax student export",
        "policy.act exported by jax.export, weights included, written to bytes, read back, called "
        "under jit: no checks of values, only of shapes."),
    "numpy": Row(
        "NumPy student", "actions", "exported student numpy",
        "numpy_policy.py of this library, which needs NumPy alone; every call has the same goal, "
        "whose keys and values are kept. Its process also holds JAX, which made the weights."),
    "onnx": Row(
        "ONNX student", "actions", "exported student onnx",
        "The exported mixture in ONNX Runtime, asked for gating and means; the expert is drawn in "
        "NumPy. All experts' means are computed, no covariances. Its process also holds JAX."),
    **{f"teacher-{calls}": Row(
        f"JAX teacher, {calls} call{'s' * (calls > 1)}", "actions", f"jax teacher {calls}",
        f"teachers.sample of this library, DDIM steps: {calls}, at exponential noise levels, the "
        "past actions given; compiled ahead of time.")
       for calls in (1, 3, 8, 16)},
}
BASES = {"of_teacher": "torch-teacher", "of_student": "torch-student"}


class Seen(NamedTuple):
    """What a policy is given, NumPy on the host."""

    states: np.ndarray  # `[B, T, O]`
    goals: np.ndarray  # `[B, G, O]`
    past: np.ndarray  # `[B, T - 1, A]`, actions


Act = Callable[[Seen, int], np.ndarray]  # (what is seen, number of the call) → actions `[B, A]`


def observations(sizes: Sizes, batch: int) -> Seen:
    """Normal numbers."""
    random = np.random.default_rng(0)
    shapes = ((sizes.window, sizes.observation_dim), (sizes.goal_length, sizes.observation_dim),
              (sizes.window - 1, sizes.action_dim))
    return Seen(*(random.standard_normal((batch, *shape), np.float32) for shape in shapes))


# ---- the worker

def build(sizes: Sizes, how: str, windows: int, device: str, precision: str, threads: int) -> Job:
    """One call of a row for the benchmark; `how` is the row's.

    Raises:
      Unavailable: without the device, or without what compiles or exports.
    """
    library, network, kind = how.split()
    act, peak_mib, facts = ACTORS[library](sizes, network, kind, windows, device, threads)
    seen, number = observations(sizes, windows), 0

    def one():
        nonlocal number
        number += 1
        act(seen, number)

    return Job(one, peak_mib, facts)


def torch_actor(sizes: Sizes, network: str, kind: str, batch: int, device: str, threads: int):
    """`act`, the function that tells the peak of memory, and facts; `kind` is 'eager',
    'compiled' or 'bfloat16'."""
    import published_torch
    import torch

    torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("PyTorch sees no CUDA device")
    if device == "cpu" and kind == "compiled" and not any(
            map(shutil.which, [environ["CXX"]] if "CXX" in environ else ["g++", "clang++"])):
        raise Unavailable("no C++ compiler was found, and torch.compile needs one for a CPU")
    torch.manual_seed(0)
    maker = {"student": published_torch.Student, "teacher": published_torch.Teacher}[network]
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    model = maker(sizes).to(device, dtype).eval()
    run = functools.partial(_torch_student if network == "student" else _torch_teacher, model)
    if kind == "compiled":
        run = torch.compile(run, dynamic=False)

    def act(seen: Seen, number: int) -> np.ndarray:
        with torch.inference_mode():
            given = (torch.from_numpy(v).to(device, dtype) for v in seen)
            return run(*given).float().cpu().numpy()

    def peak_mib():
        if device == "cpu":
            return step.peak_rss_mib()
        return torch.cuda.max_memory_allocated() / 2**20

    return act, peak_mib, {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": {"torch": torch.__version__},
        "parameters": sum(p.numel() for p in model.parameters())}


def _torch_student(student, states, goals, past):
    """The mean `[B, A]` of an expert drawn from the gating at the newest state."""
    import torch
    import torch.nn.functional as F

    goals, states = student.tokens(states, goals)
    features = student.trunk(torch.cat([goals, states], dim=1))[:, -1]
    heads = student.heads  # of which the published pass would make the covariances too
    x = heads.first(features.expand(heads.mean.weight.shape[0], *features.shape))
    means = heads.mean(F.mish(x + heads.down(F.mish(heads.up(F.mish(x))))))
    expert = torch.multinomial(student.log_weights(features).exp(), 1)[:, 0]
    return means[expert, torch.arange(len(expert), device=expert.device)]


def _torch_teacher(teacher, states, goals, past, steps: int = 3):
    """The newest action `[B, A]` after DDIM steps that denoise it and the past ones together."""
    import torch

    high, low = SIGMAS
    sigmas = [high * (low / high) ** (i / (steps - 1)) for i in range(steps)]
    x = torch.cat([past, high * torch.randn_like(past[:, :1])], dim=1)
    for sigma, then in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        score = teacher(x, x.new_full((len(x),), sigma), states, goals)
        x = x + sigma * (sigma - then) * score  # x + (then − σ) (x − D)/σ, D = x + σ² score
    return x[:, -1]


SIGMAS = 1.0, 0.005  # of the teachers, greatest and least


def jax_actor(sizes: Sizes, network: str, kind: str, batch: int, device: str, threads: int):
    """As `torch_actor`; `network` is 'teacher', 'student' or 'student-PRECISION', `kind` 'jit',
    'aot' or 'export' for a student, for a teacher its calls. XLA makes as many threads as the
    process may use cores."""
    import jax

    from vdd_jax import config as config_lib

    try:
        found = jax.devices(device)[0]
    except (RuntimeError, AssertionError) as error:  # the latter where no plug-in is installed
        raise Unavailable(f"JAX sees no {device.upper()} device") from error
    network, _, precision = network.partition("-")
    if network == "student":
        program, params = _jax_student(sizes, precision or "float32",
                                       ahead=batch if kind == "aot" else 0)
    else:
        program, params = _jax_teacher(sizes, int(kind))
    keys = list(jax.random.split(jax.random.key(1), KEYS))
    if kind not in ("jit", "aot"):
        program = _compiled(program, kind, observations(sizes, batch), keys[0])

    def act(seen: Seen, number: int) -> np.ndarray:
        return np.asarray(program(seen, keys[number % KEYS]))

    def peak_mib():
        if device == "cpu":
            return step.peak_rss_mib()
        return found.memory_stats()["peak_bytes_in_use"] / 2**20

    return act, peak_mib, {
        "device": found.device_kind, "versions": config_lib.versions(),
        "parameters": sum(v.size for v in jax.tree.leaves(params))}


def _scaler(sizes: Sizes):
    """Numbers stay as they are."""
    import jax

    from vdd_jax.data import Scaler

    zero, one = np.zeros, np.ones
    o, a = sizes.observation_dim, sizes.action_dim
    return jax.device_put(Scaler(*(make(n, np.float32) for make, n in (
        (zero, a), (one, a), (zero, o), (one, o), (one, o)))))


def _policy(sizes: Sizes, precision: str = "float32"):
    """The policy of a student with random weights."""
    import jax
    import step_jax

    from vdd_jax import problem
    from vdd_jax.models.moe import MixtureOfExperts
    from vdd_jax.policy import Policy

    config = step_jax.configure(sizes, "last", 1, precision)
    model = MixtureOfExperts(
        action_dim=sizes.action_dim, dtype=problem.dtype(config), **config.student.to_dict())
    example = step_jax.random_windows(sizes, 1).observation
    params = jax.jit(model.init)(jax.random.key(0), example)["params"]
    return Policy(
        params, _scaler(sizes), model.apply, sizes.observation_dim, sizes.action_dim, sizes.window,
        goal_length=sizes.goal_length, matmul=problem.MATMUL[config.precision],
        apply_one=model.apply_one)


def _jax_student(sizes: Sizes, precision: str, ahead: int):
    """(what is seen, key) → actions `[B, A]`, by the policy of a student, and its parameters; with
    `ahead`, compiled for so many actions."""
    import jax

    from vdd_jax.policy import History

    def history(seen):
        return History(seen.states, goal=seen.goals)

    policy = _policy(sizes, precision)
    act = policy.act if not ahead else policy.compiled(
        history(observations(sizes, ahead)), jax.random.key(1))
    return lambda seen, key: act(history(seen), key), policy.params


def _jax_teacher(sizes: Sizes, calls: int):
    """(what is seen, key) → actions `[B, A]`, by the teacher's sampler, and its parameters."""
    import jax
    import step_jax

    from vdd_jax import problem, teachers
    from vdd_jax.models import denoiser

    config = step_jax.configure(sizes, "last", 1)
    config.teacher.sampler.update(kind="ddim", spacing="log")
    network = denoiser.build(config.teacher, sizes.action_dim)
    params = jax.jit(functools.partial(denoiser.init, config.teacher, network))(
        jax.random.key(0), step_jax.random_windows(sizes, 1))
    teacher, scaler = teachers.from_network(config.teacher, params, sizes.action_dim), _scaler(
        sizes)

    def program(seen, key):
        context = scaler.context(seen.states, None, seen.past, seen.goals)
        with jax.default_matmul_precision(problem.MATMUL[config.precision]):
            action = teachers.sample(teacher, config.teacher, context, key, seen.states.shape[:1],
                                     sizes.action_dim, calls)
        return scaler.unscale_action(action)

    return program, params


def _compiled(program, kind: str, seen: Seen, key):
    """`program` for the shapes of what is seen."""
    import jax

    program = jax.jit(program)
    if kind == "export":
        from jax import export

        flat = jax.jit(lambda *values: program(Seen(*values[:-1]), values[-1]))
        try:
            written = export.export(flat)(*seen, key).serialize()
        except ImportError as error:
            raise Unavailable("jax.export needs flatbuffers, which is not installed") from error
        restored = jax.jit(export.deserialize(written).call)
        return lambda seen, key: restored(*seen, key)
    return program.lower(seen, key).compile()


def exported_actor(sizes: Sizes, network: str, kind: str, batch: int, device: str, threads: int):
    """As `torch_actor`, of the student as `vdd_jax.export --format=KIND` writes it."""
    import actions_exported
    import jax

    if device != "cpu":
        raise Unavailable(f"the row of {kind} computes on a CPU")
    policy = _policy(sizes)
    act, versions = getattr(actions_exported, f"{kind}_actor")(policy, threads)
    return act, step.peak_rss_mib, {
        "device": "cpu", "versions": versions,
        "parameters": sum(v.size for v in jax.tree.leaves(policy.params))}


ACTORS = {"torch": torch_actor, "jax": jax_actor, "exported": exported_actor}


# ---- the parent

def summary(found: dict) -> dict:
    """What `step.measure` found, as numbers of the table, by row."""
    medians = {name: [statistics.median(turn) for turn in row["ms"]]
               for name, row in found.items() if "ms" in row}
    result = {}
    for name, row in found.items():
        result[name] = {"title": ROWS[name].title}
        if name not in medians:
            result[name] |= row
            continue
        times = sorted(sum(row["ms"], []))
        result[name] |= {
            "p50_ms": round(statistics.median(times), 4),
            "p99_ms": round(times[math.ceil(0.99 * len(times)) - 1], 4), "calls": len(times),
            "busy_cores": round(statistics.median(row["busy"]), 2), "peak_mib": row["peak_mib"],
            **row["facts"]}
        for key, base in BASES.items():
            if base in medians:
                ratio = [mine / its for mine, its in
                         zip(medians[name], medians[base], strict=True)]
                result[name][key] = [
                    round(v, 4) for v in (statistics.median(ratio), min(ratio), max(ratio))]
    return result


HEADER = ("p50 ms", "p99 ms", "/ PyTorch teacher", "/ PyTorch student", "cores", "peak MiB")


def render(result: dict, batch: int) -> str:
    """The table of one batch size, and why rows are missing."""
    from vdd_jax.metrics import table  # imports JAX

    rows, missing = [], []
    for row in result.values():
        if "p50_ms" not in row:
            word = "skipped" if "skipped" in row else "failed"
            rows.append((row["title"], word, *["–"] * (len(HEADER) - 1)))
            missing.append(f"{row['title']}: {word}: {row[word]}")
            continue
        ratios = ("{:.3f} [{:.3f}, {:.3f}]".format(*row[key]) if key in row else "–"
                  for key in BASES)
        rows.append((row["title"], f"{row['p50_ms']:.3f}", f"{row['p99_ms']:.3f}", *ratios,
                     f"{row['busy_cores']:.2f}", f"{row['peak_mib']:.0f}"))
    return "\n".join([table(rows, (f"batch {batch}", *HEADER)), *missing])


def notes(names: list[str]) -> list[str]:
    """What the table's rows and columns are."""
    return [*(f"{ROWS[name].title}: {ROWS[name].note}" for name in names),
            "a call: NumPy observations of a batch in, their NumPy actions out; JAX's random keys "
            "are made before.",
            "p50, p99: over all timed calls.",
            "/: of a round's medians; the median over rounds [least, greatest]; below 1 is faster.",
            "cores: processor time by elapsed time; far below the threads, others were at work."]


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="1,256", help="actions in a call")
    parser.add_argument("--threads", type=int, default=1, help="cores that each row may use")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--each", type=int, default=200, help="timed calls of a row in a round at "
                        f"batch 1; fewer in proportion at greater ones, but at least {FEWEST}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rows", default=",".join(ROWS), help="which, and in which order")
    parser.add_argument("--sizes", default="", help="other sizes than the kitchen's, name=value,…")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    arguments.batches = [int(n) for n in arguments.batches.split(",")]
    step.settle(parser, arguments, ROWS)
    return arguments


def main(argv=None) -> int:
    """Returns 1 where a row failed; what cannot run here is skipped."""
    a = parse(argv)
    said = notes(a.rows)
    record = {"cpu": step.cpu(), "threads": a.threads, "device": a.device, "rounds": a.rounds,
              "sizes": a.sizes._asdict(), "notes": said, "batches": {}}
    for batch in a.batches:
        found = step.measure(a.rows, a.sizes, batch, a.cores, a.device, "float32", a.rounds,
                             max(FEWEST, a.each // batch), ROWS)
        rows = summary(found)
        print(render(rows, batch) + "\n", flush=True)
        record["batches"][str(batch)] = rows
    print("\n".join(said))
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return int(any("failed" in row for rows in record["batches"].values()
                   for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
