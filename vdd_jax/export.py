"""Writes a student as one file that runs without this library:

    python -m vdd_jax.export --workdir=DIR --format=stablehlo|onnx|numpy --out=FILE

Every format gives the mixture in the units of the demonstrations, the normaliser included:

    log_weights `[B, Z]`    means `[B, Z, A]`    scale_tril `[B, Z, A, A]`

with A the numbers of an action (of all H of a chunk), L = scale_tril the Cholesky factor of a
covariance, any B. The inputs, float32 (`valid` bool):

    observation `[B, O]`     of a task without time, or
    observations `[B, T, O]` the window, oldest first; before an episode the first one repeated
    valid `[B, T]`           which of them were made
    goal `[B, G, O]`         where the task has goals
    images `[B, T, C, S, S, 3]`  uint8, where the task has images (stablehlo alone)

stablehlo (the export extra; to run it JAX alone, on a CPU, CUDA or TPU):

    exported = jax.export.deserialize(bytearray(pathlib.Path("policy.stablehlo").read_bytes()))
    jax.jit(exported.call)(observations=…, valid=…)     # {"log_weights": …, "means": …, …}

onnx (the export extra; to run it any ONNX runtime):

    session = onnxruntime.InferenceSession("policy.onnx")
    session.run(["log_weights", "means", "scale_tril"], {"observations": …, "valid": …})

numpy (to run it NumPy alone): `numpy_policy.py` is put beside the file, see there. It acts, too.

Before a file is kept it is compared with the policy on random inputs: what differs by more than
`limit` is not written. Nothing is overwritten.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as in main.py

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import logging  # noqa: E402
from flax.traverse_util import flatten_dict  # noqa: E402

from vdd_jax import export_onnx, numpy_policy  # noqa: E402
from vdd_jax import policy as policy_lib  # noqa: E402
from vdd_jax.checkpoint import CheckpointError  # noqa: E402
from vdd_jax.core import mixture as mixtures  # noqa: E402
from vdd_jax.policy import History, Policy, SampledPolicy  # noqa: E402
from vdd_jax.policy_input import scaled  # noqa: E402

LIMITS = (1e-5, 1e-4)  # see `limit`
BATCHES = (1, 256)  # of the comparison
OUTPUTS = ("log_weights", "means", "scale_tril")
WAYS = {"sample": "by samples of the mixture",  # of acting, but for the published one
        "most_likely_mean": "by the mean of the likeliest expert"}
PLATFORMS = ("cpu", "cuda", "tpu")
STUDENT = ("num_experts", "covariance", "history", "fourier", "trunk", "heads", "head",
           "activation", "init_std", "std_floor")  # what numpy_policy.py is told of a student

Arrays = dict[str, np.ndarray]


class ExportError(RuntimeError):
    """What cannot be exported; the text is for the user."""


USER_ERRORS = (ExportError, export_onnx.NotLowered, CheckpointError, OSError)


class Found(NamedTuple):
    """What a comparison finds of one output: the largest differences, as in `differences`."""

    relative: float  # of the file from the policy
    absolute: float
    file: float  # relative, of the file from the policy in float64
    policy: float  # relative, of the policy in float32 from itself in float64


class Format(NamedTuple):
    """How a policy is written to a file, and how the file is run."""

    needs: tuple[str, ...]  # packages of the export extra
    write: Callable[[Policy, Path], None]
    read: Callable[[Path], Callable[[Arrays], Arrays]]  # inputs by name → outputs by name


def run(workdir: Path, form: str, out: Path) -> str:
    """Exports the student in `workdir`; says what was written and how exact it is.

    Raises:
      One of USER_ERRORS; there is no file then.
    """
    chosen = FORMATS[form]
    beside = out.parent / "numpy_policy.py" if form == "numpy" else None
    for package in chosen.needs:
        if importlib.util.find_spec(package) is None:
            raise ExportError(f"--format={form} needs {package}, which is not installed; it comes "
                              "with the export extra: pip install 'vdd_jax[export]'")
    if out.exists():
        raise ExportError(f"{out} is there already; nothing was written")
    if out.parent.exists() and not out.parent.is_dir():
        raise ExportError(f"{out.parent} is a file, not a directory; nothing was written")
    ours = Path(numpy_policy.__file__)
    if beside and beside.exists() and beside.read_bytes() != ours.read_bytes():
        raise ExportError(f"{beside} is there already and is not that of this version; nothing "
                          "was written")
    policy = exportable(policy_lib.load(workdir))
    if policy.images and form != "stablehlo":
        raise ExportError(f"the student in {workdir} sees images; such a one is exported by "
                          f"--format=stablehlo, not {form}")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    try:
        chosen.write(policy, temporary)
        found = compare(policy, chosen.read(temporary))
        if worst := [name for name in OUTPUTS if not found[name].relative <= limit(found[name])]:
            raise ExportError(f"{describe(found)}\n{worst[0]} of the file differs from the "
                              f"policy's by more than {limit(found[worst[0]]):.1e}; nothing was "
                              "written")
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    if beside and not beside.exists():
        shutil.copyfile(ours, beside)
    size = f"{out} ({out.stat().st_size / 2**20:.1f} MiB)"
    inputs = ", ".join(f"{name} [B, {', '.join(map(str, shape))}]"
                       for name, (shape, _) in inputs_of(policy).items())
    acting = "" if form == "numpy" else _acting(policy)
    return (f"wrote {size}" + f" and {beside}" * bool(beside) + f"\ninputs: {inputs}{acting}\n"
            + describe(found))


def _acting(policy: Policy) -> str:
    """What who acts on the mixture has to know, where any expert's mean would not be it."""
    how = []
    if policy.acting in WAYS:
        how.append(f"{WAYS[policy.acting]} (config.policy.acting)")
    if policy.min_weight:
        how.append(f"by experts of weight {policy.min_weight:g} and more "
                   "(config.policy.min_weight)")
    return "\nthis policy acts " + ", ".join(how) if how else ""


