"""Which runs there are, and how they are made: `vdd_jax.main` in a process each.

A finished run is not made again; one that was cut off goes on by the same command.
"""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags
from tasks import TASKS, VDD

from vdd_jax import config as config_lib
from vdd_jax.config_keys import STUDENTS

ROOT = Path(__file__).resolve().parents[2]
FORMAT = 2  # of the reports that are read here
LAST_LINES = 8  # of a log, told when a run fails


class Failed(RuntimeError):
    """A run or a report that stops everything; the text is for the user."""


class Unusable(Failed):
    """A report that is there but cannot be used."""


class Run(NamedTuple):
    task: str
    variant: str
    family: str
    seed: int
    method: str = VDD
    overrides: tuple[str, ...] = ()  # the method's keys

    @property
    def name(self) -> str:
        parts = (self.task, self.variant, self.family, self.method, f"seed{self.seed}")
        return "_".join(filter(None, parts))


class Place(NamedTuple):
    """Where runs are, and what all of them are given."""

    runs: Path
    existing: dict[str, str] = {}  # family → pattern of the workdirs of its vdd runs
    rest: tuple[str, ...] = ()  # arguments for `vdd_jax.main`

    def workdir(self, run: Run) -> Path:
        if self.taken(run):
            pattern = self.existing[run.family]
            return Path(pattern.format(task=run.task, family=run.family, seed=run.seed)).absolute()
        return self.runs.absolute() / run.name

    def taken(self, run: Run) -> bool:
        """Whether it was made by somebody else."""
        return run.method == VDD and run.family in self.existing

    def log(self, run: Run) -> Path:
        return self.workdir(run).with_name(f"{run.name}.log")


def arguments(run: Run, place: Place) -> list[str]:
    """What `vdd_jax.main` is given beside the workdir."""
    config, *keys = TASKS[run.task][run.variant][run.family]
    given = [f"--config={ROOT / config}", f"--config.seed={run.seed}", *keys, *place.rest]
    if run.method != VDD:
        teacher = place.workdir(run._replace(method=VDD))
        given += [f"--config.teacher.workdir={teacher}", *run.overrides]
    return given


def configuration(given: list[str]) -> ConfigDict:
    """What these arguments of `vdd_jax.main` mean, parsed as it does.

    Raises:
      Failed: when they mean nothing.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=["main", *given])
    try:
        values(["main", *given])
        config_lib.validate(values.config)
    except (flags.Error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Failed(str(error).strip("'\"")) from error
    return values.config


def read(run: Run, place: Place) -> dict | None:
    """The report of a finished run; None where there is none yet.

    Raises:
      Unusable: for one that is damaged, of another format or of another configuration.
    """
    file = place.workdir(run) / "report.json"
    if not file.exists():
        return None
    again = "the command that made it, given once more, evaluates it again"
    try:
        report = json.loads(file.read_text())
        if report["format"] != FORMAT:
            raise Unusable(f"{file} is of format {report['format']}, and {FORMAT} is needed; "
                           f"{again}")
        stored = config_lib.from_json(report["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unusable(f"{file} cannot be read as a report ({error}); {again}") from error
    wanted = configuration(arguments(run, place))
    if place.taken(run):  # its teacher may be another's again
        wanted.teacher.workdir, wanted.stages = stored.teacher.workdir, stored.stages
    elif Path(wanted.teacher.workdir).name == Path(stored.teacher.workdir).name:
        wanted.teacher.workdir = stored.teacher.workdir  # all may have been moved
    unused = tuple(f"config.{stage}." for stage in STUDENTS if stage not in wanted.stages)
    different = [line for line in config_lib.differences(stored, wanted)
                 if not line.startswith(unused)]  # keys of methods that are not its own
    if different:
        raise Unusable(f"{file.parent} holds a run of another configuration (there → here):\n  "
                       + "\n  ".join(different))
    return report


def make(runs: list[Run], place: Place) -> None:
    """Makes those that are not finished, one after the other.

    Raises:
      Failed: for keys that no run could have; at the first run that fails, with the name of its
        log and the end of it.
    """
    for run in runs:
        configuration(arguments(run, place))
    for number, run in enumerate(runs, 1):
        said = f"[{number}/{len(runs)}] {run.name}"
        try:
            finished = read(run, place) is not None
        except Unusable:
            if place.taken(run):
                raise
            finished = False  # `vdd_jax.main` evaluates again, or says why not
        if finished:
            print(f"{said}: finished before", flush=True)
            continue
        if place.taken(run):
            raise Failed(f"--existing: there is no report in {place.workdir(run)}")
        print(f"{said}: log in {place.log(run)}", flush=True)
        start = time.monotonic()
        _run(run, place)
        print(f"{said}: {time.monotonic() - start:.0f} s", flush=True)


def _run(run: Run, place: Place) -> None:
    command = [sys.executable, "-m", "vdd_jax.main", f"--workdir={place.workdir(run)}",
               *arguments(run, place)]
    log = place.log(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"# commit {commit()}\n$ {shlex.join(command)}\n")
        file.flush()
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    if status or read(run, place) is None:
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        raise Failed(f"{run.name} ended with status {status}"
                     + " and no report" * (not status)
                     + f"; its log {log} ends with:\n  " + "\n  ".join(lines))


def commits(runs: list[Run], place: Place) -> list[str]:
    """Those at which runs were made, as their logs tell; runs made elsewhere tell none."""
    found = set()
    for run in runs:
        if not place.taken(run) and place.log(run).exists():
            text = place.log(run).read_text(errors="replace")
            found.update(re.findall(r"^# commit (.+)$", text, re.MULTILINE))
    return sorted(found)


def commit() -> str:
    """The current one, and whether what computes differs from it."""
    def git(*words):
        return subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT)

    head = git("rev-parse", "--short", "HEAD")
    if head.returncode:
        return "unknown"
    changed = git("status", "--porcelain", "--", "vdd_jax", "configs", "experiments/reproduce",
                  "experiments/benchmarks").stdout
    return head.stdout.strip() + (", with changes not committed" if changed else "")
