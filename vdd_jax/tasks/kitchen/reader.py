"""Recorded demonstrations of the kitchen.

Either a directory with the arrays of relay policy learning as play-to-policy and BESO use them

    observations_seq.npy  [T, E, ≥ 30]  the first 30 numbers are positions (the rest is not read)
    actions_seq.npy       [T, E, 9]
    existence_mask.npy    [T, E]        1 while an episode lasts, then 0

or a file (`*.hdf5`, `*.h5`) of Minari or D4RL, which needs `pip install 'vdd_jax[hdf5]'`:

    Minari  episode_<i>/observations/observation [L + 1, 59], episode_<i>/actions [L, 9]; of its
            observations the positions are numbers 0–8 and 18–38
    D4RL    observations [N, ≥ 30], actions [N, 9], terminals and/or timeouts [N]
"""

from pathlib import Path

import numpy as np

from vdd_jax.formats import npy
from vdd_jax.tasks.kitchen.world import JOINTS, OBSERVATION
from vdd_jax.types import Trajectory

_FILES = ("observations_seq", "actions_seq", "existence_mask")
_MINARI = np.r_[0:JOINTS, 2 * JOINTS : JOINTS + OBSERVATION]


def read(path: str | Path) -> list[Trajectory]:
    """The episodes of a directory or a file, see above; float32.

    Raises:
      FileNotFoundError: there is nothing, or a file is missing.
      ImportError: h5py is not installed.
      ValueError: a file is damaged or does not hold what it should.
    """
    path = Path(path)
    if path.is_dir():
        return _of_arrays(path)
    if not path.is_file():
        raise FileNotFoundError(f"no kitchen recordings at {path}: neither a directory with "
                                f"{', '.join(f'{name}.npy' for name in _FILES)} nor a file .hdf5")
    return _of_hdf5(path)


def _of_arrays(directory: Path) -> list[Trajectory]:
    arrays = []
    for name, axes in zip(_FILES, (3, 3, 2), strict=True):
        file = directory / f"{name}.npy"
        array = npy.array(file, "kitchen")
        if array.ndim != axes:
            raise ValueError(f"{file}: shape {array.shape}, expected [T, E{', …' * (axes == 3)}]")
        arrays.append(array)
    observations, actions, mask = arrays
    if not observations.shape[:2] == actions.shape[:2] == mask.shape:
        raise ValueError(f"{directory}: steps and episodes differ: {[a.shape[:2] for a in arrays]}")
    lengths = (mask > 0).sum(0)
    for i, length in enumerate(lengths):
        if (mask[length:, i] > 0).any():
            raise ValueError(f"{directory}: episode {i} has a gap in existence_mask.npy")
    return _checked([(observations[:n, i], actions[:n, i]) for i, n in enumerate(lengths)],
                    directory)


def _of_hdf5(file: Path) -> list[Trajectory]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{file} is read with h5py, which is not installed: "
                          "pip install 'vdd_jax[hdf5]'") from error
    try:
        with h5py.File(file, "r") as stored:
            names = sorted((n for n in stored if n.startswith("episode_")),
                           key=lambda n: int(n.rsplit("_", 1)[1]))
            pairs = ([_minari(stored[name]) for name in names] if names else _d4rl(stored))
    except (OSError, KeyError, AttributeError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{file} does not hold demonstrations of the kitchen as Minari or D4RL "
                         f"keep them: {error}") from None
    return _checked(pairs, file)


def _minari(episode):
    observations, actions = episode["observations"]["observation"][:], episode["actions"][:]
    if observations.ndim != 2 or observations.shape[1] != 59:
        raise ValueError(f"{episode.name}: observations of shape {observations.shape}, expected "
                         "[L + 1, 59]")
    return observations[: len(actions), _MINARI], actions


def _d4rl(stored):
    observations, actions = stored["observations"][:], stored["actions"][:]
    ends = [stored[name][:].astype(bool) for name in ("terminals", "timeouts") if name in stored]
    if not ends:
        raise ValueError("neither terminals nor timeouts say where episodes end")
    last = np.flatnonzero(np.any(ends, 0))[:] + 1
    if not len(last) or last[-1] != len(actions):
        last = np.append(last, len(actions))
    return list(zip(np.split(observations, last[:-1]), np.split(actions, last[:-1]), strict=True))


def _checked(pairs, where: Path) -> list[Trajectory]:
    """Pairs of observations `[L, ≥ 30]` and actions `[L, 9]` → trajectories."""
    if not pairs:
        raise ValueError(f"{where} holds no episodes")
    trajectories = []
    for i, (observations, actions) in enumerate(pairs):
        for name, array, size in (("observations", observations, OBSERVATION),
                                  ("actions", actions, JOINTS)):
            if array.dtype.kind not in "fiu" or array.ndim != 2 or (
                    array.shape[1] < size if size == OBSERVATION else array.shape[1] != size):
                least = "at least " * (size == OBSERVATION)
                raise ValueError(f"{where}: {name} of episode {i} are {array.dtype} of shape "
                                 f"{array.shape}, expected numbers [L, {least}{size}]")
        if len(observations) != len(actions) or not len(actions):
            raise ValueError(f"{where}: episode {i} has {len(observations)} observations and "
                             f"{len(actions)} actions")
        trajectory = Trajectory(observations[:, :OBSERVATION].astype(np.float32),
                                actions.astype(np.float32))
        if not all(np.isfinite(values).all() for values in trajectory):
            raise ValueError(f"{where}: episode {i} holds NaN or infinity")
        trajectories.append(trajectory)
    return trajectories
