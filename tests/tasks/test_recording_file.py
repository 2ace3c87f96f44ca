"""Files of recordings: layout, bits, damage, interruption, whose they are."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from vdd_jax import config as config_lib
from vdd_jax.tasks import avoiding, recorded, recording_file
from vdd_jax.tasks.recording_file import Recording
from vdd_jax.types import TaskSpec, Trajectory


def recording(lengths=(3, 1, 4), o=4, a=2) -> Recording:
    rng = np.random.default_rng(0)
    trajectories = [Trajectory(rng.normal(size=(n, o)).astype(np.float32),
                               rng.normal(size=(n, a)).astype(np.float32)) for n in lengths]
    return Recording(trajectories, np.arange(len(lengths)), 7)


def same(one, other):
    for left, right in zip(one, other, strict=True):
        for x, y in zip(left, right, strict=True):
            np.testing.assert_array_equal(x, y)


def test_what_was_written_is_read(tmp_path):
    file = tmp_path / "new" / "a.npz"
    recording_file.write(file, recording(), {"task": "x", "seed": 3})
    again = recording_file.read(file)
    same(again.trajectories, recording().trajectories)
    np.testing.assert_array_equal(again.modes, [0, 1, 2])
    assert again.discarded == 7
    assert recording_file.read_about(file) == {"task": "x", "seed": 3}
    assert [f.name for f in file.parent.iterdir()] == ["a.npz"]  # no temporary file is left


def test_the_same_recording_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        recording_file.write(tmp_path / f"{name}.npz", recording(), {"seed": 1})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_parts_are_joined_in_order():
    whole, first, second = recording((2, 3)), recording((2,)), recording((3,))
    joined = recording_file.join([first, second])
    assert [len(t.actions) for t in joined.trajectories] == [2, 3]
    assert joined.discarded == 14 and len(joined.modes) == 2
    same(joined.trajectories[:1], whole.trajectories[:1])


def test_a_file_is_one_of_the_task_recorded(tmp_path):
    file = tmp_path / "a.npz"
    recording_file.write(file, recording())
    task = config_lib.default().task
    task.update(name="recorded", demonstrations=str(file), window=2)
    trajectories, about = recorded.load(task)
    same(trajectories, recording().trajectories)
    assert about["episodes"] == 3 and recorded.spec(task).observation_dim == 4


@pytest.mark.parametrize("change, message", [
    ({"format": 1}, "format 1, expected 2"),
    ({"episode_ends": np.array([3])}, "do not add up"),
    ({"episode_ends": np.array([3, 3, 8])}, "do not add up"),
    ({"modes": np.array([0])}, "do not add up"),
    ({"actions": np.full((8, 2), np.nan, np.float32)}, "NaN"),
])
def test_a_file_of_something_else_is_refused(tmp_path, change, message):
    file = tmp_path / "a.npz"
    recording_file.write(file, recording())
    with np.load(file) as stored:
        arrays = dict(stored)
    np.savez(file, **{**arrays, **change})
    with pytest.raises(ValueError, match=message):
        recording_file.read(file)
    with pytest.raises(ValueError, match=f"a.npz is no recording of .*{message}"):
        recording_file.read_of_task(str(file), avoiding.SPEC)


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(recording_file.np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recording_file.write(tmp_path / "new" / "file.npz", recording())
    assert list((tmp_path / "new").iterdir()) == []


def test_a_recording_of_another_task_is_refused(tmp_path):
    file = tmp_path / "a.npz"
    recording_file.write(file, recording())
    spec = TaskSpec("pushing", observation_dim=10, action_dim=2, num_modes=4)
    with pytest.raises(ValueError, match="of 4 and 2 numbers; those of pushing have 10 and 2"):
        recording_file.read_of_task(str(file), spec)
    with pytest.raises(FileNotFoundError):
        recording_file.read_of_task(str(tmp_path / "b.npz"), spec)


def test_avoiding_takes_a_recording_for_its_demonstrations(tmp_path):
    file = tmp_path / "a.npz"
    recording_file.write(file, recording())
    trajectories, about = avoiding.load(ConfigDict({"demonstrations": str(file)}))
    same(trajectories, recording().trajectories)
    assert about["demonstrations"] == f"recording {file}, 3 episodes" and about["discarded"] == 7
