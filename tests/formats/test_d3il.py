"""D3IL's pickles by names of one's own; what the reader of Avoiding reads, and bad files."""

import os
from pathlib import Path

import numpy as np
import pytest
from format_files import d3il_record as record
from format_files import pickles as write

from vdd_jax import formats
from vdd_jax.formats import FormatError, Keys
from vdd_jax.tasks.avoiding import reader


def test_without_keys_it_is_the_reader_of_avoiding(tmp_path):
    """To the bit, also where a pickle holds more."""
    write(tmp_path, record(), record(4))
    for ours, theirs in zip(formats.read(tmp_path), reader.read(tmp_path), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_keys_reach_into_the_dictionaries(tmp_path):
    """Actions are changes of the command; those that are named are taken as they are."""
    write(tmp_path, record())
    keys = Keys(("red-box/pos[:2]", "robot/c_pos[2:]"))
    (episode,) = formats.read(tmp_path, keys=keys)
    np.testing.assert_allclose(episode.observations[1], [7, 8, 5.2], rtol=1e-6)
    np.testing.assert_allclose(episode.actions, np.full((5, 2), 0.3), rtol=1e-6)
    (episode,) = formats.read(tmp_path, keys=keys._replace(actions=("robot/des_c_pos",)))
    np.testing.assert_allclose(episode.actions, record()["robot"]["des_c_pos"], rtol=1e-6)


@pytest.mark.parametrize("content, words", [
    (record(c_pos=np.zeros((5, 3))), "differ in their steps: robot/des_c_pos.* 6, .* 5"),
    (record(1), "an episode of 1 recorded frames holds no action"),
    (record(0), "0 steps"),
    (record(c_pos=np.full((6, 3), np.inf)), "robot/c_pos of .* 6 of 6 rows hold NaN or inf"),
    ({"robot": {}}, "no array 'robot/des_c_pos'"),
    ([1, 2], "expected a dict, found list"),
    (pytest.approx, "refused, it wants to load"),
])
def test_files_that_are_wrong(tmp_path, content, words):
    write(tmp_path, record(), content)
    with pytest.raises(FormatError, match=words) as error:
        formats.read(tmp_path)
    assert "env_001.pkl" in str(error.value)


def test_a_truncated_pickle(tmp_path):
    write(tmp_path, record())
    file = tmp_path / "env_000.pkl"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(FormatError, match="not a complete pickle"):
        formats.read(tmp_path)


def test_the_official_recordings():
    """96 of Avoiding, as its own reader has them."""
    root = os.environ.get("VDD_SHARED_DATA")
    if not root:
        pytest.skip("needs VDD_SHARED_DATA")
    folder = Path(root) / "d3il_avoiding"
    found, expected = formats.read(folder), reader.read(folder)
    assert len(found) == 96
    assert all(np.array_equal(a, b) for ours, theirs in zip(found, expected, strict=True)
               for a, b in zip(ours, theirs, strict=True))
