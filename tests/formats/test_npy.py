"""Padded episodes in three .npy files: which axis is time, padding, and bad files."""

import os
from pathlib import Path

import numpy as np
import pytest
from format_files import PUSH, SEQUENCES
from format_files import npy as write

from vdd_jax import formats
from vdd_jax.formats import FormatError, Keys
from vdd_jax.formats.npy import _time_is_first


@pytest.mark.parametrize("names, time_first", [
    (SEQUENCES, True), (SEQUENCES, False), (PUSH, False), (PUSH, True)])
def test_the_mask_says_which_axis_is_time(tmp_path, names, time_first):
    observations, actions, _ = write(tmp_path, names, time_first)
    found = formats.read(tmp_path)
    assert [len(t.actions) for t in found] == [4, 2, 5]
    np.testing.assert_allclose(found[1].observations, observations[1, :2], rtol=1e-6)
    np.testing.assert_allclose(found[2].actions, actions[2], rtol=1e-6)


@pytest.mark.parametrize("names, time_first", [(SEQUENCES, True), (PUSH, False)])
def test_episodes_of_one_length_are_as_published(tmp_path, names, time_first):
    """The mask does not tell; the names do."""
    observations, *_ = write(tmp_path, names, time_first, lengths=(4, 4, 4))
    found = formats.read(tmp_path, keys=Keys(("observations[:3]",)))
    assert [t.observations.shape for t in found] == [(4, 3)] * 3
    np.testing.assert_allclose(found[2].observations, observations[2, :, :3], rtol=1e-6)


@pytest.mark.parametrize("changes, words", [
    ({"mask": None}, "lacks existence_mask.npy; .* observations_seq.npy, actions_seq.npy"),
    ({"actions": np.zeros((5, 4, 2))}, r"actions_seq.npy .* shape \(5, 4, 2\); .*mask of shape "
                                       r"\(5, 3\)"),
    ({"observations": np.zeros((5, 3))}, r"observations_seq.npy .* shape \(5, 3\)"),
    ({"mask": np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]])}, "has gaps"),
    ({"mask": np.full((5, 3), 0.5)}, "other numbers than 0 and 1"),
    ({"mask": np.repeat([[1, 1, 0], [1, 0, 0], [0, 0, 0]], (2, 2, 1), 0)}, "episode 2 .* 0 steps"),
    ({"actions": np.full((5, 3, 2), np.nan)}, "actions of episode 0 of .* NaN"),
])
def test_files_that_are_wrong(tmp_path, changes, words):
    write(tmp_path, **changes)
    with pytest.raises(FormatError, match=words) as error:
        formats.read(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_truncated_file_and_a_pickle(tmp_path):
    """Which is not unpickled."""
    write(tmp_path)
    file = tmp_path / SEQUENCES[1]
    file.write_bytes(file.read_bytes()[:150])
    with pytest.raises(FormatError, match="actions_seq.npy is not a complete file of one NumPy"):
        formats.read(tmp_path)
    np.save(file, np.array([{}], object), allow_pickle=True)
    with pytest.raises(FormatError, match="actions_seq.npy is not a complete file of one NumPy"):
        formats.read(tmp_path)


def test_the_published_masks_of_block_push():
    """1000 episodes by 201 steps: time is the second axis."""
    root = os.environ.get("VDD_SHARED_DATA")
    if not root:
        pytest.skip("needs VDD_SHARED_DATA")
    mask = np.load(Path(root) / "block_push" / PUSH[2])
    assert mask.shape == (1000, 201)
    assert not _time_is_first(mask, True, "x") and _time_is_first(mask.T, False, "x")
