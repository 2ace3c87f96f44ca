"""Recording and its cache: balance, reproducibility, atomic files, damaged files."""

from types import SimpleNamespace

import numpy as np
import pytest

from vdd_jax.tasks.planar import block_push, recording

pytest.importorskip("mujoco", reason="mujoco is not installed")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def taken():
    return recording.record(block_push.DEMONSTRATOR, 2, seed=5)


def equal(a, b):
    np.testing.assert_array_equal(a.modes, b.modes)
    assert a.discarded == b.discarded and len(a.trajectories) == len(b.trajectories)
    for one, other in zip(a.trajectories, b.trajectories, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.actions, other.actions)


def test_modes_in_turn_and_types(taken):
    np.testing.assert_array_equal(taken.modes, [0, 1, 2, 3, 0, 1, 2, 3])
    for t in taken.trajectories:
        assert t.observations.dtype == t.actions.dtype == np.float32
        assert len(t.observations) == len(t.actions)
        assert 85 <= len(t.actions) <= 201
        np.testing.assert_allclose(np.diff(t.observations[:, 8:], axis=0), t.actions[:-1],
                                   atol=1e-6)


def test_the_same_seed_gives_the_same_recording_with_any_number_of_threads(taken):
    equal(taken, recording.record(block_push.DEMONSTRATOR, 2, seed=5, threads=3))
    other = recording.record(block_push.DEMONSTRATOR, 1, seed=6)
    assert not np.array_equal(other.trajectories[0].actions, taken.trajectories[0].actions)


def test_the_cache_is_used_and_holds_everything(taken, home, monkeypatch, capsys):
    calls = []

    def record(demonstrator, episodes_per_mode, seed=0, threads=None):
        calls.append((episodes_per_mode, seed))
        return taken

    monkeypatch.setattr(recording, "record", record)
    first = recording.recorded(block_push.DEMONSTRATOR, 2, 5)
    second = recording.recorded(block_push.DEMONSTRATOR, 2, 5)
    assert calls == [(2, 5)]
    equal(first, taken)
    equal(second, taken)
    (file,) = (home / "vdd_jax" / "demonstrations").iterdir()  # and no temporary file is left
    assert file.name.startswith("block_push-2x4-seed5-v") and file.suffix == ".npz"
    assert str(file) in capsys.readouterr().out
    recording.recorded(block_push.DEMONSTRATOR, 2, 6)  # another seed
    recording.recorded(block_push.DEMONSTRATOR._replace(version=999), 2, 5)  # another simulator
    assert len(calls) == 3


@pytest.mark.parametrize("damage", [
    lambda content: content[: len(content) // 2],
    lambda content: b"",
    lambda content: b"no archive at all",
])
def test_a_damaged_file_is_recorded_again(taken, monkeypatch, damage):
    monkeypatch.setattr(recording, "record", lambda *args, **options: taken)
    file = recording.cache_file(block_push.DEMONSTRATOR, 2, 5)
    recording.write(file, taken)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match="recording it again"):
        equal(recording.recorded(block_push.DEMONSTRATOR, 2, 5), taken)
    equal(recording.read(file), taken)


@pytest.mark.parametrize("change, message", [
    ({"format": 99}, "format 99"),
    ({"lengths": np.array([3])}, "do not add up"),
    ({"actions": np.array([[np.nan, 0.0]], np.float32)}, "do not add up|NaN"),
])
def test_a_file_of_something_else_is_refused(taken, home, change, message):
    file = home / "other.npz"
    recording.write(file, taken)
    with np.load(file) as stored:
        arrays = dict(stored)
    np.savez(file, **{**arrays, **change})
    with pytest.raises(ValueError, match=message):
        recording.read(file)


def test_an_interrupted_write_leaves_nothing(taken, home, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(recording.np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recording.write(home / "new" / "file.npz", taken)
    assert list((home / "new").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_no_failure(taken, home, monkeypatch):
    (home / "vdd_jax").write_text("a file where the directory should be")
    monkeypatch.setattr(recording, "record", lambda *args, **options: taken)
    with pytest.warns(UserWarning, match="could not be kept"):
        equal(recording.recorded(block_push.DEMONSTRATOR, 2, 5), taken)


def test_load_describes_where_the_demonstrations_come_from(taken, monkeypatch):
    monkeypatch.setattr(recording, "record", lambda *args, **options: taken)
    task = SimpleNamespace(demonstrations="", episodes_per_mode=2)
    trajectories, about = block_push.load(task)
    assert len(trajectories) == about["episodes"] == 8
    assert about["demonstrations"] == "scripted demonstrator of vdd_jax, 8 episodes"
    assert about["simulator"] == block_push.SIMULATOR and about["discarded"] == taken.discarded
    spec = block_push.spec(task)
    assert trajectories[0].observations.shape[1] == spec.observation_dim == 10
    assert trajectories[0].actions.shape[1] == spec.action_dim == 2


def test_numbers_of_episodes_must_be_positive():
    for function in (recording.record, recording.recorded):
        with pytest.raises(ValueError, match="episodes_per_mode must be at least 1, got 0"):
            function(block_push.DEMONSTRATOR, 0)


def test_a_demonstrator_that_always_fails_is_told(monkeypatch):
    def idle(mode, view, targets, rng):
        yield 0.0, 0.0

    monkeypatch.setattr(recording, "ATTEMPTS", 2)
    broken = block_push.DEMONSTRATOR._replace(
        script=idle, rules=block_push.RULES._replace(limit=3))
    with pytest.raises(RuntimeError, match=r"keeps failing \(8 attempts\)"):
        recording.record(broken, 1)
