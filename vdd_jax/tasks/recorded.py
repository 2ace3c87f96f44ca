"""Demonstrations of any sizes from files, for tasks that have no simulator here.

`config.task.demonstrations` names a file or directory in one of the formats of `vdd_jax/formats`
(docs/data.md): our own layout, as `.npz` or HDF5, or one of others. There is nothing to drive in: a
student is judged by its teacher alone.
"""

import functools
from pathlib import Path

from vdd_jax import formats
from vdd_jax.config import ConfigError
from vdd_jax.formats import Keys
from vdd_jax.types import TaskSpec, Trajectory

SIMULATOR = "none"


def spec(task) -> TaskSpec:
    """The sizes; `task` is `config.task`. Those it does not give are read from its data.

    Raises:
      FileNotFoundError, ConfigError: as `load`, where the data are needed.
    """
    sizes = task.observation_dim, task.action_dim
    if not all(sizes):
        first = _episodes(task)[0]
        found = first.observations.shape[1], first.actions.shape[1]
        sizes = tuple(given or size for given, size in zip(sizes, found, strict=True))
    return TaskSpec("recorded", *sizes, num_modes=0)


def load(task) -> tuple[list[Trajectory], dict]:
    """The episodes, and what they are; `task` is `config.task`.

    Returns:
      The trajectories, and a description for reports: `demonstrations`, `simulator`, `episodes`,
      `discarded`.

    Raises:
      FileNotFoundError, ConfigError: when the data are not there or not as their format says.
    """
    path, trajectories = task.demonstrations, _episodes(task)
    for name, array, key in (("observations", trajectories[0].observations, "observation_dim"),
                             ("actions", trajectories[0].actions, "action_dim")):
        if task[key] not in (0, array.shape[1]):
            raise ConfigError(f"{name} of {path} have {array.shape[1]} numbers each, but "
                              f"config.task.{key} is {task[key]}")
    if max(len(t.actions) for t in trajectories) == 1 and (task.window > 1 or task.chunk > 1):
        raise ConfigError(
            f"every episode of {path} is a single step (in our own layout: there is no array "
            f"'episode_ends'), so that steps have no order; config.task.window ({task.window}) and "
            f"config.task.chunk ({task.chunk}) must be 1 then")
    description = {
        "demonstrations": f"{path}, {len(trajectories)} episodes",
        "simulator": SIMULATOR,
        "episodes": len(trajectories),
        "discarded": 0,
    }
    return list(trajectories), description


def _episodes(task) -> list[Trajectory]:
    path = task.demonstrations
    if not path:
        raise ConfigError("which demonstrations? config.task.demonstrations is empty; it should "
                          "name a file or directory in one of the formats of docs/data.md")
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {path} (config.task.demonstrations)")
    keys = Keys(tuple(task.observation_keys), tuple(task.action_keys), task.subset)
    try:
        return _read(path, _state(Path(path)), task.format, keys)
    except formats.FormatError as error:
        raise ConfigError(str(error)) from error


@functools.lru_cache(maxsize=2)
def _read(path: str, state, form: str, keys: Keys) -> list[Trajectory]:
    return formats.read(path, form, keys)


def _state(path: Path) -> tuple:
    """What changes when the data do: number, sizes and times of the files."""
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    stats = [file.stat() for file in files]
    return (len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats),
                                                           default=0))
