"""States that a student comes to when it acts itself, where it then learns what its teacher does.

Demonstrations show where those who gave them went. A student goes elsewhere now and then, and what
its teacher does there it has never asked. So it drives at some iterations, and from each of them on
a share of what it learns are actions of its teacher at the states that it came to so far: DAgger
(Ross et al. 2011) with the teacher in place of the expert.
"""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from vdd_jax import closed_loop, problem, sharding
from vdd_jax.checkpoint import CheckpointError
from vdd_jax.data import Scaler, windows
from vdd_jax.handover import teachers_actions
from vdd_jax.metrics import TrainingDiverged
from vdd_jax.problem import Problem
from vdd_jax.tasks import recording_file
from vdd_jax.tasks.recording_file import Recording
from vdd_jax.types import Batch, Trajectory

VISITS = 1_000  # of a stage's root; no child of those into which the stage splits it


def steps(config: ConfigDict) -> list[int]:
    """Iterations after which the student drives; `config` is `config.distill`."""
    return sorted({max(round(part * config.num_iterations), 1) for part in config.visits})


def drive(config: ConfigDict, workdir: Path, step: int, apply, params, scaler: Scaler) -> None:
    """Lets the student of `step` drive `config.distill.visited_episodes` episodes, as
    `config.policy` says it acts, and keeps them in `workdir/distill/visited/<step>.npz`, a
    recording. One that is there already stays as it is. Where the task has goals, episodes pursue
    those of as many training demonstrations.

    Raises:
      ConfigError: the official simulator is asked for, but not installed.
      TrainingDiverged: no episode has finite numbers.
    """
    file = _file(workdir, step)

    def drives() -> str | bool:
        if not file.exists():
            goals = problem.goals(config, config.distill.visited_episodes)
            actor = closed_loop.of_student(config, apply, params, scaler, config.policy.acting,
                                           goals, config.policy.min_weight)
            key = jax.random.fold_in(problem.stage_key(config, "distill"), VISITS + step)
            episodes, _ = closed_loop.run(config, actor, key, config.distill.visited_episodes)
            recording, kept = as_recording(episodes)
            if not recording.trajectories:
                return (f"the student of iteration {step} drove {recording.discarded} episodes and "
                        "came to numbers that are not finite in each of them. Try a smaller "
                        "config.distill.learning_rate, or later config.distill.visits.")
            recording_file.write(file, recording, {
                "task": config.task.name, "driven_by": f"the student of iteration {step}",
                "success": float(np.mean(episodes.success)), "episodes": kept})
        return True

    if isinstance(failed := sharding.agreed(drives), str):
        raise TrainingDiverged(failed)


def visited(config: ConfigDict, workdir: Path, until: int, scaler: Scaler) -> Batch | None:
    """The steps `[N, …]` of all episodes that the student drove until iteration `until`, scaled;
    None where there were none yet.

    Raises:
      CheckpointError: a file of them is missing or damaged.
    """
    files = [_file(workdir, step) for step in steps(config.distill) if step <= until]
    if not files:
        return None
    goals = problem.goals(config, config.distill.visited_episodes)
    try:
        recording = recording_file.join([recording_file.read(file) for file in files])
        pursued = None if goals is None else np.concatenate([
            goals[np.array(recording_file.read_about(file)["episodes"]) % len(goals)]
            for file in files])
    except recording_file.DAMAGED as error:
        raise CheckpointError(
            f"the states that the student came to until iteration {until} cannot be read from "
            f"{files[0].parent}: {error}. What it learns next are actions there; put the file "
            "back, or begin in another workdir") from error
    return windows(recording.trajectories, scaler, config.task.window, config.task.chunk,
                   pursued=pursued)


def asked(config: ConfigDict, task: Problem, seen: Batch, number: int, key: jax.Array) -> Batch:
    """So many of the states of `seen`, each with an action of the teacher; a state can be there
    twice where more are asked for than there are. `config` is `config.distill`."""
    rows = jax.random.choice(jax.random.fold_in(key, VISITS), len(seen.action), (number,),
                             replace=number > len(seen.action))
    config = config.copy_and_resolve_references()
    config.teacher_actions = number
    drawn = task._replace(data=jax.tree.map(lambda v: v[rows], seen))
    return teachers_actions(config, drawn, key)


def as_recording(episodes) -> tuple[Recording, list[int]]:
    """Episodes of a simulator with what was seen and done while each lasted, without those that
    are not finite; and which of the episodes these are."""
    seen, done, mask, mode = (np.asarray(getattr(episodes, name)) for name in (
        "observations", "actions", "mask", "mode"))
    drove = [Trajectory(o[m], a[m]) for o, a, m in zip(seen, done, mask, strict=True)]
    kept = [i for i, trajectory in enumerate(drove)
            if mask[i].any() and all(np.isfinite(numbers).all() for numbers in trajectory)]
    return Recording([drove[i] for i in kept], mode[kept], len(drove) - len(kept)), kept


def _file(workdir: Path, step: int) -> Path:
    return workdir / "distill" / "visited" / f"{step}.npz"
