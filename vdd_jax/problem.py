"""What every stage starts from, rebuilt from the configuration alone: data, teacher, student."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdd_jax import checkpoint, exchange, sharding, teachers
from vdd_jax import config as config_lib
from vdd_jax.checkpoint import CheckpointError, Checkpoints
from vdd_jax.data import Scaler, encoded, fit_scaler, fit_trajectory_scaler, windows
from vdd_jax.models import denoiser, vision
from vdd_jax.models.moe import MixtureOfExperts
from vdd_jax.tasks import TASKS
from vdd_jax.teachers import Teacher
from vdd_jax.types import Alike, Batch, Context, DataError, TaskSpec, Trajectory

# by config.precision, of products of float32: JAX's own default differs between kinds of devices
MATMUL = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "highest"}
NOT_GIVEN = ("the teacher of this run is a function in Python, which no checkpoint holds; give it "
             "to stages.run(config, workdir, teacher=…) again (docs/teachers.md)")
GOALS = 64  # different ones that episodes pursue
RANDOM = ("distill", "train_teacher", "evaluate", "from_scratch", "consistency")  # see `stage_key`
HELD_OUT = 4_096  # pairs of an analytic target that are never trained on


class Data(NamedTuple):
    """Demonstrations, scaled, and what they are."""

    spec: TaskSpec
    train: Batch  # `[N, …]`
    held_out: Batch  # `[M, …]`, of other trajectories
    scaler: Scaler
    about: dict  # for reports


class Problem(NamedTuple):
    spec: TaskSpec
    data: Batch  # scaled, `[N, …]`
    held_out: Batch  # scaled, `[M, …]`
    scaler: Scaler
    teacher: Teacher
    about: dict
    teacher_config: ConfigDict | None  # a learned teacher's own


def spec(config: ConfigDict) -> TaskSpec:
    """The sizes of the task."""
    return TASKS[config.task.name].spec(config.task)


def stage_key(config: ConfigDict, stage: str) -> jax.Array:
    """The root of a stage's randomness, which no other stage sees: one of RANDOM.

    A child of the seed's key, and none of a child's children: `split(key, n)[i]` is
    `fold_in(key, i)`, so that a stage that split the seed's own key would have others' roots.
    """
    return jax.random.fold_in(jax.random.key(config.seed), RANDOM.index(stage))


def relative(config: ConfigDict) -> tuple[tuple[int, int], ...]:
    """What networks are shown from where: nothing, unless `config.task.relative` says so.

    Raises:
      DataError: it says so of a task that does not say where things are.
    """
    if not config.task.relative:
        return ()
    if not spec(config).relative:
        able = ", ".join(name for name, task in TASKS.items()
                         if hasattr(task, "SPEC") and task.SPEC.relative)
        raise DataError(f"config.task.relative is on, but what an observation of "
                        f"{config.task.name} says of places is not known; it is for {able}")
    return spec(config).relative


def shown_dim(config: ConfigDict) -> int:
    """O + R, how many numbers networks are shown of an observation, but for images."""
    return spec(config).observation_dim + len(relative(config))


def alike(config: ConfigDict) -> Alike:
    """What exchanges its numbers in training, of all that are shown: nothing, unless
    `config.task.exchange` says so.

    Raises:
      DataError: it says so of a task in which nothing is alike.
    """
    if not config.task.exchange:
        return ()
    if not spec(config).alike:
        raise DataError(f"config.task.exchange is on, but nothing in an observation of "
                        f"{config.task.name} is alike; it is for sorting_4 and sorting_6")
    return exchange.with_differences(
        spec(config).alike, relative(config), spec(config).observation_dim)


def with_sizes(config: ConfigDict) -> ConfigDict:
    """A copy that holds the sizes that only the file of a recorded task said: what is kept with
    a checkpoint is then understood where the file is not."""
    config = ConfigDict(config.to_dict())
    if config.task.name == "recorded":
        sizes = spec(config)
        config.task.update(observation_dim=sizes.observation_dim, action_dim=sizes.action_dim)
    return config


def is_analytic(config: ConfigDict) -> bool:
    return hasattr(TASKS[config.task.name], "density")


def data(config: ConfigDict, scaler: Scaler | None = None, encoder: Callable = encoded) -> Data:
    """The task's demonstrations. They depend on `config.task` alone, not on the seed: runs of
    several seeds solve the same problem.

    Args:
      scaler: of the teacher that is distilled; None: fitted to the training trajectories.
      encoder: of images, as in `windows`.

    Raises:
      DataError: for demonstrations that cannot be used.
    """
    if is_analytic(config):
        return _analytic_data(config)
    task = config.task
    train, held_out, about = _trajectories(json.dumps(task.to_dict(), sort_keys=True))
    try:
        if scaler is None:
            tangents = spec(config).tangents if task.angles else ()
            scaler = fit_trajectory_scaler(train, task.scaler, task.chunk, tangents,
                                           tuple(task.hidden), alike(config),
                                           task.clip_actions, relative(config))
        elif scaler.observation_mean.shape[-1] != shown_dim(config):
            raise ValueError(
                f"the teacher is shown {scaler.observation_mean.shape[-1]} numbers of an "
                f"observation, here there would be {shown_dim(config)}; its observations are "
                "others, or its config.task.relative is")
        cut = functools.partial(windows, scaler=scaler, window=task.window, chunk=task.chunk,
                                goal_length=task.goal_length, goal=task.goal, encoder=encoder)
        return Data(spec(config), cut(train), cut(held_out), scaler, about)
    except ValueError as error:
        raise DataError(f"{about['demonstrations']}: {error}") from error


def goals(config: ConfigDict, number: int = GOALS) -> jax.Array | None:
    """What episodes pursue, raw `[M, G, O]`: how M of the training trajectories ended, `number` of
    them or all; None where the task is without goals.

    As in the published evaluation, the demonstrations shown are those that were learned from.
    """
    task = config.task
    if not task.goal_length:
        return None
    train, _, _ = _trajectories(json.dumps(task.to_dict(), sort_keys=True))
    chosen = np.linspace(0, len(train) - 1, min(number, len(train))).astype(int)
    return jnp.stack([train[i].observations[-task.goal_length :] for i in chosen])


@functools.lru_cache(maxsize=4)
def _trajectories(task_json: str) -> tuple[list[Trajectory], list[Trajectory], dict]:
    task = ConfigDict(json.loads(task_json))
    try:
        trajectories, about = TASKS[task.name].load(task)
    except (ValueError, FileNotFoundError) as error:
        raise DataError(f"config.task.demonstrations: {error}") from error
    except ImportError as error:  # a simulator that is an extra
        raise DataError(str(error)) from error
    num_held_out = max(1, round(task.held_out * len(trajectories)))
    if num_held_out >= len(trajectories):
        raise DataError(f"{len(trajectories)} trajectories cannot be split into training and "
                        f"held-out ones; 2 are the least")
    order = np.random.default_rng(0).permutation(len(trajectories))
    held_out = [trajectories[i] for i in sorted(order[:num_held_out])]
    train = [trajectories[i] for i in sorted(order[num_held_out:])]
    steps = sum(len(t.actions) for t in train)
    return train, held_out, {**about, "training_episodes": len(train), "training_steps": steps,
                             "held_out_episodes": len(held_out)}


def _analytic_data(config: ConfigDict) -> Data:
    task = TASKS[config.task.name]
    n = config.task.num_demonstrations
    observation, action = task.demonstrations(config.task, jax.random.key(0), n + HELD_OUT)
    scaler = fit_scaler(observation[:n], action[:n], config.task.scaler)
    scaled = Batch(scaler.scale_observation(observation), scaler.scale_action(action))
    return Data(
        spec(config), jax.tree.map(lambda v: v[:n], scaled), jax.tree.map(lambda v: v[n:], scaled),
        scaler, {"demonstrations": f"{n:,} samples of the target"},
    )


def build(config: ConfigDict, workdir: Path, given: Teacher | None = None,
          encoder: Callable = encoded) -> Problem:
    """What distillation and evaluation need: data in the teacher's units, and the teacher.

    Args:
      given: the teacher, where `config.teacher.given` says that the user gives it.
      encoder: of images, as in `windows`; `sharding.encoded_together` where every process of
        several asks for the problem.

    Raises:
      CheckpointError: when the teacher is not there, or is of another task.
      ConfigError: when a teacher is given but not announced in `config`.
      DataError: for demonstrations that cannot be used.
    """
    if given is not None and not config.teacher.given:
        raise config_lib.ConfigError("a teacher was given, but config.teacher.given is False")
    if config.teacher.given:
        if given is None:
            raise CheckpointError(NOT_GIVEN)
        found = data(config, given.scaler, encoder)
        return Problem(*found[:4], given, found.about, config.teacher)
    if is_analytic(config):
        found = data(config)
        density = TASKS[config.task.name].density(config.task)
        return Problem(*found[:4], teachers.analytic(density, found.scaler), found.about, None)
    teacher, scaler, settings = load_teacher(config, workdir)
    found = data(config, scaler, encoder)
    return Problem(*found[:4], teacher, found.about, settings.teacher)


def demonstrations(config: ConfigDict, workdir: Path, encoder: Callable = encoded) -> Data:
    """`data`, for who learns from it alone: images are features of a teacher's encoder there too;
    `encoder` as in `build`.

    Raises:
      CheckpointError: for images, when no teacher is there, or one of another task.
      DataError: for demonstrations that cannot be used.
    """
    scaler = load_teacher(config, workdir)[1] if spec(config).images else None
    return data(config, scaler, encoder)


def teacher_workdir(config: ConfigDict, workdir: Path) -> Path:
    """Of the run that trained the teacher; a run that `config.teacher.workdir` names may have had
    it from another."""
    directory, seen = Path(config.teacher.workdir or workdir), set()
    while not (directory / "teacher").is_dir() and directory not in seen:
        seen.add(directory)
        try:
            stored = json.loads((directory / "config.json").read_text())
            directory = Path(stored["teacher"]["workdir"] or directory)
        except (OSError, ValueError, KeyError, TypeError):  # not a run
            break
    return directory


def load_teacher(config: ConfigDict, workdir: Path) -> tuple[Teacher, Scaler, ConfigDict]:
    """A trained teacher, rebuilt from its own checkpoint: itself, its scaler, its configuration.

    Raises:
      CheckpointError: when there is none, it is not finished, or it does not fit the task of
        `config`.
    """
    if config.teacher.given:
        raise CheckpointError(NOT_GIVEN)
    directory = teacher_workdir(config, workdir) / "teacher" / "checkpoints"
    if not directory.is_dir():
        raise CheckpointError(
            f"{directory.parents[1]} holds no teacher; run the stage 'train_teacher' first, or "
            "set config.teacher.workdir to the workdir of a run that has"
        )
    with Checkpoints(directory, read_only=True) as checkpoints:
        scaler, settings = scaler_and_config(checkpoints, "teacher")
        _check_same_task(settings, config, directory)
        if not (directory.parent / "finished.json").exists():
            raise CheckpointError(
                f"the teacher in {directory} is not finished (step {checkpoints.latest_step()} of "
                f"{settings.teacher.num_iterations}); the command that trains it goes on from there"
            )
        model = network(settings)
        shapes = jax.eval_shape(lambda: denoiser.init(
            settings.teacher, model, jax.random.key(0), example(settings, seen=False)))
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        which = {"last": "ema", "raw": "raw", "held_out_loss": "best"}[settings.teacher.select]
        params = checkpoints.restore_params(
            checkpoint.abstract({k: shapes for k in ("ema", "raw", "best")}, place))[which]
    if spec(settings).images:
        scaler = scaler._replace(encode=_encode(settings, params["encoder"]))
        params = params["network"]
    action_dim = spec(settings).action_dim * settings.task.chunk
    teacher = teachers.from_network(settings.teacher, params, action_dim, dtype(config),
                                    fused=sharding.count(config) == 1)
    return teacher, scaler, settings


def scaler_and_config(checkpoints: Checkpoints, what: str) -> tuple[Scaler, ConfigDict]:
    """The scaler and the configuration kept with a checkpoint of a `what`.

    Raises:
      CheckpointError: when this version cannot read them.
    """
    scaler, stored = checkpoints.restore_scaler_and_config()
    try:
        settings = config_lib.from_json(stored["config"])
    except (KeyError, config_lib.ConfigError) as error:
        raise CheckpointError(
            f"the checkpoint in {checkpoints.directory} is not of a {what} this version knows: "
            f"{error}"
        ) from error
    if what == "student" and spec(settings).images:  # a teacher's is among its parameters
        shapes = jax.eval_shape(lambda: vision.encoder(settings.teacher).init(
            jax.random.key(0), example(settings, seen=False).observation.images)["params"])
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        params = checkpoints.restore_encoder(checkpoint.abstract(shapes, place))
        scaler = scaler._replace(encode=_encode(settings, params))
    return scaler, settings


def _encode(settings: ConfigDict, params) -> jax.tree_util.Partial:
    """The teacher's way of seeing, as a `Scaler` has it."""
    return jax.tree_util.Partial(vision.encoder(settings.teacher).apply, {"params": params})


