"""Reads the official D3IL recordings of the Avoiding task: one pickle per demonstration."""

from pathlib import Path

import numpy as np

from vdd_jax.formats.pickles import read_pickle
from vdd_jax.types import Trajectory


def read(directory: str | Path) -> list[Trajectory]:
    """All demonstrations of a directory, in the order of their file names.

    Returns:
      For each: observations `[L, 4]` = (desired x, y, tcp x, y) in metres and actions `[L, 2]`,
      the change of the desired position that followed each observation; float32, L one less than
      the frames recorded.

    Raises:
      FileNotFoundError: there is no such directory, or no `*.pkl` in it.
      ValueError: a file is damaged, wants to run code, or does not hold what it should.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"no directory of demonstrations at {directory}")
    files = sorted(directory.glob("*.pkl"))
    if not files:
        raise FileNotFoundError(f"no demonstrations (*.pkl) in the directory {directory}")
    return [read_file(file) for file in files]


def read_file(file: str | Path) -> Trajectory:
    """One demonstration; see `read`."""
    record = read_pickle(Path(file))
    robot = _entry(record, "robot", file, "")
    desired, tcp = (_positions(robot, key, file) for key in ("des_c_pos", "c_pos"))
    if len(desired) != len(tcp):
        raise ValueError(
            f"{file}: robot/des_c_pos has {len(desired)} frames but robot/c_pos has {len(tcp)}"
        )
    if len(desired) < 2:
        raise ValueError(
            f"{file}: an episode of {len(desired)} recorded frames holds no action (2 needed)"
        )
    # Differences before the rounding to float32: they are 30 times smaller than the positions.
    actions = np.diff(desired, axis=0)
    observations = np.concatenate([desired, tcp], 1)[:-1]
    return Trajectory(observations.astype(np.float32), actions.astype(np.float32))


def _entry(record, key: str, file, where: str):
    if not isinstance(record, dict):
        raise ValueError(f"{file}: expected a dict{where}, found {type(record).__name__}")
    if key not in record:
        found = ", ".join(sorted(map(str, record))) or "nothing"
        raise ValueError(f"{file}: no key '{key}'{where}; it has {found}")
    return record[key]


def _positions(robot, key: str, file) -> np.ndarray:
    """The xy of `robot[key]`, `[T, 2]` float64."""
    value = _entry(robot, key, file, " under 'robot'")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise ValueError(f"{file}: robot/{key} is not an array of numbers")
    if value.ndim != 2 or value.shape[1] not in (2, 3):
        raise ValueError(f"{file}: robot/{key} has shape {value.shape}, expected [T, 3] or [T, 2]")
    value = value[:, :2].astype(np.float64)
    if not np.isfinite(value).all():
        raise ValueError(f"{file}: robot/{key} contains NaN or infinity")
    return value
