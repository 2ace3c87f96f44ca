"""Images of a data set, left where they are stored until rows of them are asked for: a process of
several reads those alone that its devices hold."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from vdd_jax.cores import cores
from vdd_jax.types import DataError


class Stored(NamedTuple):
    """What cameras saw in one episode, not read yet."""

    shape: tuple[int, ...]  # (L, C, S, S, 3)
    read: Callable[[], np.ndarray]  # of uint8; a ValueError or ImportError says what is wrong


class Frames:
    """Like an array `[N, C, S, S, 3]` of uint8, of episodes one after the other. Each indexing
    reads the episodes that it touches, several at once; the last one read is kept.

    >>> seen = Frames([np.full((2, 1, 1, 1, 3), 7, np.uint8),
    ...                Stored((3, 1, 1, 1, 3), lambda: np.zeros((3, 1, 1, 1, 3), np.uint8))])
    >>> seen.shape, seen[1:3][:, 0, 0, 0, 0].tolist()
    ((5, 1, 1, 1, 3), [7, 0])
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, episodes: Sequence[np.ndarray | Stored]):
        self._episodes = episodes
        self._begins = np.cumsum([0, *(len(e) if isinstance(e, np.ndarray) else e.shape[0]
                                       for e in episodes)])
        self.shape = (int(self._begins[-1]), *episodes[0].shape[1:])
        self._read = functools.lru_cache(maxsize=1)(self._read_anew)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        """Rows, as of an array: of a slice, or of integers `[...]`.

        Raises:
          DataError: an episode's are missing or damaged.
        """
        rows = np.arange(len(self))[index]
        found = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        episodes = np.searchsorted(self._begins, rows, side="right") - 1

        def read(episode: int) -> None:
            here = episodes == episode
            found[here] = self._read(episode)[rows[here] - self._begins[episode]]

        touched = np.unique(episodes).tolist()
        if len(touched) < 2:
            for episode in touched:
                read(episode)
        else:  # what is compressed is read without Python's lock
            with ThreadPoolExecutor(min(len(touched), cores())) as threads:
                list(threads.map(read, touched))
        return found

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read_anew(self, episode: int) -> np.ndarray:
        stored = self._episodes[episode]
        if isinstance(stored, np.ndarray):
            return stored
        try:
            return stored.read()
        except (ValueError, ImportError) as error:
            raise DataError(str(error)) from error
