"""Policies in the form that a task's simulator asks for: pure functions of raw history and key.

`actor(history [N, T, O], valid [N, T], key) -> [N, H, A]`, in the task's units; where observations
do not tell what was done, past actions `[N, T − 1, A]` are a fourth argument.
"""

import time

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdd_jax import teachers
from vdd_jax.config import ConfigError
from vdd_jax.core import mixture
from vdd_jax.data import Scaler
from vdd_jax.tasks import TASKS, official
from vdd_jax.teachers import Teacher


def actor_of(config: ConfigDict, scaler: Scaler, act, goals=None):
    """An actor from `act(context, key) -> scaled actions [N, H · A]`.

    `goals` `[M, G, O]`, raw: each episode pursues one of them, in turn.
    """
    task = TASKS[config.task.name]

    def actor(history, valid, key, past=None):
        if past is not None:
            pass
        elif hasattr(task, "past_actions"):
            past = task.past_actions(history)
        else:  # only timed
            size = task.spec(config.task).action_dim
            past = jnp.zeros((len(history), history.shape[1] - 1, size))
        goal = None if goals is None else goals[jnp.arange(len(history)) % len(goals)]
        features = None
        if scaler.encode is not None:  # the simulator shows them behind the numbers
            history, features = jnp.split(history, [scaler.observation_dim], axis=-1)
        context = scaler.context(history, valid, past, goal, features=features)
        action = scaler.within_range(scaler.unscale_action(act(context, key)))
        return action.reshape(len(history), config.task.chunk, -1)

    return actor


def of_teacher(config: ConfigDict, teacher: Teacher, settings: ConfigDict, scaler: Scaler,
               num_steps: int = 0, goals=None):
    """The learned teacher with its sampler.

    Args:
      config: of the run, for the task.
      settings: the teacher's own `config.teacher`.
      num_steps: instead of the sampler's own; 1 is the one-step teacher.
    """
    action_dim = scaler.action_mean.shape[0]

    def act(context, key):
        batch = context.valid.shape[:1]
        return teachers.sample(teacher, settings, context, key, batch, action_dim, num_steps)

    return actor_of(config, scaler, act, goals)


def of_student(config: ConfigDict, apply, params, scaler: Scaler, how: str, goals=None,
               min_weight: float = 0.0):
    """The student; `how` and `min_weight` as in `core.mixture.act`."""

    def act(context, key):
        return mixture.act(apply({"params": params}, context), key, how, min_weight)

    return actor_of(config, scaler, act, goals)


def simulator(config: ConfigDict) -> str:
    """Which simulator `run` uses, for reports."""
    task = TASKS[config.task.name]
    if not hasattr(task, "rollout"):
        return "none: judged without episodes"
    if config.task.simulator == "official":
        return official.about(config.task)
    return task.simulated_by() if hasattr(task, "simulated_by") else task.SIMULATOR


def run(config: ConfigDict, actor, key: jax.Array, num_episodes: int, encode=None):
    """Episodes of an actor in the task's simulator, and the seconds they took: compiled, or with
    one compilation where the simulator is not JAX's. Of a task with images `encode` is that of the
    scaler.

    Raises:
      ConfigError: the official simulator is asked for, but not installed.
    """
    task = TASKS[config.task.name]
    if config.task.simulator == "official":
        start = time.perf_counter()
        try:
            episodes = official.rollout(config.task, actor, key, num_episodes, encode)
        except ImportError as error:
            raise ConfigError(f"config.task.simulator is 'official', but {error}") from error
        return episodes, time.perf_counter() - start
    if not getattr(task, "COMPILED", True):
        file = config.task.contexts
        given = {"contexts": task.read_contexts(file)} if file else {}
        if encode is not None:
            given["encode"] = encode
        start = time.perf_counter()
        episodes = task.rollout(actor, key, num_episodes, window=config.task.window,
                                execute_steps=config.task.execute_steps, **given)
        return episodes, time.perf_counter() - start
    program = jax.jit(lambda key: task.rollout(
        actor, key, num_episodes, window=config.task.window,
        execute_steps=config.task.execute_steps)).lower(key).compile()
    start = time.perf_counter()
    episodes = jax.block_until_ready(program(key))
    return episodes, time.perf_counter() - start