def _check_same_task(settings: ConfigDict, config: ConfigDict, directory: Path) -> None:
    """The teacher's task is that of `config`: name, sizes, window, chunk, goal, and the names of
    what is observed and done, where both say them."""
    for key in ("name", "window", "chunk", "goal_length", "relative", "observation_keys",
                "action_keys"):
        theirs, ours = settings.task[key], config.task[key]
        if key.endswith("_keys"):
            theirs, ours = tuple(theirs), tuple(ours)
            if not (theirs and ours):  # names that a format gives are not written down
                continue
        if theirs != ours:
            raise CheckpointError(
                f"the teacher in {directory} was trained with config.task.{key} = {theirs!r}, but "
                f"it is {ours!r} here; use the same, or another teacher"
            )
    theirs, ours = spec(settings), spec(config)
    if ours.images and settings.teacher.vision != config.teacher.vision:
        raise CheckpointError(
            f"the teacher in {directory} sees by config.teacher.vision = "
            f"{settings.teacher.vision.to_dict()}, but it is {config.teacher.vision.to_dict()} "
            "here; use the same, or another teacher")
    for what in ("observation", "action"):
        a, b = (getattr(sizes, f"{what}_dim") for sizes in (theirs, ours))
        if a != b:
            raise CheckpointError(f"the {what}s of the teacher in {directory} have {a} numbers, "
                                  f"those of this run {b}; use other data, or another teacher")


