"""Which format it is, and that files and directories are not taken for one another."""

import pickle

import numpy as np
import pytest

from vdd_jax import formats
from vdd_jax.formats import FormatError, Keys


def npz(tmp_path):
    np.savez(tmp_path / "own.npz", observations=np.zeros((4, 2)), actions=np.zeros((4, 1)),
             force=np.arange(4.0))
    return tmp_path / "own.npz"


def touch(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("name, form", [
    ("meta/info.json", "lerobot"), ("data/main_data.hdf5", "minari"), ("main_data.hdf5", "minari"),
    ("data/metadata.json", "minari"), ("observations_seq.npy", "npy"),
    ("multimodal_push_masks.npy", "npy"), ("env_000_00.pkl", "d3il")])
def test_a_directory_is_known_by_a_file_in_it(tmp_path, name, form):
    assert formats.recognise(touch(tmp_path, name)) == form


@pytest.mark.parametrize("content, form", [
    ({"data/demo_3/actions": 1}, "robomimic"), ({"episode_0/actions": 1}, "minari"),
    ({"observations": 1}, "hdf5"), ({"data": 1, "episodes": 1}, "hdf5"), ({}, "hdf5")])
def test_a_file_of_hdf5_is_known_by_what_is_in_it(tmp_path, content, form):
    h5py = pytest.importorskip("h5py", reason="needs the hdf5 extra")
    with h5py.File(tmp_path / "any.name", "w") as file:
        for name, value in content.items():
            file[name] = value
    assert formats.recognise(tmp_path / "any.name") == form


def test_an_npz_whatever_it_is_called(tmp_path):
    """Its other arrays can be chosen; a part cannot."""
    path = npz(tmp_path).rename(tmp_path / "data")
    assert formats.recognise(path) == "npz"
    found = formats.read(path, keys=Keys(("force",), ("observations[1:]", "actions")))
    assert len(found) == 4 and found[3].observations.tolist() == [[3.0]]
    assert found[0].actions.shape == (1, 2)
    with pytest.raises(FormatError, match="config.task.subset is 'train', but only .* robomimic"):
        formats.read(path, keys=Keys(subset="train"))
    with pytest.raises(FormatError, match="no array 'forces' .*did you mean 'force'"):
        formats.read(path, keys=Keys(("forces",)))


def test_nothing_that_is_known(tmp_path):
    with pytest.raises(FormatError, match="of no format that is known"):
        formats.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        formats.read(tmp_path / "gone")
    (tmp_path / "text").write_text("a,b\n")
    with pytest.raises(FormatError, match="not a file of NumPy arrays"):
        formats.read(tmp_path / "text")


@pytest.mark.parametrize("form, file", [
    ("npy", True), ("lerobot", True), ("d3il", True), ("robomimic", False), ("npz", False),
    ("hdf5", False)])
def test_a_format_that_is_said_but_cannot_be(tmp_path, form, file):
    path = npz(tmp_path) if file else tmp_path
    with pytest.raises(FormatError, match=f"data in the format '{form}' are a "):
        formats.read(path, form)


def test_a_format_that_is_said_goes_before_what_is_recognised(tmp_path):
    """Here a directory of two formats."""
    touch(tmp_path, "observations_seq.npy")
    robot = {"des_c_pos": np.zeros((3, 2)), "c_pos": np.ones((3, 2))}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"robot": robot}))
    assert formats.recognise(tmp_path) == "npy"
    assert len(formats.read(tmp_path, "d3il")[0].actions) == 2
