"""Our own layout, as `.npz` (numpy.savez) or HDF5 (the hdf5 extra): all steps of all episodes, one
episode after the other, in the task's own units:

    observations   [N, O]
    actions        [N, A]  what was done at each
    episode_ends   [E]     the number of steps up to the end of each episode: rising, the last is N

Without `episode_ends` every step is an episode of its own. Further arrays `[N, …]` may stand beside
them and be chosen by name; others are not looked at.
"""

import zipfile
from pathlib import Path

import numpy as np

from vdd_jax.formats import hdf5_files
from vdd_jax.formats.arrays import FormatError, Keys, stacked, trajectory
from vdd_jax.types import Trajectory

ENDS = "episode_ends"
_ARRAYS = f"observations [N, O], actions [N, A], {ENDS} [E]"


def read_npz(path: Path, keys: Keys) -> list[Trajectory]:
    """The episodes of a file of `numpy.savez`.

    Raises:
      FormatError: when it is not as described above.
    """
    try:
        with np.load(path) as file:
            # an array is read when it is asked for
            return _episodes(_Lazy(file), keys, path)
    except (ValueError, zipfile.BadZipFile, EOFError, TypeError, AttributeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path} is not a file of NumPy arrays (.npz): {error}") from error


def read_hdf5(path: Path, keys: Keys) -> list[Trajectory]:
    """The same arrays at the top of an HDF5 file."""
    with hdf5_files.opened(path) as file:
        return _episodes(hdf5_files.leaves(file), keys, path)


class _Lazy(dict):
    """The arrays of an open `.npz`, as arrays of HDF5 are asked for."""

    def __init__(self, file):
        super().__init__({name: _Entry(file, name) for name in file})


class _Entry:
    def __init__(self, file, name):
        self._file, self._name = file, name

    def __getitem__(self, _):
        return self._file[self._name]


def _episodes(arrays, keys: Keys, path: Path) -> list[Trajectory]:
    wanted = {"observation": keys.observations or ("observations",),
              "action": keys.actions or ("actions",)}
    lacks = [name for name, given in (("observations", keys.observations),
                                      ("actions", keys.actions)) if not given
             and name not in arrays]
    if lacks:
        raise FormatError(
            f"{path} has no array {' and no '.join(map(repr, lacks))}; it should hold {_ARRAYS}, "
            f"and holds {', '.join(arrays) or 'none'}")
    columns = [stacked(arrays, names, what, path, scalars=bool(
        keys.observations if what == "observation" else keys.actions))
        for what, names in wanted.items()]
    everything = trajectory(*columns, path)
    steps = len(everything.actions)
    ends = _checked(np.asarray(arrays[ENDS][()]), steps, path) if ENDS in arrays else (
        np.arange(1, steps + 1))
    return [Trajectory(everything.observations[a:b], everything.actions[a:b])
            for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def _checked(ends: np.ndarray, steps: int, path: Path) -> np.ndarray:
    if ends.ndim != 1 or not ends.size or ends.dtype.kind not in "iu":
        raise FormatError(f"{ENDS} of {path} have shape {ends.shape} and type {ends.dtype}; "
                          "they should be integers [E]")
    ends = ends.astype(np.int64)
    lengths = np.diff(ends, prepend=0)
    if (lengths <= 0).any():
        first = int(np.argmax(lengths <= 0))
        raise FormatError(f"episode {first} of {path} has {int(lengths[first])} steps; "
                          f"{ENDS} should rise from one episode to the next")
    if ends[-1] != steps:
        raise FormatError(f"the last of {ENDS} of {path} is {int(ends[-1])}, but there are "
                          f"{steps} steps")
    return ends