def limit(found: Found) -> float:
    """How much an output of a file may differ from the policy's: 1e-5, or five times as much as
    the policy itself differs from float64 where that is more; 1e-4 at most.

    A student with large weights makes much of the rounding within its products, and a file that
    adds in another order rounds otherwise: neither is nearer to what the student says.
    """
    least, most = LIMITS
    return float(np.clip(5 * found.policy, least, most))


def describe(found: dict[str, Found]) -> str:
    """The comparison, one line an output."""
    return "\n".join(
        f"{name}: largest difference from the policy {v.relative:.1e} (absolute {v.absolute:.1e}); "
        f"from float64, the file's {v.file:.1e}, the policy's {v.policy:.1e}"
        for name, v in found.items())


def exportable(policy: Policy | SampledPolicy) -> Policy:
    """The policy with layers that compute in float32: what a student trained in bfloat16 is
    exported as.

    Raises:
      ExportError: for a policy without a density.
    """
    if isinstance(policy, SampledPolicy):
        raise ExportError(f"{policy.kind}: a policy without a mixture cannot be exported; a "
                          "student of the stage 'distill' or 'from_scratch' can")
    model = policy.apply.__self__.clone(dtype=jnp.float32)
    if model.trunk == "transformer" and not model.trunk_depth:
        raise ExportError("a transformer trunk without layers (config.student.trunk_depth = 0) "
                          "cannot be exported")
    return policy.replace(apply=model.apply, apply_one=model.apply_one, matmul="highest")


# ---- the policy as a function of arrays

def inputs_of(policy: Policy) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape without the batch axis and type of every input, by name."""
    o = policy.observation_dim
    if not policy.window:
        return {"observation": ((o,), np.float32)}
    goal = {"goal": ((policy.goal_length, o), np.float32)} if policy.goal_length else {}
    seen = {"images": ((policy.window, *policy.images), np.uint8)} if policy.images else {}
    return {"observations": ((policy.window, o), np.float32),
            "valid": ((policy.window,), bool), **goal, **seen}


def function_of(policy: Policy):
    """`function(**inputs) → outputs`, by the names at the top, to be traced."""

    def function(**given):
        seen = given["observation"] if not policy.window else History(
            given["observations"], given["valid"], goal=given.get("goal"),
            images=given.get("images"))
        with jax.default_matmul_precision(policy.matmul):
            q = policy.apply({"params": policy.params}, scaled(policy, seen))
        q = mixtures.affine(q, policy.scaler.action_std, policy.scaler.action_mean)
        tril = q.scale_tril
        if tril.ndim == q.means.ndim:
            tril = tril[..., None] * jnp.eye(tril.shape[-1])
        return dict(zip(OUTPUTS, (q.log_weights, q.means, tril), strict=True))

    return function


def in_float64(policy: Policy) -> Callable[[Arrays], Arrays]:
    """The policy's function with everything computed in float64, outside of any trace."""
    parameters, scaler = jax.tree.map(
        lambda v: np.asarray(v, np.float64), (policy.params, policy.scaler))
    model = policy.apply.__self__.clone(dtype=jnp.float64)
    function = function_of(policy.replace(apply=model.apply, params=parameters, scaler=scaler))

    def call(given):
        wide = {k: v if v.dtype == bool else v.astype(np.float64) for k, v in given.items()}
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, jax.jit(function)(**wide))

    return call


def random_inputs(policy: Policy, batch: int, seed: int) -> Arrays:
    """Inputs as the policy may meet them: random walks with the steps of the demonstrations, some
    of them at an episode's start. Half a standard deviation from the mean: coordinates that go
    together in the demonstrations are independent here, and further out lies nothing."""
    rng = np.random.default_rng(seed)
    mean, std, step = (np.asarray(getattr(policy.scaler, name)) for name in (
        "observation_mean", "observation_std", "step_std"))
    o, t = policy.observation_dim, policy.window
    start = mean + 0.5 * std * rng.standard_normal((batch, o))
    if not t:
        return {"observation": start.astype(np.float32)}
    moves = step * rng.standard_normal((batch, t, o))
    missing = rng.integers(0, t, (batch, 1)) * (rng.random((batch, 1)) < 0.5)
    valid = np.arange(t) >= missing
    walk = start[:, None] + np.cumsum(moves * (np.arange(t) > missing)[..., None], axis=1)
    given = {"observations": walk.astype(np.float32), "valid": valid}
    if policy.goal_length:
        goal = mean + 0.5 * std * rng.standard_normal((batch, policy.goal_length, o))
        given["goal"] = goal.astype(np.float32)
    if policy.images:
        given["images"] = rng.integers(0, 256, (batch, t, *policy.images)).astype(np.uint8)
    return given


