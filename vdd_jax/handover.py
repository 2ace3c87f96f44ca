"""What a student takes over from a learned teacher before it learns: trunk and actions."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdd_jax import config as config_lib
from vdd_jax import teachers
from vdd_jax.data import jitter
from vdd_jax.models.denoiser import encoder_as_trunk
from vdd_jax.types import Batch


def with_teachers_trunk(config: ConfigDict, params: dict, task) -> dict:
    """The student's parameters, its trunk replaced by the teacher's encoder.

    Raises:
      ConfigError: when the two are not the same function.
    """
    teacher, student = task.teacher_config, config.student
    pairs = {
        # an MLP teacher's encoder is a residual MLP
        "backbone": (teacher and teacher.backbone.replace("mlp", "residual_mlp"), student.trunk),
        "width": (teacher and teacher.width, student.trunk_width),
        "encoder_depth": (teacher and teacher.encoder_depth, student.trunk_depth),
        **{k: (teacher and teacher[k], student[k]) for k in ("history", "fourier", "activation")},
    }
    wrong = [f"{k}: teacher {a}, student {b}" for k, (a, b) in pairs.items() if a != b]
    if wrong or student.independent:
        raise config_lib.ConfigError(
            "config.distill.trunk_from_teacher needs an MLP teacher and a shared residual_mlp "
            "trunk of the same sizes; they differ in "
            + "; ".join(wrong or ["student.independent"]))
    # a copy: the state is donated to the compiled step, the teacher is still needed
    trunk = jax.tree.map(jnp.copy, encoder_as_trunk(task.teacher.params))
    return {**params, "experts": {**params["experts"], "trunk": trunk}}


def teachers_actions(config: ConfigDict, task, key: jax.Array) -> Batch:
    """The training states with actions of the teacher, K for each, or so many states as actions
    are asked for where there are more: data-free distillation.

    `config` is `config.distill` or `config.consistency`: `teacher_actions`, how many in all,
    `actions_steps` and `state_jitter`.

    Only the newest action is the teacher's; the past ones of a window stay the demonstrated ones.
    """
    data = task.data
    if config.teacher_actions < len(data.action):
        rows = jax.random.choice(jax.random.fold_in(key, 2), len(data.action),
                                 (config.teacher_actions,), replace=False)
        data = jax.tree.map(lambda v: v[rows], data)
    num = max(1, round(config.teacher_actions / len(data.action)))
    chunk, settings = 4_096, ConfigDict(task.teacher_config.to_dict())
    settings.sampler.num_steps = config.actions_steps or settings.sampler.num_steps
    observation = jax.tree.map(
        lambda v: jnp.tile(v, (num, *(1,) * (v.ndim - 1))), data.observation)
    key, jitter_key = jax.random.split(key)
    moved = jitter(observation, config.state_jitter, jitter_key).observations
    moved = moved.at[: len(data.action)].set(data.observation.observations)
    observation = observation._replace(observations=moved)  # of each K the first is as it was
    sampled = jax.jit(lambda observation, key: teachers.sample(
        task.teacher, settings, observation, key,
        (len(observation.valid),), data.action.shape[-1]))
    parts = []
    for i in range(0, len(moved), chunk):
        part = jax.tree.map(lambda v: v[i : i + chunk], observation)  # noqa: B023
        parts.append(sampled(part, jax.random.fold_in(key, i)))
    return Batch(observation, jnp.concatenate(parts))
