"""LeRobot's data sets, written as versions 2 and 3 are, and bad ones."""

import numpy as np
import pytest
from format_files import lerobot as write
from format_files import lerobot_table as table

from vdd_jax import formats
from vdd_jax.formats import FormatError, Keys

pyarrow = pytest.importorskip("pyarrow", reason="needs the lerobot extra")
RNG = np.random.default_rng(0)


def of(part, name):
    return np.array(part[name].to_pylist()).reshape(len(part), -1)


@pytest.mark.parametrize("fixed", [True, False])
def test_version_3(tmp_path, fixed):
    """Many episodes a file, several files; one episode is spread over two."""
    tables = [table([(0, 3), (1, 5)], fixed), table([(2, 2)], fixed)]
    tables.append(table([(3, 4)], fixed, frame_index=np.arange(4)))
    found = formats.read(write(tmp_path / "set", tables))
    assert [t.observations.shape for t in found] == [(3, 3), (5, 3), (2, 3), (4, 3)]
    np.testing.assert_allclose(found[1].observations, of(tables[0], "observation.state")[3:],
                               rtol=1e-6)
    np.testing.assert_allclose(found[2].actions, of(tables[1], "action"), rtol=1e-6)


def test_rows_are_put_in_order(tmp_path):
    """Whatever the order of files and rows is."""
    whole = table([(0, 3), (1, 4)])
    shuffled = whole.take(pyarrow.array(RNG.permutation(7)))
    found = formats.read(write(tmp_path / "set", [shuffled.slice(0, 4), shuffled.slice(4)]))
    np.testing.assert_allclose(np.concatenate([t.actions for t in found]), of(whole, "action"),
                               rtol=1e-6)


def test_version_2_and_keys(tmp_path):
    """A file an episode; several features, of which one is a number alone."""
    tables = [table([(0, 3)], False), table([(1, 2)], False)]
    folder = write(tmp_path / "set", tables, "v2.1", "episode_")
    keys = Keys(("observation.environment_state", "observation.gripper", "observation.state[:1]"))
    found = formats.read(folder, keys=keys)
    np.testing.assert_allclose(found[1].observations, np.concatenate(
        [of(tables[1], name) for name in ("observation.environment_state", "observation.gripper")]
        + [of(tables[1], "observation.state")[:, :1]], 1), rtol=1e-6)


BAD = np.array([[0.0, 1.0], [np.nan, 0.0], [1.0, 1.0]])


@pytest.mark.parametrize("given, info, keys, words", [
    ({}, {"codebase_version": "v1.6"}, Keys(), "version v1.6; v2 and v3 are read"),
    ({}, {"storage_format": "lance"}, Keys(), "stored as 'lance'; only Parquet"),
    ({}, {"features": {"action": {"dtype": "float32"}}}, Keys(), "lacks 'shape'"),
    ({}, {"total_frames": 4}, Keys(), "total_frames = 4 by its info.json, .* hold 3"),
    ({}, {"total_episodes": 2}, Keys(), "total_episodes = 2 by its info.json, .* hold 1"),
    ({}, {}, Keys(("observation.stat",)), "no array 'observation.stat' .*did you mean "
                                          "'observation.state'.*it has observation.state"),
    ({}, {}, Keys(("observation.images.top",)), "no array 'observation.images.top'"),
    ({"action": None}, {}, Keys(), "no column action; it has episode_index"),
    ({"action": BAD}, {}, Keys(), r"action of episode 0 of .* 1 of 3 rows .* number 1"),
    ({"action": np.zeros((3, 4))}, {}, Keys(), "action of .* 12 numbers in 3 rows; .* says 2"),
    ({"frame_index": np.array([0, 1, 1])}, {}, Keys(), "episode 0 .* 3 rows, whose frame_index"),
])
def test_data_that_are_wrong(tmp_path, given, info, keys, words):
    folder = write(tmp_path / "set", [table([(0, 3)], **given)], **info)
    with pytest.raises(FormatError, match=words) as error:
        formats.read(folder, keys=keys)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_rows_without_a_value(tmp_path):
    whole = table([(0, 3)], False)
    column = pyarrow.array([[0.0, 1.0], None, [1.0, 2.0]])
    part = whole.set_column(whole.schema.get_field_index("action"), "action", column)
    with pytest.raises(FormatError, match="action of .* has 1 rows without a value"):
        formats.read(write(tmp_path / "set", [part]))


def test_nothing_there_and_truncated(tmp_path):
    folder = write(tmp_path / "set", [table([(0, 3)]), table([(1, 3)])])
    file = folder / "data" / "chunk-000" / "file001.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match="file001.parquet is not a complete Parquet file"):
        formats.read(folder)
    file.unlink()
    with pytest.raises(FormatError, match="total_frames = 6 by its info.json, .* hold 3"):
        formats.read(folder)
    (folder / "data" / "chunk-000" / "file000.parquet").unlink()
    with pytest.raises(FormatError, match="has no files data/chunk"):
        formats.read(folder)
    (folder / "meta" / "info.json").write_text("{")
    with pytest.raises(FormatError, match="info.json is not JSON"):
        formats.read(folder)


def test_no_rows(tmp_path):
    with pytest.raises(FormatError, match="hold 0"):
        formats.read(write(tmp_path / "set", [table([])]))


def test_without_pyarrow(tmp_path, monkeypatch):
    """One sentence that says what to install."""
    folder = write(tmp_path / "set", [table([(0, 3)])])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(FormatError, match=r"file000.parquet is Parquet, .*vdd_jax\[lerobot\]"):
        formats.read(folder)
