"""Demonstrations of any sizes from one file, for tasks that have no simulator here.

`config.task.demonstrations` names a file that `numpy.savez` wrote, with the arrays

    observations   [N, O]  all steps of all episodes, one episode after the other
    actions        [N, A]  what was done at each
    episode_ends   [E]     the number of steps up to the end of each episode: rising, the last is N

in the task's own units. Without `episode_ends` every step is an episode of its own, which needs
`config.task.window` and `config.task.chunk` = 1. Other arrays are not looked at. There is nothing
to drive in: a student is judged by its teacher alone.
"""

import functools
import os
import zipfile

import numpy as np

from vdd_jax.config import ConfigError
from vdd_jax.types import TaskSpec, Trajectory

SIMULATOR = "none"
_ARRAYS = "observations [N, O], actions [N, A], episode_ends [E]"


def spec(task) -> TaskSpec:
    """The sizes; `task` is `config.task`. Those it does not give are read from its file.

    Raises:
      FileNotFoundError, ConfigError: as `load`, where the file is needed.
    """
    sizes = task.observation_dim, task.action_dim
    if not all(sizes):
        path = _file(task.demonstrations)
        in_file = _sizes(path, os.stat(path).st_mtime_ns)
        sizes = tuple(given or found for given, found in zip(sizes, in_file, strict=True))
    return TaskSpec("recorded", *sizes, num_modes=0)


def load(task) -> tuple[list[Trajectory], dict]:
    """The episodes of a file, and what they are; `task` is `config.task`.

    Returns:
      The trajectories, and a description for reports: `demonstrations`, `simulator`, `episodes`,
      `discarded`.

    Raises:
      FileNotFoundError, ConfigError: when the file is not there or not as described above.
    """
    path = _file(task.demonstrations)
    observations, actions, ends = _read(path)
    for name, array, key in (("observations", observations, "observation_dim"),
                             ("actions", actions, "action_dim")):
        if task[key] not in (0, array.shape[1]):
            raise ConfigError(f"{name} of {path} have {array.shape[1]} numbers each, but "
                              f"config.task.{key} is {task[key]}")
    if ends is None:
        if task.window > 1 or task.chunk > 1:
            raise ConfigError(
                f"{path} has no array 'episode_ends', so that its steps have no order; "
                f"config.task.window ({task.window}) and config.task.chunk ({task.chunk}) must be "
                "1 then")
        ends = np.arange(1, len(actions) + 1)
    starts = [0, *ends[:-1]]
    trajectories = [Trajectory(observations[a:b], actions[a:b])
                    for a, b in zip(starts, ends, strict=True)]
    description = {
        "demonstrations": f"{path}, {len(trajectories)} episodes",
        "simulator": SIMULATOR,
        "episodes": len(trajectories),
        "discarded": 0,
    }
    return trajectories, description


def _file(path: str) -> str:
    if not path:
        raise ConfigError("which file? config.task.demonstrations is empty; it should name a .npz "
                          f"with the arrays {_ARRAYS}")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path} (config.task.demonstrations)")
    return path


@functools.lru_cache(maxsize=4)
def _sizes(path: str, modified: int) -> tuple[int, int]:
    """O and A of a file."""
    observations, actions, _ = _read(path)
    return observations.shape[1], actions.shape[1]


def _read(path: str):
    """Observations `[N, O]`, actions `[N, A]` and, where there are any, ends `[E]`."""
    try:
        with np.load(path) as file:
            if missing := [k for k in ("observations", "actions") if k not in file]:
                raise ConfigError(
                    f"{path} has no array {' and no '.join(map(repr, missing))}; it should hold "
                    f"{_ARRAYS}, and holds {', '.join(file) or 'none'}")
            observations, actions = file["observations"], file["actions"]
            ends = file["episode_ends"] if "episode_ends" in file else None
    except (ValueError, zipfile.BadZipFile, EOFError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is not a file of NumPy arrays (.npz): {error}") from error
    for name, array in (("observations", observations), ("actions", actions)):
        if array.ndim != 2 or not array.size or array.dtype.kind not in "fiub":
            raise ConfigError(
                f"{name} of {path} have shape {array.shape} and type {array.dtype}; they should be "
                f"numbers [N, {name[0].upper()}]")
        if bad := int((~np.isfinite(array)).any(axis=1).sum()):
            first = int(np.argmax((~np.isfinite(array)).any(axis=1)))
            raise ConfigError(f"{bad} of {len(array)} {name} of {path} hold NaN or infinity (the "
                              f"first is number {first})")
    if len(observations) != len(actions):
        raise ConfigError(f"{path} has {len(observations)} observations but {len(actions)} actions")
    _check(ends, len(actions), path)
    return observations.astype(np.float32), actions.astype(np.float32), ends


def _check(ends, steps: int, path: str) -> None:
    if ends is None:
        return
    if ends.ndim != 1 or not ends.size or ends.dtype.kind not in "iu":
        raise ConfigError(f"episode_ends of {path} have shape {ends.shape} and type {ends.dtype}; "
                          "they should be integers [E]")
    lengths = np.diff(ends.astype(np.int64), prepend=0)
    if (lengths <= 0).any():
        first = int(np.argmax(lengths <= 0))
        raise ConfigError(f"episode {first} of {path} has {int(lengths[first])} steps; "
                          "episode_ends should rise from one episode to the next")
    if ends[-1] != steps:
        raise ConfigError(f"the last of episode_ends of {path} is {int(ends[-1])}, but there are "
                          f"{steps} steps")
