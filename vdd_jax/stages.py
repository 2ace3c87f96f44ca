"""The order of a run: the workdir is claimed, then each stage is run, resumed or skipped."""

import contextlib
import json
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from vdd_jax import config as config_lib
from vdd_jax import distill, evaluate, file_lock, loggers, problem, sharding, train_teacher
from vdd_jax.baselines import consistency, from_scratch
from vdd_jax.checkpoint import CheckpointError, write_json
from vdd_jax.config import ConfigError
from vdd_jax.evaluate_closed_loop import describe
from vdd_jax.metrics import TrainingDiverged
from vdd_jax.models import denoiser
from vdd_jax.teachers import Teacher


class WorkdirError(RuntimeError):
    """A workdir that belongs to something else; the text is for the user."""


TRAINING = {"train_teacher": train_teacher, "distill": distill, "from_scratch": from_scratch,
            "consistency": consistency}
LOCK = "lock"  # in the workdir; held while a run is at work there
USER_ERRORS = (
    ConfigError, WorkdirError, CheckpointError, TrainingDiverged, problem.DataError, OSError,
)


def claim(config: ConfigDict, workdir: Path, overwrite: bool) -> None:
    """Makes `workdir` this configuration's, or raises WorkdirError and touches nothing.

    With `overwrite` what is there is moved aside, to the first free `workdir.old-N`.
    """
    if overwrite and workdir.exists():
        n = 1
        while (aside := workdir.with_name(f"{workdir.name}.old-{n}")).exists():
            n += 1
        workdir.rename(aside)
        print(f"moved what was in {workdir} to {aside}")
    file = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise WorkdirError(f"{workdir} is a file; --workdir should be a directory")
    started = {file.name + ".tmp"}  # what a run leaves that was killed on this very line
    if workdir.exists() and not file.exists() and {f.name for f in workdir.iterdir()} - started:
        raise WorkdirError(
            f"{workdir} is not empty and not a run of vdd_jax (it has no config.json); "
            "choose another --workdir"
        )
    if file.exists():
        try:
            stored = config_lib.from_json(file.read_text())
        except (ConfigError, UnicodeDecodeError) as error:
            raise WorkdirError(f"{file} cannot be read as a configuration: {error}") from error
        if different := config_lib.differences(stored, config):
            raise WorkdirError(
                f"{workdir} holds a run of another configuration:\n  "
                + "\n  ".join(different)
                + "\nchoose another --workdir, or give --overwrite (which moves it aside)"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(file, config.to_dict())


def announce(config: ConfigDict, workdir: Path, mesh) -> str:
    """The block that opens a run."""
    spec = problem.spec(config)
    example = problem.example(config)
    model = problem.student(config)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), example.observation))
    count = {group: _size(tree) for group, tree in shapes["params"].items()}
    devices, processes = mesh.devices.flatten(), jax.process_count()
    split, parts = mesh.devices.shape
    lines = {
        "task": f"{spec.name}: observation {spec.observation_dim}"
                + (" and {} images of {}×{} pixels".format(*spec.images[:3]) if spec.images else "")
                + f", action {spec.action_dim}"
                + (f", {spec.num_modes} modes" if spec.num_modes else ""),
        "devices": f"{len(devices)} × {devices[0].device_kind} ({devices[0].platform})"
                   + (f" in {processes} processes" if processes > 1 else "")
                   + (f"; batch in {split} parts, experts in {parts}" if len(devices) > 1 else ""),
        "student": f"{config.student.num_experts} experts, {config.student.covariance} "
                   f"covariance, {config.student.gating} gating",
        "parameters": ", ".join(f"{group} {n:,}" for group, n in count.items()),
        "batch": f"{config.distill.batch_size // split} states × "
                 f"{config.student.num_experts // parts} experts × "
                 f"{config.distill.samples_per_state} samples per device",
        "iterations": f"{config.distill.num_iterations:,}",
        "workdir": str(workdir),
    }
    if "from_scratch" in config.stages:
        settings = config.from_scratch
        lines |= {"method": f"{settings.method}, from demonstrations"
                            + (", images seen as by the teacher" if spec.images else " alone"),
                  "batch": f"{settings.batch_size // split} pairs per device",
                  "iterations": f"{settings.num_iterations:,}"}
    if "consistency" in config.stages:
        settings = config.consistency
        for name in ("student", "parameters"):
            lines.pop(name)
        lines |= {"method": f"consistency, {settings.method}, of the teacher's network",
                  "batch": f"{settings.batch_size // split} states per device",
                  "iterations": f"{settings.num_iterations:,}"}
    if not problem.is_analytic(config):
        lines["data"] = problem.data(config).about["demonstrations"]
        settings = config.teacher
        if settings.given:
            lines["teacher"] = "a function, given in Python"
        elif settings.workdir:
            lines["teacher"] = f"from {settings.workdir}"
        else:
            network, shown = problem.network(config), problem.example(config, seen=False)
            size = _size(jax.eval_shape(
                lambda: denoiser.init(settings, network, jax.random.key(0), shown)))
            lines["teacher"] = (f"{describe(settings)}, {size:,} parameters, "
                                f"{settings.num_iterations:,} iterations")
    return "\n".join(f"{name:<11} {text}" for name, text in lines.items())


