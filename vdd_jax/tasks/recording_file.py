"""Files of recorded demonstrations: one `.npz` in the layout of `tasks/recorded.py`, and more.

    observations, actions, episode_ends   see there: such a file can be given to the task 'recorded'
    modes       [E]  number of each episode's behaviour, as the task counts them
    discarded        attempts that failed and were drawn again
    about            JSON: task, seed, episodes, demonstrator
    format           2

Observations and actions are float32, in the task's own units. A file is written under another name
first and then renamed, so that a reader never sees half of one.

What cameras saw is in the directory NAME.images beside NAME.npz: for each episode a compressed
file, 000000.npz and so on, with the array `images` `[L, C, S, S, 3]` uint8, one of each camera for
each observation.
"""

import json
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vdd_jax.types import TaskSpec, Trajectory

FORMAT = 2
DAMAGED = (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile)


class Recording(NamedTuple):
    """Successful demonstrations, the modes in turn."""

    trajectories: list[Trajectory]
    modes: np.ndarray  # `[E]`
    discarded: int  # attempts that failed (or were too short or long), drawn again


def join(parts: list[Recording]) -> Recording:
    """One after the other."""
    return Recording([t for part in parts for t in part.trajectories],
                     np.concatenate([part.modes for part in parts]),
                     sum(part.discarded for part in parts))


def write(file: Path, recording: Recording, about: dict | None = None) -> None:
    """Writes a recording atomically; the same recording gives the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            np.savez(
                stream, format=FORMAT, discarded=recording.discarded, modes=recording.modes,
                about=json.dumps(about or {}),
                episode_ends=np.cumsum([len(t.actions) for t in recording.trajectories]),
                observations=np.concatenate([t.observations for t in recording.trajectories]),
                actions=np.concatenate([t.actions for t in recording.trajectories]))
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read(file: Path) -> Recording:
    """Reads a recording.

    Raises:
      DAMAGED: it is not one, or is damaged.
    """
    with np.load(file, allow_pickle=False) as stored:
        if "format" not in stored or int(stored["format"]) != FORMAT:
            found = f"format {int(stored['format'])}" if "format" in stored else "no format"
            raise ValueError(f"it is of {found}, expected {FORMAT}")
        observations, actions, ends = (
            stored[name] for name in ("observations", "actions", "episode_ends"))
        modes, discarded = stored["modes"], int(stored["discarded"])
    rises = len(ends) and (np.diff(ends, prepend=0) > 0).all()
    if not (rises and ends[-1] == len(observations) == len(actions) and len(modes) == len(ends)):
        raise ValueError("its lengths do not add up")
    if not (np.isfinite(observations).all() and np.isfinite(actions).all()):
        raise ValueError("it holds NaN or infinity")
    trajectories = [Trajectory(o, a) for o, a in zip(
        np.split(observations, ends[:-1]), np.split(actions, ends[:-1]), strict=True)]
    return Recording(trajectories, modes, discarded)


def images_of(file: Path) -> Path:
    """The directory of a recording's images."""
    return file.with_suffix(".images")


def read_images(file: Path, episode: int, shape: tuple[int, ...]) -> np.ndarray:
    """What cameras saw in an episode of a recording, `[L, C, S, S, 3]` uint8.

    Raises:
      ValueError: it is not there, damaged, or not of this shape.
    """
    drawn = images_of(file) / f"{episode:06d}.npz"
    try:
        with np.load(drawn, allow_pickle=False) as stored:
            images = stored["images"]
    except FileNotFoundError:
        raise ValueError(f"{drawn} is missing; vdd_jax.tasks.record --images makes recordings "
                         "with images") from None
    except DAMAGED as error:
        raise ValueError(f"{drawn} cannot be read: {error}") from error
    if images.shape != shape or images.dtype != np.uint8:
        raise ValueError(f"{drawn} has images {images.shape} of {images.dtype}; those of the "
                         f"episode should be {shape} of uint8")
    return images


def read_about(file: Path) -> dict:
    """What a file says of itself.

    Raises:
      DAMAGED: it is no recording.
    """
    with np.load(file, allow_pickle=False) as stored:
        return json.loads(str(stored["about"]))


def read_of_task(file: str, spec: TaskSpec) -> Recording:
    """A recording that a user names for a task.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no recording, or not one of this task.
    """
    try:
        recording = read(Path(file))
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise ValueError(f"{file} is no recording of vdd_jax.tasks.record: {error}") from error
    first = recording.trajectories[0]
    sizes = first.observations.shape[1], first.actions.shape[1]
    if sizes != (spec.observation_dim, spec.action_dim):
        raise ValueError(f"{file} has observations and actions of {sizes[0]} and {sizes[1]} "
                         f"numbers; those of {spec.name} have {spec.observation_dim} and "
                         f"{spec.action_dim}")
    return recording