def network(config: ConfigDict):
    """The teacher's, as it is trained."""
    sizes = spec(config)
    return denoiser.build(config.teacher, sizes.action_dim * config.task.chunk, dtype(config),
                          images=bool(sizes.images))


def example(config: ConfigDict, seen: bool = True) -> Batch:
    """A batch of one, of the task's shapes, all zeros; `seen`: with features in place of images."""
    sizes, task = spec(config), config.task
    action = jnp.zeros((1, sizes.action_dim * task.chunk))
    if is_analytic(config):
        return Batch(jnp.zeros((1, sizes.observation_dim)), action)
    steps = jnp.zeros((1, task.window, shown_dim(config)))
    context = Context(steps, steps, jnp.ones((1, task.window), bool),
                      jnp.zeros((1, task.window - 1, sizes.action_dim)),
                      jnp.zeros((1, task.goal_length, shown_dim(config))))
    if sizes.images:
        images = jnp.zeros((1, task.window, *sizes.images), jnp.uint8)
        features = jnp.zeros((1, task.window, sizes.images[0] * config.teacher.vision.width))
        context = context.with_features(features) if seen else context._replace(images=images)
    return Batch(context, action)


def student(config: ConfigDict) -> MixtureOfExperts:
    """The student's module with the sizes of `config.student`."""
    action_dim = spec(config).action_dim * config.task.chunk
    return MixtureOfExperts(action_dim=action_dim, dtype=dtype(config), **config.student.to_dict())


def dtype(config: ConfigDict):
    """What layers compute in; see `config.precision`."""
    return jnp.bfloat16 if config.precision == "bfloat16" else jnp.float32