def _size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def run(config: ConfigDict, workdir: str | Path, overwrite: bool = False,
        teacher: Teacher | None = None) -> dict | None:
    """Runs `config.stages` in `workdir`; returns the report if there is one.

    Args:
      teacher: what is distilled instead of a teacher of this library, see
        `teachers.from_function`; to go on with such a run it is given again.

    Raises:
      ConfigError, WorkdirError, CheckpointError, TrainingDiverged: with a text for the user.
    """
    if teacher is not None:
        config = ConfigDict(config.to_dict())
        config.teacher.given = True
    config_lib.validate(config)
    loggers.check(config.run.loggers)
    if config.teacher.given and teacher is None and {"distill", "evaluate"} & {*config.stages}:
        raise CheckpointError(problem.NOT_GIVEN)
    with (jax.default_matmul_precision(problem.MATMUL[config.precision]),
          contextlib.ExitStack() as held):
        return _run(config, Path(workdir), overwrite, teacher, held)


def _run(config: ConfigDict, workdir: Path, overwrite: bool, teacher, held) -> dict | None:
    mesh = sharding.make_mesh(config)
    config = problem.with_sizes(config)
    # reads the data: what is wrong with them leaves no trace
    block = announce(config, workdir, mesh)

    def claimed() -> str:
        lock = workdir / LOCK
        try:
            if lock.exists():
                held.enter_context(file_lock.held(lock, f"waiting for the run in {workdir}"))
            claim(config, workdir, overwrite)
            if not lock.exists():
                held.enter_context(file_lock.held(lock, f"waiting for the run in {workdir}"))
        except file_lock.Busy as holder:
            return (f"another run is at work in {workdir} ({holder}); wait until it has ended, or "
                    "choose another --workdir")
        except (WorkdirError, OSError) as error:
            return str(error)
        return ""

    if problem_with_workdir := sharding.agreed(claimed):
        raise WorkdirError(problem_with_workdir)
    print(block, flush=True)
    times_file = workdir / "wall_seconds.json"
    seconds = json.loads(times_file.read_text()) if times_file.exists() else {}
    report = None
    for stage in config.stages:
        start = time.monotonic()
        if stage in TRAINING:
            if sharding.agreed(lambda: TRAINING[stage].finished(config, workdir)):  # noqa: B023
                print(f"[{stage}] finished before; skipped")
                continue
            given = {"teacher": teacher} if stage == "distill" else {}
            TRAINING[stage].run(config, workdir, **given)
        else:
            report = evaluate.run(config, workdir, seconds, teacher)
        sharding.wait(stage)  # for what the first process has written
        # parts of a stage that were stopped add up; what a kill cut off is not counted
        seconds[stage] = round(seconds.get(stage, 0.0) * (stage != "evaluate")
                               + time.monotonic() - start, 3)
        write_json(times_file, seconds)
    if report is not None:
        report["wall_seconds"] = seconds
        write_json(workdir / "report.json", report)
        print("\n" + evaluate.summary(report) + f"\n\nreport   {workdir / 'report.json'}")
        if config.run.figures and sharding.speaks():
            _draw(config, workdir)
    return report


def _draw(config: ConfigDict, workdir: Path) -> None:
    try:
        from vdd_jax import figures
    except ModuleNotFoundError as error:
        print(f"figures  not drawn: {error.name} is missing; pip install 'vdd_jax[plot]'")
        return
    for path in figures.draw(config, workdir):
        print(f"figure   {path}")
