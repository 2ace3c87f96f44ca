"""Writes a student as one file that runs without this library:

    python -m vdd_jax.export --workdir=DIR --format=stablehlo|onnx|numpy [--out=FILE]

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

Before a file is kept it is compared with the policy, on random inputs and on those of the episodes
in the run's report: what differs by more than `export_parity.limit` is not written. Nothing is
overwritten.
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
from vdd_jax import export_parity as parity  # noqa: E402
from vdd_jax import policy as policy_lib  # noqa: E402
from vdd_jax.checkpoint import CheckpointError  # noqa: E402
from vdd_jax.export_function import OUTPUTS, Arrays, ExportError, function_of, inputs_of  # noqa: E402
from vdd_jax.policy import Policy, SampledPolicy  # noqa: E402

BATCHES = (1, 256)  # of the comparison
WAYS = {"sample": "by samples of the mixture",  # of acting, but for the published one
        "most_likely_mean": "by the mean of the likeliest expert"}
PLATFORMS = ("cpu", "cuda", "tpu")
STUDENT = ("num_experts", "covariance", "history", "fourier", "trunk", "heads", "head",
           "activation", "init_std", "std_floor")  # what numpy_policy.py is told of a student

USER_ERRORS = (ExportError, export_onnx.NotLowered, CheckpointError, OSError)


class Format(NamedTuple):
    """How a policy is written to a file, and how the file is run."""

    name: str  # of the file, unless another is given
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
        compared = _compared(policy, workdir, chosen.read(temporary))
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
            + compared)


def _compared(policy: Policy, workdir: Path, call: Callable[[Arrays], Arrays]) -> str:
    """How far the file is from the policy, on random inputs and on those of the report's episodes.

    Raises:
      ExportError: if that is too far.
    """
    said = []
    for what, given in inputs_to_compare(policy, workdir).items():
        found = parity.compare(policy, call, given)
        said.append(f"{what}, one and {BATCHES[-1]} at once:\n{parity.describe(found)}")
        for name, of in found.items():
            if name in OUTPUTS and not of.relative <= parity.limit(of):
                raise ExportError("\n".join(said) + f"\n{name} of the file differs from the "
                                  f"policy's by more than {parity.limit(of):.1e}; nothing was "
                                  "written")
    return "\n".join(said)


def inputs_to_compare(policy: Policy, workdir: Path) -> dict[str, list[Arrays]]:
    """By what they are, inputs one and many at once; those of episodes where there are some."""
    stored = workdir / "episodes.npz"
    found = {"random inputs": [parity.random_inputs(policy, batch, seed)
                               for seed, batch in enumerate(BATCHES)],
             "inputs of the report's episodes": [parity.visited_inputs(policy, stored, batch, seed)
                                                 for seed, batch in enumerate(BATCHES)]}
    return {what: given for what, given in found.items() if given[0] is not None}


def _acting(policy: Policy) -> str:
    """What who acts on the mixture has to know, where any expert's mean would not be it."""
    how = []
    if policy.acting in WAYS:
        how.append(f"{WAYS[policy.acting]} (config.policy.acting)")
    if policy.min_weight:
        how.append(f"by experts of weight {policy.min_weight:g} and more "
                   "(config.policy.min_weight)")
    return "\nthis policy acts " + ", ".join(how) if how else ""


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
    "stablehlo": Format("policy.stablehlo", ("flatbuffers",), _write_stablehlo, _read_stablehlo),
    "onnx": Format("policy.onnx", ("onnx", "onnxruntime"), _write_onnx, _read_onnx),
    "numpy": Format("policy.npz", (), _write_numpy, _read_numpy),
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
    parser.add_argument("--out", type=Path, help="the file to write; policy.… in the workdir if "
                        "none is given")
    given = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # orbax tells every file it touches
    try:
        print(run(given.workdir, given.format,
                  given.out or given.workdir / FORMATS[given.format].name))
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
