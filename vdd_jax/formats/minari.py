"""Minari's data sets on disk, in HDF5 (the hdf5 extra; the package minari is not needed):

    DATASET/data/main_data.hdf5
      episode_0/observations  [L + 1, O], or a group of them (nested; of a tuple `_index_0`, …)
      episode_0/actions       [L, A], or a group of them
    DATASET/data/metadata.json    total_episodes, data_format

The observation after the last action is left out. A goal that stands among the observations
(`desired_goal`) is chosen as one of them.
"""

import json
from pathlib import Path

import numpy as np

from vdd_jax.formats.arrays import FormatError, Keys, only, same_sizes, stacked, trajectory
from vdd_jax.formats.hdf5_files import leaves, numbered, opened
from vdd_jax.types import Trajectory

FILE = "main_data.hdf5"


def is_here(path: Path) -> bool:
    """Whether a directory is a data set of Minari's, or its `data`."""
    return any((folder / name).is_file() for folder in (path, path / "data")
               for name in (FILE, "metadata.json"))


def is_inside(file) -> bool:
    """Whether an open HDF5 file is of this format."""
    return bool(numbered(file, "episode_"))


def read(path: Path, keys: Keys) -> list[Trajectory]:
    """The episodes in the order of their numbers; `path` is the data set, its `data`, or the file.

    Raises:
      FormatError: when it is not as described above.
    """
    if path.is_dir():
        folder = path / "data" if (path / "data").is_dir() else path
        path = folder / FILE
    about = _metadata(path.parent / "metadata.json")
    if (kind := about.get("data_format", "hdf5")) != "hdf5":
        raise FormatError(f"{path.parent} is stored as {kind!r}; of Minari's storages only 'hdf5' "
                          "is read")
    if not path.is_file():
        raise FormatError(f"{path.parent} has no {FILE}")
    with opened(path) as file:
        names = numbered(file, "episode_")
        if not names:
            raise FormatError(f"{path} has no episodes episode_0, episode_1, …; it has "
                              f"{', '.join(file) or 'nothing'}")
        stated = about.get("total_episodes", file.attrs.get("total_episodes", len(names)))
        if int(stated) != len(names):
            raise FormatError(f"{path} has {len(names)} episodes, but its total_episodes is "
                              f"{stated}")
        episodes = [_episode(file[name], keys, f"{name} of {path}") for name in names]
    return same_sizes(episodes, [f"{name} of {path}" for name in names])


def _metadata(file: Path) -> dict:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{file} is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _episode(group, keys: Keys, where: str) -> Trajectory:
    observations = _part(group, "observation", keys.observations, where)
    actions = _part(group, "action", keys.actions, where)
    if len(observations) == len(actions) + 1:
        observations = observations[:-1]
    return trajectory(observations, actions, where)


def _part(group, what: str, wanted: tuple[str, ...], where: str) -> np.ndarray:
    """Observations or actions, `[steps, …]`."""
    if f"{what}s" not in group:
        raise FormatError(f"{where} has no {what}s; it has {', '.join(group) or 'nothing'}")
    arrays = leaves(group[f"{what}s"])
    if list(arrays) == [""]:  # no group
        arrays = {f"{what}s": arrays[""]}
    chosen = only(arrays, wanted, f"{what}s", what, where)
    whole = arrays.get(chosen[0])
    if what == "action" and whole is not None and whole.ndim == 1 and whole.dtype.kind in "iu":
        raise FormatError(f"{where} has discrete actions; policies here are of numbers")
    return stacked(arrays, chosen, what, where)
