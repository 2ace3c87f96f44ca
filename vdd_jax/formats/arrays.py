"""What the readers of all formats share: arrays by name → an episode, each complaint one sentence.

A key names an array, and may choose columns of it: `object`, `observations[:30]`, `pos[1:3]`.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vdd_jax.types import Trajectory

_KEY = re.compile(r"(?P<name>.*?)(\[(?P<low>-?\d*):(?P<high>-?\d*)\])?")


class FormatError(ValueError):
    """Demonstrations that are not as their format says; the text is for the user."""


class Keys(NamedTuple):
    """What of a data set is wanted; empty: what its format calls state and action."""

    observations: tuple[str, ...] = ()  # arrays put one after the other
    actions: tuple[str, ...] = ()
    subset: str = ""  # a named part of the episodes, where a format has such


def name_of(key: str) -> str:
    """The array that a key names."""
    return _KEY.fullmatch(key)["name"]


def columns(key: str) -> slice:
    """The columns of it that a key chooses."""
    found = _KEY.fullmatch(key)
    return slice(*(int(found[end]) if found[end] else None for end in ("low", "high")))


def nearest(name: str, names) -> str:
    """' (did you mean …?)', or nothing where no name is near."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def missing(keys, names, what: str, where) -> None:
    """Checks that every one of `keys` names one of `names`.

    Args:
      what: 'observation' or 'action'.

    Raises:
      FormatError: naming what there is.
    """
    for key in keys:
        if (name := name_of(key)) not in names:
            raise FormatError(f"{where} has no array {name!r} for config.task.{what}_keys"
                              f"{nearest(name, names)}; it has {', '.join(names) or 'none'}")


def stacked(available: Mapping[str, Any], keys, what: str, where, scalars: bool = True):
    """The arrays that `keys` name, column beside column, `[L, D]` float64.

    Args:
      available: arrays by name, NumPy's or such that `[()]` gives one.
      what: 'observation' or 'action'.
      where: of which episode of which file, for complaints.
      scalars: whether an array `[L]` counts as one column.

    Raises:
      FormatError: for names that are not there, what are no numbers `[L, D]`, no rows, rows that do
        not agree, NaN and infinity.
    """
    missing(keys, available, what, where)
    parts = [_numbers(available[name_of(key)][()], key, what, where, scalars) for key in keys]
    rows = [len(part) for part in parts]
    if len(set(rows)) > 1:
        counted = ", ".join(f"{key} {n}" for key, n in zip(keys, rows, strict=True))
        raise FormatError(f"the arrays of an {what} of {where} differ in their steps: {counted}")
    return np.concatenate(parts, axis=1)


def _numbers(array, key: str, what: str, where, scalars: bool) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim == 1 and scalars:
        array = array[:, None]
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "fiub":
        images = " (images are not read)" if array.ndim > 2 else ""
        raise FormatError(
            f"{name_of(key)} of {where}: shape {array.shape}, type {array.dtype}; it should be "
            f"numbers [steps, {what[0].upper()}]{images}")
    if not len(array):
        raise FormatError(f"{name_of(key)} of {where}: 0 steps")
    chosen = array[:, columns(key)].astype(np.float64)
    if not chosen.shape[1]:
        raise FormatError(f"{key!r} chooses none of the {array.shape[1]} columns of {where}")
    if (bad := ~np.isfinite(chosen).all(axis=1)).any():
        raise FormatError(f"{name_of(key)} of {where}: {int(bad.sum())} of {len(array)} rows hold "
                          f"NaN or infinity (the first is number {int(np.argmax(bad))})")
    return chosen


def trajectory(observations: np.ndarray, actions: np.ndarray, where) -> Trajectory:
    """`[L, O]` and `[L, A]` → an episode, float32.

    Raises:
      FormatError: when they differ in length.
    """
    if len(observations) != len(actions):
        raise FormatError(f"{where} has {len(observations)} observations but {len(actions)} "
                          "actions")
    return Trajectory(observations.astype(np.float32), actions.astype(np.float32))


def same_sizes(trajectories: list[Trajectory], names) -> list[Trajectory]:
    """The episodes, if all have as many numbers in an observation and in an action.

    Raises:
      FormatError: naming two that differ.
    """
    first = trajectories[0]
    for name, episode in zip(names, trajectories, strict=True):
        for what, a, b in zip(("observations", "actions"), first, episode, strict=True):
            if a.shape[1] != b.shape[1]:
                raise FormatError(f"the {what} of {name} have {b.shape[1]} numbers, those of "
                                  f"{names[0]} {a.shape[1]}")
    return trajectories


def only(available, keys, default: str, what: str, where) -> tuple[str, ...]:
    """`keys`; where there are none the default if it is there, or the only array there is.

    Raises:
      FormatError: when it has to be said which.
    """
    if keys:
        return keys
    if default in available:
        return (default,)
    if len(available) == 1:
        return tuple(available)
    raise FormatError(f"which {what}s? {where} has {', '.join(available) or 'none'}; name those "
                      f"wanted in config.task.{what}_keys")
