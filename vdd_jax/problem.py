"""What every stage starts from, rebuilt from the configuration alone: data, teacher, student."""

from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from vdd_jax.data import Scaler, fit_scaler
from vdd_jax.models.moe import MixtureOfExperts
from vdd_jax.tasks import TASKS
from vdd_jax.teachers import Teacher, analytic
from vdd_jax.types import Batch, TaskSpec

HELD_OUT = 4_096  # demonstrations never trained on


class Problem(NamedTuple):
    spec: TaskSpec
    data: Batch  # scaled, `[N, …]`
    held_out: Batch  # scaled, `[M, …]`
    scaler: Scaler
    teacher: Teacher


def build(config: ConfigDict) -> Problem:
    """The task's data, scaler and teacher. The target depends on `config.task` alone, not on the
    seed: runs of several seeds distil the same problem."""
    task = TASKS[config.task.name]
    total = config.task.num_demonstrations + HELD_OUT
    observation, action = task.demonstrations(config.task, jax.random.key(0), total)
    n = config.task.num_demonstrations
    scaler = fit_scaler(observation[:n], action[:n], config.task.scaler)
    scaled = Batch(scaler.scale_observation(observation), scaler.scale_action(action))
    return Problem(
        task.spec(config.task),
        jax.tree.map(lambda v: v[:n], scaled),
        jax.tree.map(lambda v: v[n:], scaled),
        scaler,
        analytic(task.density(config.task), scaler),
    )


def student(config: ConfigDict, action_dim: int) -> MixtureOfExperts:
    """The student's module with the sizes of `config.student`."""
    return MixtureOfExperts(action_dim=action_dim, **config.student.to_dict())
