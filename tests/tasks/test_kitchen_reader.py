"""Recordings of the kitchen in three formats, good and broken ones."""

import builtins

import numpy as np
import pytest

from vdd_jax.tasks.kitchen import reader

RNG = np.random.default_rng(0)
LENGTHS = (5, 3)
EPISODES = [(RNG.normal(size=(n, 60)).astype(np.float32), RNG.normal(size=(n, 9)))
            for n in LENGTHS]


def arrays(directory, **instead):
    """The arrays of relay policy learning, `[T, E, …]`."""
    observations, actions, mask = (np.zeros((6, 2, *size)) for size in ((60,), (9,), ()))
    for i, (o, a) in enumerate(EPISODES):
        observations[: len(a), i], actions[: len(a), i], mask[: len(a), i] = o, a, 1
    names = {"observations_seq": observations, "actions_seq": actions, "existence_mask": mask}
    for name, array in {**names, **instead}.items():
        np.save(directory / f"{name}.npy", array, allow_pickle=True)
    return directory


def same(found):
    assert [len(t.actions) for t in found] == list(LENGTHS)
    for trajectory, (o, a) in zip(found, EPISODES, strict=True):
        np.testing.assert_array_equal(trajectory.observations, o[:, :30])
        np.testing.assert_array_equal(trajectory.actions, a.astype(np.float32))


def test_arrays(tmp_path):
    same(reader.read(arrays(tmp_path)))


def test_minari(tmp_path):
    """Sorted by number; positions without velocities; the last observation has no action."""
    h5py = pytest.importorskip("h5py", reason="the hdf5 extra is not installed")
    with h5py.File(tmp_path / "main_data.hdf5", "w") as file:
        for i in (1, 0, 10):
            o, a = EPISODES[i % 10 % 2]
            seen = np.full((len(a) + 1, 59), 7.0)
            seen[:-1, reader._MINARI] = o[:, :30]
            group = file.create_group(f"episode_{i}")
            group["observations/observation"], group["actions"] = seen, a
    found = reader.read(tmp_path / "main_data.hdf5")
    same(found[:2])
    assert len(found[2].actions) == LENGTHS[0]
    assert list(reader._MINARI[[0, 8, 9, 29]]) == [0, 8, 18, 38]


def test_d4rl(tmp_path):
    """An episode that only the end of the file ends counts."""
    h5py = pytest.importorskip("h5py", reason="the hdf5 extra is not installed")
    with h5py.File(tmp_path / "kitchen.hdf5", "w") as file:
        file["observations"] = np.concatenate([o for o, _ in EPISODES])
        file["actions"] = np.concatenate([a for _, a in EPISODES])
        file["terminals"] = np.arange(8) == 4
        file["timeouts"] = np.zeros(8, bool)
    same(reader.read(tmp_path / "kitchen.hdf5"))


def gap():
    mask = np.zeros((6, 2))
    mask[[0, 2]] = 1
    return mask


@pytest.mark.parametrize("name, array, message", [
    ("observations_seq", np.zeros((6, 2, 29)), "29.*expected numbers .L, at least 30"),
    ("actions_seq", np.zeros((6, 2, 8)), "8.*expected numbers .L, 9"),
    ("actions_seq", np.zeros((5, 2, 9)), "steps and episodes differ"),
    ("observations_seq", np.full((6, 2, 30), np.nan), "episode 0 holds NaN"),
    ("existence_mask", np.zeros((6, 2)), "episode 0 has 0 observations"),
    ("existence_mask", np.zeros(6), "shape .6,., expected .T, E."),
    ("existence_mask", gap(), "episode 0 has a gap"),
    ("actions_seq", np.array([[["a"] * 9] * 2] * 6), "expected numbers"),
    ("actions_seq", np.array({"run": "me"}, dtype=object), "not a complete array"),
    ("observations_seq", np.zeros((0, 0, 30)), "differ"),
])
def test_wrong_arrays_are_refused(tmp_path, name, array, message):
    """One sentence that names the file or the episode; pickles are not opened."""
    with pytest.raises(ValueError, match=message):
        reader.read(arrays(tmp_path, **{name: array}))


def test_no_episodes(tmp_path):
    with pytest.raises(ValueError, match="holds no episodes"):
        reader.read(arrays(tmp_path, observations_seq=np.zeros((6, 0, 30)),
                           actions_seq=np.zeros((6, 0, 9)), existence_mask=np.zeros((6, 0))))


def test_a_truncated_array(tmp_path):
    file = arrays(tmp_path) / "actions_seq.npy"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match="actions_seq.npy: not a complete array"):
        reader.read(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a directory"):
        reader.read(tmp_path / "nowhere")
    (arrays(tmp_path) / "existence_mask.npy").unlink()
    with pytest.raises(FileNotFoundError, match="existence_mask.npy"):
        reader.read(tmp_path)


def hdf5(path, **content):
    h5py = pytest.importorskip("h5py", reason="the hdf5 extra is not installed")
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file[name.replace("__", "/")] = value
    return path


@pytest.mark.parametrize("content, message", [
    ({}, "does not hold demonstrations"),
    ({"observations": np.zeros((4, 60)), "actions": np.zeros((4, 9))}, "where episodes end"),
    ({"observations": np.zeros((3, 60)), "actions": np.zeros((4, 9)),
      "terminals": np.arange(4) == 3}, "3 observations and 4 actions"),
    ({"episode_0__observations__observation": np.zeros((5, 60)),
      "episode_0__actions": np.zeros((4, 9))}, r"expected \[L \+ 1, 59\]"),
    ({"episode_0__observations__observation": np.zeros((1, 59)),
      "episode_0__actions": np.zeros((0, 9))}, "0 observations and 0 actions"),
    ({"episode_x__actions": np.zeros((4, 9))}, "does not hold demonstrations"),
])
def test_wrong_hdf5_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        reader.read(hdf5(tmp_path / "kitchen.hdf5", **content))


def test_what_is_no_hdf5_is_refused(tmp_path):
    pytest.importorskip("h5py", reason="the hdf5 extra is not installed")
    (tmp_path / "kitchen.hdf5").write_bytes(b"not HDF5 at all")
    with pytest.raises(ValueError, match="kitchen.hdf5 does not hold"):
        reader.read(tmp_path / "kitchen.hdf5")


def test_missing_h5py_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name == "h5py":
            raise ImportError("No module named 'h5py'")
        return real(name, *arguments, **more)

    (tmp_path / "kitchen.hdf5").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'vdd_jax\[hdf5\]'"):
        reader.read(tmp_path / "kitchen.hdf5")
