"""Takes a published PyTorch teacher over, to be distilled (needs the torch extra):

    python -m vdd_jax.import_teacher --format=beso --path=DIR --out=DIR [--scaler=FILE.npz]

`--path` holds `model_state_dict.pth` and `.hydra/config.yaml`, as BESO and D3IL write them. In
`--out` a teacher stands afterwards as `train_teacher` would leave it: give it as
`config.teacher.workdir`.

A published checkpoint does not hold by what its data were scaled. A file for `--scaler` does, in
the units of the data (`numpy.savez`):

    observation_mean, observation_std   [O]
    action_mean, action_std             [A]  where actions were scaled to mean 0, std 1
    action_min, action_max              [A]  where they were scaled to [−1, 1]; of a DDPM also the
                                             bounds to which its sampler clips, and of any
                                             teacher the range within which policies act
    step_std                            [O]  if wanted: spread of the change from one observation to
                                             the next, for students with history='differences'

Without it the scaler is the identity: right for a teacher of unscaled data, and for data that are
given scaled.
"""

import argparse
import json
import os
import sys
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as in main.py

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import logging  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from vdd_jax import checkpoint, torch_checkpoints  # noqa: E402
from vdd_jax import config as config_lib  # noqa: E402
from vdd_jax.data import Scaler  # noqa: E402
from vdd_jax.hydra_settings import SettingsError  # noqa: E402
from vdd_jax.tasks import TASKS  # noqa: E402
from vdd_jax.teachers import make_schedule  # noqa: E402
from vdd_jax.torch_checkpoints import NotImported, Published  # noqa: E402

ASSUMED_BOUND = 5.0  # on scaled actions, of a sampler that clips to a range that is not known

USER_ERRORS = (NotImported, SettingsError, config_lib.ConfigError, checkpoint.CheckpointError,
               OSError)


