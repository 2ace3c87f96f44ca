"""Images that are read when asked for: the same rows as of an array, no episode in vain."""

import numpy as np
import pytest

from vdd_jax.frames import Frames, Stored
from vdd_jax.types import DataError

LENGTHS = (3, 1, 4)
WHOLE = np.random.default_rng(0).integers(0, 256, (sum(LENGTHS), 2, 4, 4, 3)).astype(np.uint8)


def frames(read: list, stored=(True, True, True)):
    """Three episodes, some of them in memory; what is read is appended to `read`."""
    parts = np.split(WHOLE, np.cumsum(LENGTHS)[:-1])

    def reading(i):
        read.append(i)
        return parts[i]

    return Frames([Stored(part.shape, lambda i=i: reading(i)) if stored[i] else part
                   for i, part in enumerate(parts)])


@pytest.mark.parametrize("rows, episodes", [
    (slice(None), [0, 1, 2]), (slice(1, 3), [0]), (slice(2, 5), [0, 1, 2]), (slice(4, 4), []),
    (np.array([7, 0, 7]), [0, 2]), (np.array([[3, 3], [-1, 5]]), [1, 2]),
])
def test_rows_are_those_of_an_array(rows, episodes):
    read = []
    found = frames(read)
    assert found.shape == WHOLE.shape and len(found) == len(WHOLE) and not read
    np.testing.assert_array_equal(found[rows], WHOLE[rows])
    assert found[rows].dtype == np.uint8 and sorted(set(read)) == episodes


def test_an_array_of_all_and_of_what_is_in_memory():
    read = []
    np.testing.assert_array_equal(np.asarray(frames(read, (True, False, True))), WHOLE)
    assert sorted(read) == [0, 2]


def test_the_last_episode_is_kept():
    read = []
    found = frames(read)
    for i in range(len(WHOLE)):
        np.testing.assert_array_equal(found[i : i + 1], WHOLE[i : i + 1])
    assert read == [0, 1, 2]


def test_what_cannot_be_read_is_one_error():
    def broken():
        raise ValueError("4.jpg is no image")

    found = Frames([WHOLE[:2], Stored((3, *WHOLE.shape[1:]), broken)])
    np.testing.assert_array_equal(found[:2], WHOLE[:2])
    with pytest.raises(DataError, match="4.jpg is no image"):
        found[1:3]
