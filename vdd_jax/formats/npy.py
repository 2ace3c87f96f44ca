"""Three `.npy` files of padded episodes, as Relay Kitchen and Block Push are published (BeT, C-BeT,
play-to-policy, Diffusion Policy):

    observations_seq.npy  or  multimodal_push_observations.npy   [T, N, O] or [N, T, O]
    actions_seq.npy       or  multimodal_push_actions.npy        [T, N, A] or [N, T, A]
    existence_mask.npy    or  multimodal_push_masks.npy          [T, N] or [N, T], 1 where a step is

An episode's steps come first, then padding, which may hold anything. So the mask falls along time
and says which axis that is; where it does along both (episodes of one length), time is the first
axis of `…_seq.npy` and the second of `multimodal_push_…`, as published. By `config.task`'s keys
columns can be chosen: `observations[:30]`, `actions`.
"""

from pathlib import Path

import numpy as np

from vdd_jax.formats.arrays import FormatError, Keys, stacked, trajectory
from vdd_jax.types import Trajectory

# names of observations, actions and mask, and whether time is the first axis
KINDS = (
    (("observations_seq.npy", "actions_seq.npy", "existence_mask.npy"), True),
    (("multimodal_push_observations.npy", "multimodal_push_actions.npy",
      "multimodal_push_masks.npy"), False),
)


def array(file: Path, what: str) -> np.ndarray:
    """The array of one file of a task's recordings.

    Raises:
      FileNotFoundError, ValueError: it is missing, or damaged.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no {what} recordings at {file}")
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{file}: not a complete array of numbers ({error})") from None


def is_here(directory: Path) -> bool:
    """Whether the directory has files of these names."""
    return any((directory / name).is_file() for names, _ in KINDS for name in names)


def read(path: Path, keys: Keys) -> list[Trajectory]:
    """The episodes of a directory of three files.

    Raises:
      FormatError: when they are not as described above.
    """
    names, time_first = max(KINDS, key=lambda kind: sum((path / n).is_file() for n in kind[0]))
    if lacks := [name for name in names if not (path / name).is_file()]:
        raise FormatError(f"{path} lacks {' and '.join(lacks)}; demonstrations in .npy files are "
                          f"{', '.join(names)}")
    observations, actions, mask = (_load(path / name) for name in names)
    for name, array, rank in zip(names, (observations, actions, mask), (3, 3, 2), strict=True):
        if array.ndim != rank or array.shape[:2] != mask.shape[:2]:
            raise FormatError(
                f"{name} of {path} has shape {array.shape}; with a mask of shape {mask.shape} it "
                f"should be {list(mask.shape[:2]) + ['numbers'] * (rank - 2)}")
    if not np.isin(mask, (0, 1)).all():
        raise FormatError(f"{names[2]} of {path} holds other numbers than 0 and 1")
    if _time_is_first(mask, time_first, path / names[2]):
        observations, actions, mask = (
            np.swapaxes(array, 0, 1) for array in (observations, actions, mask))
    episodes = []
    for number, length in enumerate(mask.sum(axis=1).astype(int)):
        where = f"episode {number} of {path}"
        arrays = {"observations": observations[number, :length],
                  "actions": actions[number, :length]}
        episodes.append(trajectory(
            stacked(arrays, keys.observations or ("observations",), "observation", where),
            stacked(arrays, keys.actions or ("actions",), "action", where), where))
    return episodes


def _load(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r")  # padding is not worth reading
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"{file} is not a complete file of one NumPy array: {error}") from error


def _time_is_first(mask: np.ndarray, published: bool, file: Path) -> bool:
    falls = [bool((np.diff(mask.astype(np.int8), axis=axis) <= 0).all()) for axis in (0, 1)]
    if not any(falls):
        raise FormatError(f"{file} has gaps: along neither of its axes do steps come first and "
                          "padding after them")
    return published if all(falls) else falls[0]