def compare(policy: Policy, call: Callable[[Arrays], Arrays]) -> dict[str, Found]:
    """What is found of each output of `call`, over random inputs in batches of 1 and more."""
    function, exact = jax.jit(function_of(policy)), in_float64(policy)
    worst = dict.fromkeys(OUTPUTS, Found(0.0, 0.0, 0.0, 0.0))
    for seed, batch in enumerate(BATCHES):
        given = random_inputs(policy, batch, seed)
        ours, found, reference = function(**given), call(given), exact(given)
        between, of_file, of_policy = (differences(policy, *pair) for pair in (
            (ours, found), (reference, found), (reference, ours)))
        for name in OUTPUTS:
            new = (*between[name], of_file[name][0], of_policy[name][0])
            worst[name] = Found(*map(float, np.maximum(worst[name], new)))
    return worst


def differences(policy: Policy, expected: Arrays, found: Arrays) -> dict:
    """By output: (relative, absolute) difference, NaN where it cannot be told.

    Relative is, of log weights, to their size or 1; of means, in standard deviations of the
    demonstrated actions, to their size or 1; of a factor, to the standard deviation that its row
    makes.
    """
    std = np.asarray(policy.scaler.action_std)
    result = {}
    for name in OUTPUTS:
        want, got = np.asarray(expected[name]), np.asarray(found[name])
        if want.shape != got.shape:
            raise ExportError(f"{name} of the file has shape {got.shape}, not {want.shape}; "
                              "nothing was written")
        gap = np.abs(got - want)
        if name == "log_weights":
            size = np.maximum(np.abs(want), 1)
        elif name == "means":
            size = np.maximum(np.abs(want - np.asarray(policy.scaler.action_mean)), std)
        else:
            size = np.linalg.norm(want, axis=-1, keepdims=True)
        result[name] = np.max(gap / size), np.max(gap)
    return result


# ---- the formats

def _write_stablehlo(policy: Policy, file: Path) -> None:
    batch, = jax.export.symbolic_shape("b")
    shapes = {name: jax.ShapeDtypeStruct((batch, *shape), dtype)
              for name, (shape, dtype) in inputs_of(policy).items()}
    exported = jax.export.export(jax.jit(function_of(policy)), platforms=PLATFORMS)(**shapes)
    file.write_bytes(exported.serialize())


def _read_stablehlo(file: Path):
    call = jax.jit(jax.export.deserialize(bytearray(file.read_bytes())).call)
    return lambda given: call(**given)


def _write_onnx(policy: Policy, file: Path) -> None:
    file.write_bytes(export_onnx.lower(function_of(policy), inputs_of(policy)))


def _read_onnx(file: Path):
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda given: dict(zip(OUTPUTS, session.run(OUTPUTS, given), strict=True))


def numpy_content(policy: Policy) -> tuple[dict, Arrays]:
    """The header and the arrays of a numpy export."""
    model = policy.apply.__self__
    header = {"format": numpy_policy.FORMAT, "student": {k: getattr(model, k) for k in STUDENT}}
    header |= {name: getattr(policy, name) for name in (
        "observation_dim", "action_dim", "window", "chunk", "goal_length", "min_weight",
        "acting")}
    return header, {
        **{f"scaler/{k}": np.asarray(v) for k, v in policy.scaler._asdict().items()
           if v is not None},
        **{k: np.asarray(v) for k, v in flatten_dict(policy.params, sep="/").items()}}


def _write_numpy(policy: Policy, file: Path) -> None:
    header, arrays = numpy_content(policy)
    with file.open("wb") as opened:
        np.savez(opened, header=json.dumps(header), **arrays)


def _read_numpy(file: Path):
    policy = numpy_policy.load(file)

    def call(given):
        seen = given["observation"] if not policy.window else numpy_policy.History(
            given["observations"], given["valid"], given.get("goal"))
        return policy.mixture(seen)._asdict()

    return call


FORMATS = {
    "stablehlo": Format(("flatbuffers",), _write_stablehlo, _read_stablehlo),
    "onnx": Format(("onnx", "onnxruntime"), _write_onnx, _read_onnx),
    "numpy": Format((), _write_numpy, _read_numpy),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        print(f"error: {message}; see python -m vdd_jax.export --help", file=sys.stderr)
        sys.exit(1)


def main(arguments: list[str] | None = None) -> None:
    parser = _Parser(prog="python -m vdd_jax.export", description=__doc__,
                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, type=Path, help="of a run with a student")
    parser.add_argument("--format", required=True, choices=list(FORMATS))
    parser.add_argument("--out", required=True, type=Path, help="the file to write")
    given = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # orbax tells every file it touches
    try:
        print(run(given.workdir, given.format, given.out))
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
