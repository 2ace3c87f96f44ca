"""robomimic's HDF5 (also MimicGen's and LIBERO's): a group for each episode (the hdf5 extra).

    data/demo_0          attribute num_samples
    data/demo_0/actions  [L, A]
    data/demo_0/obs/…    [L, …], one array for each kind of observation
    mask/…               names of episodes, for each part of the data set

Observations are named in `obs`; actions beside it: `actions` unless others are asked for. A part
is one of `mask`.
"""

from pathlib import Path

import numpy as np

from vdd_jax.formats.arrays import (
    FormatError,
    Keys,
    nearest,
    only,
    same_sizes,
    stacked,
    trajectory,
)
from vdd_jax.formats.hdf5_files import leaves, numbered, opened
from vdd_jax.types import Trajectory


def is_here(file) -> bool:
    """Whether an open HDF5 file is of this format."""
    return "data" in file and hasattr(file["data"], "keys") and bool(
        numbered(file["data"], "demo_"))


def read(path: Path, keys: Keys) -> list[Trajectory]:
    """The episodes in the order of their numbers.

    Raises:
      FormatError: when the file is not as described above.
    """
    with opened(path) as file:
        if not is_here(file):
            raise FormatError(f"{path} has no episodes data/demo_0, data/demo_1, …; it has "
                              f"{', '.join(leaves(file)) or 'nothing'}")
        names = _of_subset(file, keys.subset, path) if keys.subset else numbered(
            file["data"], "demo_")
        episodes = [_episode(file["data"][name], keys, f"{name} of {path}") for name in names]
    return same_sizes(episodes, [f"{name} of {path}" for name in names])


def _of_subset(file, subset: str, path: Path) -> list[str]:
    parts = list(file["mask"]) if "mask" in file else []
    if subset not in parts:
        raise FormatError(f"{path} has no part {subset!r} (config.task.subset)"
                          f"{nearest(subset, parts)}; its parts are {', '.join(parts) or 'none'}")
    names = [n.decode() if isinstance(n, bytes) else str(n) for n in file["mask"][subset][()]]
    if not names:
        raise FormatError(f"the part {subset!r} of {path} names no episodes")
    if lost := [name for name in names if name not in file["data"]]:
        raise FormatError(f"the part {subset!r} of {path} names {lost[0]}, which is not there")
    return names


def _episode(group, keys: Keys, where: str) -> Trajectory:
    seen = leaves(group["obs"]) if "obs" in group else {}
    if not seen:
        raise FormatError(f"{where} has no observations (obs); its states have to be turned into "
                          "some, which robomimic's dataset_states_to_obs does")
    beside = {name: array for name, array in leaves(group).items()
              if not name.startswith(("obs/", "next_obs/"))}
    wanted = keys.actions or ("actions",)
    actions = stacked(beside, wanted, "action", where)
    stated = group.attrs.get("num_samples", len(actions))
    if int(np.asarray(stated)) != len(actions):
        raise FormatError(f"{where} has {len(actions)} actions, but its num_samples is {stated}")
    chosen = only(seen, keys.observations, "", "observation", where)
    return trajectory(stacked(seen, chosen, "observation", where), actions, where)
