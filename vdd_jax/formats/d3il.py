"""D3IL's recordings: a directory of pickles, one an episode, each a dictionary of dictionaries of
arrays, `robot/des_c_pos` `[L, 3]`, `red-box/pos` and so on.

An observation is the desired and the actual position of the tool in the plane (that of Avoiding),
`robot/des_c_pos[:2]` and `robot/c_pos[:2]`, unless others are asked for. An action is the change of
`robot/des_c_pos[:2]` that followed, so that an episode has one step less than frames; or what is
asked for, a step for each frame.

The D3IL tasks that are here by name read their recordings themselves.
"""

from pathlib import Path

import numpy as np

from vdd_jax.formats.arrays import FormatError, Keys, same_sizes, stacked, trajectory
from vdd_jax.formats.pickles import read_pickle
from vdd_jax.types import Trajectory

OBSERVATION = ("robot/des_c_pos[:2]", "robot/c_pos[:2]")
COMMAND = ("robot/des_c_pos[:2]",)


def is_here(directory: Path) -> bool:
    """Whether the directory has pickles."""
    return any(directory.glob("*.pkl"))


def read(path: Path, keys: Keys) -> list[Trajectory]:
    """The episodes in the order of their file names.

    Raises:
      FormatError: when a file is damaged, wants to run code, or does not hold what is asked for.
    """
    files = sorted(path.glob("*.pkl"))
    if not files:
        raise FormatError(f"{path} has no files *.pkl")
    return same_sizes([_episode(file, keys) for file in files], files)


def _episode(file: Path, keys: Keys) -> Trajectory:
    try:
        record = read_pickle(file)
    except ValueError as error:
        raise FormatError(str(error)) from error
    if not isinstance(record, dict):
        raise FormatError(f"{file}: expected a dict, found {type(record).__name__}")
    arrays = _flat(record)
    observations = stacked(arrays, keys.observations or OBSERVATION, "observation", file)
    if keys.actions:
        return trajectory(observations, stacked(arrays, keys.actions, "action", file), file)
    command = stacked(arrays, COMMAND, "action", file)
    if len(command) < 2:
        raise FormatError(f"{file}: an episode of {len(command)} recorded frames holds no action "
                          "(2 needed)")
    # differences before the rounding to float32: they are far smaller than the positions
    if len(observations) != len(command):
        raise FormatError(f"{file} has {len(observations)} observations but {len(command)} "
                          "commands")
    return trajectory(observations[:-1], np.diff(command, axis=0), file)


def _flat(record: dict, prefix: str = "") -> dict[str, np.ndarray]:
    found = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, np.ndarray):
            found[f"{prefix}{name}"] = value
    return found