def run(form: str, path: Path, out: Path, scaler_file: Path | None = None,
        task: str = "recorded", weights: str = "model_state_dict.pth") -> str:
    """Writes the teacher in `path` to `out`, which is empty or not there; says what it did.

    Args:
      form: one of `torch_checkpoints.FORMATS`.
      scaler_file: see above; None: the identity.
      task: `config.task.name` of the runs that will use it; its sizes must be the teacher's.
      weights: the file of the parameters in `path`.

    Raises:
      One of USER_ERRORS; nothing has been written then.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise NotImported(f"{out} is not an empty directory; nothing was written")
    published = torch_checkpoints.read(path, form, weights)
    config = configure(published, task)
    scaler, bound = identity(published), 0.0
    if scaler_file is not None:
        scaler, bound = read_scaler(scaler_file, published)
    assumed = ASSUMED_BOUND if published.clips and published.scaled else 0.0
    config.teacher.sampler.clip = bound or assumed
    config_lib.validate(config)
    about = {"demonstrations": f"those of {path}, imported ({form})", "imported_from": str(path),
             "format": form, "scaler": str(scaler_file or "identity")}
    _write(config, published, scaler, about, out)
    return describe(config, published, scaler_file, bound, out)


def configure(published: Published, task: str) -> ConfigDict:
    """The configuration that is kept with the teacher: its task and its `config.teacher`.

    Raises:
      NotImported: when the task has other sizes.
    """
    config, sizes = config_lib.default(), published.sizes
    config.stages = ("train_teacher",)
    config.task.update(name=task, window=sizes.window, goal_length=sizes.goal_length)
    if task == "recorded":
        config.task.update(observation_dim=sizes.observation_dim, action_dim=sizes.action_dim)
    spec = TASKS[task].spec(config.task)
    if (spec.observation_dim, spec.action_dim) != (sizes.observation_dim, sizes.action_dim):
        raise NotImported(
            f"the teacher's observations have {sizes.observation_dim} numbers and its actions "
            f"{sizes.action_dim}, those of the task {task!r} {spec.observation_dim} and "
            f"{spec.action_dim}")
    values = dict(published.teacher)
    for group in ("noise", "sampler"):
        config.teacher[group].update(values.pop(group))
    config.teacher.update(values)
    low, high = levels(config.teacher)
    config.distill.noise.update(low=low, high=high)
    config_lib.validate(config)
    return config


def levels(teacher: ConfigDict) -> tuple[float, float]:
    """The noise levels between which the teacher can be distilled, σ/α: its least and its most,
    without the last step of a chain, which is noise alone. `teacher` is `config.teacher`."""
    schedule = make_schedule(teacher)
    with jax.ensure_compile_time_eval():
        last = schedule.ratio_max if teacher.schedule == "ve" else float(
            schedule.ratio(jnp.asarray(schedule.t_max - 1)))
    return float(f"{schedule.ratio_min:.6g}"), float(f"{last:.6g}")


def identity(published: Published) -> Scaler:
    """Numbers stay as they are."""
    a, o = published.sizes.action_dim, published.sizes.observation_dim
    return Scaler(jnp.zeros(a), jnp.ones(a), jnp.zeros(o), jnp.ones(o), jnp.ones(o))


def read_scaler(file: Path, published: Published) -> tuple[Scaler, float]:
    """The scaler of a file (see the top), and the bound on denoised actions, 0 where there is none.

    Raises:
      NotImported: when it is not what this teacher needs.
    """
    if not published.scaled and not published.clips:
        raise NotImported("the teacher's data were not scaled (scale_data in its settings is "
                          "false); leave --scaler out")
    try:
        with np.load(file) as stored:
            found = {name: np.asarray(stored[name], np.float64) for name in stored}
    except FileNotFoundError:
        raise NotImported(f"there is no file {file} (--scaler)") from None
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise NotImported(f"{file} is not a file of NumPy arrays (.npz): {error}") from error
    how, actions = ("to [−1, 1]", ("action_min", "action_max")) if published.range_of_actions else (
        "to mean 0, std 1", ("action_mean", "action_std"))
    needed = ("observation_mean", "observation_std", *actions)
    if not published.scaled:  # but bounded
        how, needed = "by nothing", ("action_min", "action_max")
    if missing := [name for name in needed if name not in found]:
        raise NotImported(f"{file} lacks {', '.join(missing)} (the teacher's actions were scaled "
                          f"{how}); it holds {', '.join(found) or 'nothing'}")
    sizes = {"observation": published.sizes.observation_dim, "action": published.sizes.action_dim,
             "step": published.sizes.observation_dim}
    for name, values in found.items():
        size = sizes.get(name.split("_")[0])
        if size and (values.shape != (size,) or not np.isfinite(values).all()):
            raise NotImported(f"{name} of {file} should be {size} finite numbers; its shape is "
                              f"{values.shape}")
    low, high = found.get("action_min"), found.get("action_max")
    if low is not None and high is not None and (low > high).any():
        raise NotImported(f"action_min of {file} is above action_max")
    within = {} if low is None or high is None else {"action_low": low, "action_high": high}
    if not published.scaled:
        scaler = identity(published)._replace(**within)
        return _float32(scaler), float(np.max(np.abs([low, high])))
    if published.range_of_actions:
        mean, std = (low + high) / 2, (high - low) / 2
    else:
        mean, std = found["action_mean"], found["action_std"]
    spreads = (std, found["observation_std"], found.get("step_std", found["observation_std"]))
    if any((v < 0).any() for v in spreads):
        raise NotImported(f"a standard deviation of {file} is below 0")
    std, observation_std, step_std = (np.where(v > 1e-8, v, 1.0) for v in spreads)
    scaler = Scaler(mean, std, found["observation_mean"], observation_std, step_std, **within)
    bound = 0.0
    if published.clips and low is not None and high is not None:
        bound = float(np.max(np.abs([(low - mean) / std, (high - mean) / std])))
    return _float32(scaler), bound


def _float32(scaler: Scaler) -> Scaler:
    return jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), scaler)


def _write(config: ConfigDict, published: Published, scaler: Scaler, about: dict, out: Path):
    """As `train_teacher` leaves a finished teacher, at step 0."""
    params = jax.tree.map(jnp.asarray, published.params)
    identity = {"stage": "teacher", "config": json.loads(config_lib.to_json(config)),
                "versions": config_lib.versions(), "about": about}
    with checkpoint.Checkpoints(out / "teacher" / "checkpoints") as checkpoints:
        checkpoints.save(0, {"ema": params, "raw": params, "best": params},
                         {"step": jnp.zeros((), jnp.int32)}, scaler, identity)
    checkpoint.write_json(out / "teacher" / "finished.json", {
        "step": 0, "held_out_loss": None, "why": f"imported from {about['imported_from']}"})


def describe(config: ConfigDict, published: Published, scaler_file: Path | None, bound: float,
             out: Path) -> str:
    """What was taken over, what of it is not as published, and what to type next.

    `bound` is that of `scaler_file`, 0 where it says none.
    """
    teacher, task, sizes = config.teacher, config.task, published.sizes
    num = sum(np.size(v) for v in jax.tree.leaves(published.params))
    schedule = make_schedule(teacher)
    if not published.scaled:
        scaler = "identity: its data were not scaled"
    elif scaler_file is None:
        scaler = ("identity: its data were scaled, and the checkpoint does not hold by what. Give "
                  "data that are scaled the same way, or import it again with --scaler=FILE.npz")
    else:
        scaler = f"from {scaler_file}"
    lines = {
        "teacher": f"transformer {sizes.width}×{sizes.depth}, {sizes.heads} heads, {num:,} "
                   f"parameters; window {sizes.window}, goal {sizes.goal_length}, observation "
                   f"{sizes.observation_dim}, action {sizes.action_dim}",
        "noise": f"{teacher.schedule}, σ/α from {schedule.ratio_min:.4g} to "
                 f"{schedule.ratio_max:.4g}; {teacher.prediction} prediction",
        "sampler": f"{teacher.sampler.kind}, {teacher.sampler.num_steps} steps, "
                   f"{teacher.sampler.spacing} spacing",
        "scaler": scaler,
        "written to": str(out),
    }
    notes, clip = list(published.notes), teacher.sampler.clip
    if bound:
        notes.append(f"denoised actions are clipped to ±{bound:.4g}, the widest of the bounds that "
                     "it has for each number")
    elif published.clips:
        ours = f"ours to ±{clip:g}" if clip else "ours does not"
        notes.append("its sampler clips denoised actions to the range of its data, which is not "
                     f"known here (action_min and action_max of --scaler); {ours}")
    text = [f"{name:<11} {line}" for name, line in lines.items()]
    text += [f"{'note':<11} {note}" for note in notes]
    keys = {"teacher.workdir": out, "task.name": task.name, "task.window": task.window,
            "task.goal_length": task.goal_length}
    if task.name == "recorded":
        keys |= {"task.demonstrations": "FILE.npz", "task.observation_dim": task.observation_dim,
                 "task.action_dim": task.action_dim}
    noise = config.distill.noise
    keys |= {"distill.noise.low": noise.low, "distill.noise.high": noise.high}
    flags = [f"  --config.{key}={value}" for key, value in keys.items()]
    return "\n".join([*text, "", "distil it with", *flags,
                      "  --config.stages=\"('distill','evaluate')\""])


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        print(f"error: {message}; see python -m vdd_jax.import_teacher --help", file=sys.stderr)
        sys.exit(1)


def main(arguments: list[str] | None = None) -> None:
    parser = _Parser(prog="python -m vdd_jax.import_teacher", description=__doc__,
                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    learned = sorted(name for name, task in TASKS.items() if not hasattr(task, "density"))
    parser.add_argument("--format", required=True, choices=sorted(torch_checkpoints.FORMATS))
    parser.add_argument("--path", required=True, type=Path, help="directory of the checkpoint")
    parser.add_argument("--out", required=True, type=Path, help="directory to write; empty or new")
    parser.add_argument("--scaler", type=Path, help="see above; default: the identity")
    parser.add_argument("--task", default="recorded", choices=learned,
                        help="config.task.name of the runs that will use it")
    parser.add_argument("--weights", default="model_state_dict.pth",
                        help="file of the parameters in --path (D3IL: eval_best_ddpm.pth, …)")
    given = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # orbax tells every file it touches
    try:
        print(run(given.format, given.path, given.out, given.scaler, given.task, given.weights))
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
