"""The reader of official recordings: alignment, and one clear sentence for each bad file."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from vdd_jax.tasks import avoiding
from vdd_jax.tasks.avoiding import reader


def record(frames=6, **changes):
    t = np.arange(frames, dtype=float)
    desired = np.stack([0.5 + 0.01 * t, -0.28 + 0.005 * t**2, 0.12 + 0 * t], 1)
    tcp = desired - [0.003, 0.002, 0.0]
    return {
        "robot": {"des_c_pos": desired, "c_pos": tcp, "j_pos": np.zeros((frames, 7)), **changes}
    }


def write(file: Path, content, protocol=4):
    file.write_bytes(pickle.dumps(content, protocol))
    return file


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_observations_pair_with_the_action_that_followed(tmp_path, protocol):
    write(tmp_path / "env_000_00.pkl", record(), protocol)
    (trajectory,) = reader.read(tmp_path)
    assert trajectory.observations.shape == (5, 4) and trajectory.actions.shape == (5, 2)
    assert trajectory.observations.dtype == trajectory.actions.dtype == np.float32
    desired, tcp = record()["robot"]["des_c_pos"], record()["robot"]["c_pos"]
    np.testing.assert_allclose(trajectory.observations[:, :2], desired[:-1, :2], rtol=1e-6)
    np.testing.assert_allclose(trajectory.observations[:, 2:], tcp[:-1, :2], rtol=1e-6)
    np.testing.assert_allclose(
        trajectory.observations[:, :2] + trajectory.actions, desired[1:, :2], rtol=1e-6
    )


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_reads_what_either_numpy_wrote(tmp_path, core):
    content = pickle.dumps(record(), 3)  # protocol 3 spells names out, so they can be replaced
    written = b"numpy._core" if b"numpy._core" in content else b"numpy.core"
    content = content.replace(written + b".multiarray", core + b".multiarray")
    assert core + b".multiarray" in content
    (tmp_path / "a.pkl").write_bytes(content)
    assert len(reader.read(tmp_path)[0].actions) == 5


def test_files_come_in_the_order_of_their_names(tmp_path):
    for name, frames in (("b", 4), ("c", 5), ("a", 3)):
        write(tmp_path / f"{name}.pkl", record(frames))
    write(tmp_path / "notes.txt", "not a demonstration")
    assert [len(t.actions) for t in reader.read(tmp_path)] == [2, 3, 4]


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(tmp_path):
    marker = tmp_path / "ran"
    file = write(tmp_path / "bad.pkl", record(c_quat=Hostile(marker)))
    with pytest.raises(ValueError, match=r"bad\.pkl: refused, .*\b(posix|nt)\.system"):
        reader.read(tmp_path)
    assert not marker.exists()
    pickle.loads(file.read_bytes())  # the file is not harmless: an ordinary unpickler runs it
    assert marker.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__", "print"])
def test_builtins_are_refused(tmp_path, name):
    (tmp_path / "bad.pkl").write_bytes(f"cbuiltins\n{name}\n.".encode())
    with pytest.raises(ValueError, match=f"refused, .*builtins.{name}"):
        reader.read(tmp_path)


def test_other_numpy_functions_are_refused(tmp_path):
    write(tmp_path / "bad.pkl", np.load)
    with pytest.raises(ValueError, match="refused, .*load"):
        reader.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (record(1), "1 recorded frames"),
        (record(0), "0 recorded frames"),
        (record(c_pos=np.zeros((6, 4))), r"robot/c_pos has shape \(6, 4\)"),
        (record(c_pos=np.zeros(6)), r"robot/c_pos has shape \(6,\)"),
        (record(c_pos=np.zeros((5, 3))), "des_c_pos has 6 frames but robot/c_pos has 5"),
        (record(des_c_pos=np.full((6, 3), np.nan)), "robot/des_c_pos contains NaN or infinity"),
        (record(c_pos=np.full((6, 3), np.inf)), "robot/c_pos contains NaN or infinity"),
        (record(c_pos=np.full((6, 3), "a")), "robot/c_pos is not an array of numbers"),
        (record(c_pos=[[0.0, 0.0, 0.0]] * 6), "robot/c_pos is not an array of numbers"),
        ({"robot": {"c_pos": np.zeros((6, 3))}}, "no key 'des_c_pos' under 'robot'; it has c_pos"),
        ({"robots": {}}, "no key 'robot'; it has robots"),
        ({"robot": 3}, "expected a dict under 'robot', found int"),
        ([1, 2], "expected a dict, found list"),
    ],
)
def test_each_bad_content_is_one_sentence_that_names_the_file(tmp_path, content, message):
    write(tmp_path / "demo_7.pkl", content)
    with pytest.raises(ValueError, match=message) as error:
        reader.read(tmp_path)
    assert "demo_7.pkl" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_truncated_file(tmp_path, kept):
    file = write(tmp_path / "cut.pkl", record(40))
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"cut\.pkl: not a complete pickle"):
        reader.read(tmp_path)


def test_no_directory_and_no_demonstrations(tmp_path):
    with pytest.raises(FileNotFoundError, match="no directory of demonstrations at .*absent"):
        avoiding.load(ConfigDict({"demonstrations": str(tmp_path / "absent")}))
    with pytest.raises(FileNotFoundError, match=r"no demonstrations \(\*\.pkl\)"):
        avoiding.load(ConfigDict({"demonstrations": str(tmp_path)}))


def test_load_says_what_was_read(tmp_path):
    write(tmp_path / "a.pkl", record())
    trajectories, description = avoiding.load(ConfigDict({"demonstrations": str(tmp_path)}))
    assert len(trajectories) == description["episodes"] == 1
    assert description["demonstrations"] == f"official D3IL pickles from {tmp_path}, 1 episodes"
    assert "re-created" in description["simulator"]


def test_reads_the_recorded_demonstrations():
    root = os.environ.get("VDD_SHARED_DATA")
    if not root:
        pytest.skip("VDD_SHARED_DATA is not set: no recorded demonstrations")
    trajectories = reader.read(Path(root) / "d3il_avoiding")
    assert len(trajectories) == 96
    lengths = [len(t.actions) for t in trajectories]
    assert min(lengths) == 60 and max(lengths) == 106
    actions = np.concatenate([t.actions for t in trajectories])
    assert np.abs(actions).max() < 0.0125 + 1e-6 and actions[:, 1].min() >= 0
