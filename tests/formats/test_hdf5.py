"""robomimic, Minari and our own layout in HDF5: files written as they write them, and bad ones."""

import numpy as np
import pytest
from format_files import LENGTHS, minari, robomimic

from vdd_jax import formats
from vdd_jax.formats import FormatError, Keys

h5py = pytest.importorskip("h5py", reason="needs the hdf5 extra")

OBSERVED = ("eef", "object")


def test_robomimic(tmp_path):
    """Episodes by their numbers, observations in the order of the keys, actions as they are."""
    path = robomimic(tmp_path / "low_dim.hdf5")
    found = formats.read(path, keys=Keys(("object[1:]", "eef")))
    assert [len(t.actions) for t in found] == [*LENGTHS, 4]
    with h5py.File(path) as file:
        for number, episode in zip((0, 1, 2, 10), found, strict=True):
            demo = file[f"data/demo_{number}"]
            np.testing.assert_allclose(episode.actions, demo["actions"][()], rtol=1e-6)
            np.testing.assert_allclose(episode.observations, np.concatenate(
                [demo["obs/object"][:, 1:], demo["obs/eef"]], 1), rtol=1e-6)
    assert episode.observations.dtype == episode.actions.dtype == np.float32


def test_robomimic_parts_and_other_actions(tmp_path):
    """A filter key in its order; actions of a group."""
    path = robomimic(tmp_path / "file.h5")
    found = formats.read(path, keys=Keys(OBSERVED, ("action_dict/abs",), "train"))
    assert [t.actions.shape for t in found] == [(4, 7), (5, 7)]


def remove(name):
    def change(file):
        del file[name]
    return change


def put(name, value):
    def change(file):
        if name in file:
            del file[name]
        file[name] = value
    return change


@pytest.mark.parametrize("keys, change, words", [
    (Keys(("obj",)), None, r"demo_0 of .* no array 'obj' .*did you mean 'object'.*it has eef, "
                           "image, object"),
    (Keys(), None, "which observations. demo_0 of .* has eef, image, object; .*observation_keys"),
    (Keys(("image",)), None, "images are not read"),
    (Keys(OBSERVED, ("acts",)), None, "no array 'acts' for config.task.action_keys.*'actions'"),
    (Keys(OBSERVED, (), "valid"), None, "no part 'valid' .*its parts are train"),
    (Keys(OBSERVED, (), "train"), put("mask/train", np.array([b"demo_77"])), "names demo_77"),
    (Keys(OBSERVED), remove("data/demo_1/obs"), "demo_1 of .* has no observations"),
    (Keys(OBSERVED), remove("data/demo_1/actions"), "demo_1 of .* has no array 'actions'"),
    (Keys(OBSERVED), put("data/demo_1/actions", np.zeros((4, 2))), "demo_1 .* 4 actions, but its "
                                                                   "num_samples is 5"),
    (Keys(OBSERVED), put("data/demo_2/obs/eef", np.zeros((1, 3))), "eef 1, object 2"),
    (Keys(OBSERVED), put("data/demo_2/obs/eef", np.zeros((2, 5))), "demo_2 .* have 9 numbers, "
                                                                   "those of demo_0 .* 7"),
    (Keys(OBSERVED), put("data/demo_2/obs/eef", np.full((2, 3), np.nan)), "eef of demo_2 .*NaN"),
])
def test_robomimic_files_that_are_wrong(tmp_path, keys, change, words):
    path = robomimic(tmp_path / "file.hdf5", change=change or (lambda file: None))
    with pytest.raises(FormatError, match=words) as error:
        formats.read(path, keys=keys)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_an_episode_without_steps(tmp_path):
    path = robomimic(tmp_path / "file.hdf5", lengths=(3, 0))
    with pytest.raises(FormatError, match="demo_1 of .* 0 steps"):
        formats.read(path, keys=Keys(OBSERVED))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_truncated_file(tmp_path, share):
    """Whatever is cut off, one sentence."""
    path = robomimic(tmp_path / "file.hdf5", lengths=(200,) * 4)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FormatError, match="not a complete HDF5 file") as error:
        formats.read(path, keys=Keys(OBSERVED))
    assert "\n" not in str(error.value)


def test_minari(tmp_path):
    """By the directory, its data, or the file; without the observation after the last action."""
    folder = minari(tmp_path / "x" / "y-v0")
    keys = Keys(("goals/desired_goal", "observation"))
    for path in (folder, folder / "data", folder / "data" / "main_data.hdf5"):
        found = formats.read(path, keys=keys)
        assert [t.observations.shape for t in found] == [(n, 5) for n in LENGTHS]
    with h5py.File(path) as file:
        episode = file["episode_1"]
        np.testing.assert_allclose(found[1].actions, episode["actions"][()], rtol=1e-6)
        np.testing.assert_allclose(found[1].observations, np.concatenate(
            [episode["observations/goals/desired_goal"][:-1],
             episode["observations/observation"][:-1]], 1), rtol=1e-6)


def test_minari_of_a_plain_space_needs_no_keys(tmp_path):
    """Eleven episodes: by number, not by name."""
    found = formats.read(minari(tmp_path / "a", range(1, 12), seen=3))
    assert [t.observations.shape for t in found] == [(n, 3) for n in range(1, 12)]


@pytest.mark.parametrize("given, keys, words", [
    ({"data_format": "arrow"}, Keys(), "stored as 'arrow'; .*only 'hdf5'"),
    ({"total_episodes": 4}, Keys(("observation",)), "has 3 episodes, but its total_episodes is 4"),
    ({}, Keys(), "which observations. episode_0 .* goals/desired_goal, observation"),
    ({"change": remove("episode_1/actions")}, Keys(("observation",)), "episode_1 .* no actions"),
    ({"change": put("episode_1/actions", np.zeros((3, 2)))}, Keys(("observation",)),
     "episode_1 .* has 6 observations but 3 actions"),
    ({"change": put("episode_0/actions", np.array([0, 1, 2]))}, Keys(("observation",)),
     "discrete actions"),
])
def test_minari_data_that_are_wrong(tmp_path, given, keys, words):
    folder = minari(tmp_path / "set", **given)
    with pytest.raises(FormatError, match=words):
        formats.read(folder, keys=keys)


def test_our_own_layout(tmp_path):
    """The arrays of an .npz in HDF5, and further ones chosen by name."""
    path = tmp_path / "own.h5"
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = np.ones((6, 3)), np.arange(12.0).reshape(6, 2)
        file["more/force"], file["episode_ends"] = np.arange(6.0), np.array([2, 6])
    first, second = formats.read(path)
    assert first.observations.shape == (2, 3)
    np.testing.assert_array_equal(second.actions, np.arange(4.0, 12.0).reshape(4, 2))
    assert formats.read(path, keys=Keys(("more/force", "observations[:1]")))[1].observations[
        :, 0].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("name", ["observations", "actions"])
def test_our_own_layout_without_an_array(tmp_path, name):
    path = tmp_path / "own.h5"
    with h5py.File(path, "w") as file:
        for other in {"observations", "actions", "speed"} - {name}:
            file[other] = np.ones((6, 2))
    with pytest.raises(FormatError, match=f"no array '{name}'; it should .* holds .*speed"):
        formats.read(path)


def test_without_h5py(tmp_path, monkeypatch):
    """One sentence that says what to install."""
    path = robomimic(tmp_path / "file.hdf5")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(FormatError, match=r"file.hdf5 is HDF5, .*vdd_jax\[hdf5\]"):
        formats.read(path)
