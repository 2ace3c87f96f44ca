"""Recording and its cache: balance, reproducibility, chunks that are gone on from."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from vdd_jax.tasks import recording_file
from vdd_jax.tasks.planar import block_push, lapses, recording
from vdd_jax.tasks.planar.lapses import Lapse

pytest.importorskip("mujoco", reason="mujoco is not installed")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def taken():
    return recording.record(block_push.DEMONSTRATOR, 8, seed=5)


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


def test_a_demonstration_begins_after_its_lapse():
    """Hand and boxes where the shove has left them; what was done until then is not shown."""
    shove = Lapse(30, 40, (0.02, 0.01))
    shoved = block_push.DEMONSTRATOR._replace(lapse=lambda rng: shove)
    found = recording.take(shoved, 0, 4, seed=5)
    whole = recording.attempt(shoved, range(4), (5, 0, 0), lapses=[shove] * 4)
    np.testing.assert_array_equal(whole.actions[:, 30:40], np.tile(np.float32(shove.action),
                                                                   (4, 10, 1)))
    calm = recording.attempt(shoved, range(4), (5, 0, 0))
    np.testing.assert_array_equal(whole.observations[:, :30], calm.observations[:, :30])
    assert found.discarded == 0
    for row, shown in enumerate(found.trajectories):
        np.testing.assert_array_equal(shown.actions, whole.actions[row, 40 : whole.steps[row]])
        np.testing.assert_array_equal(
            shown.observations, whole.observations[row, 40 : whole.steps[row]])
        apart = whole.observations[row, 40, 8:] - calm.observations[row, 40, 8:]
        assert np.linalg.norm(apart) > 0.1


@pytest.mark.parametrize("lapse, kept", [(Lapse(1000, 1010, (0.0, 0.0)), True),
                                         (Lapse(1, 1000, (0.001, 0.0)), False)])
def test_lapses_that_are_not_over(monkeypatch, lapse, kept):
    """One that would have begun after the end is none; nothing is shown if there is no after."""
    monkeypatch.setattr(recording, "ATTEMPTS", 1)
    shoved = block_push.DEMONSTRATOR._replace(lapse=lambda rng: lapse)
    if kept:
        plain = recording.take(block_push.DEMONSTRATOR, 0, 2, seed=5)
        equal(recording.take(shoved, 0, 2, seed=5), plain)
    else:
        with pytest.raises(RuntimeError, match="keeps failing"):
            recording.take(shoved, 0, 2, seed=5)


def test_lapses_are_drawn():
    rng = np.random.default_rng(0)
    drawn = [lapses.draw(rng, 200, lapses.flat(0.012, 3)) for _ in range(2000)]
    found = [lapse for lapse in drawn if lapse]
    assert len(found) / len(drawn) == pytest.approx(lapses.SHARE, abs=0.04)
    begins = np.array([lapse.begin for lapse in found])
    assert begins.min() >= 1 and begins.max() < 200
    assert abs(begins.mean() - 100) < 5
    lengths = np.array([lapse.end - lapse.begin for lapse in found])
    assert (lengths.min(), lengths.max()) == (lapses.SHORTEST, lapses.LONGEST - 1)
    actions = np.array([lapse.action for lapse in found])
    sizes = np.linalg.norm(actions, axis=1)
    assert sizes.max() <= 0.012 and sizes.min() >= 0.3 * 0.012 and (actions[:, 2] == 0).all()
    assert np.abs(actions.mean(0)).max() < 1e-3  # any direction


def test_the_same_seed_gives_the_same_recording_with_any_number_of_threads(taken):
    equal(taken, recording.record(block_push.DEMONSTRATOR, 8, seed=5, threads=3))
    other = recording.record(block_push.DEMONSTRATOR, 1, seed=6)
    assert not np.array_equal(other.trajectories[0].actions, taken.trajectories[0].actions)


def test_the_cache_is_used_and_holds_everything(taken, home, monkeypatch, capsys):
    calls = []

    def record(demonstrator, num_episodes, seed=0, threads=None, parts=None):
        calls.append((num_episodes, seed))
        return taken

    monkeypatch.setattr(recording, "record", record)
    first = recording.recorded(block_push.DEMONSTRATOR, 2, 5)
    second = recording.recorded(block_push.DEMONSTRATOR, 2, 5)
    assert calls == [(8, 5)]
    equal(first, taken)
    equal(second, taken)
    (file,) = (home / "vdd_jax" / "demonstrations").iterdir()  # and no temporary file is left
    assert file.name.startswith("block_push-seed5-v") and file.name.endswith("-2x4.npz")
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
    recording_file.write(file, taken)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match="recording it again"):
        equal(recording.recorded(block_push.DEMONSTRATOR, 2, 5), taken)
    equal(recording_file.read(file), taken)


def test_chunks_are_gone_on_from_and_do_not_depend_on_what_follows(taken, home, monkeypatch):
    monkeypatch.setattr(recording, "CHUNK", 3)
    done = []

    def take(demonstrator, first, num, seed, threads, show):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((first, num))
        return recording_file.Recording(taken.trajectories[first : first + num],
                                        taken.modes[first : first + num], first)

    monkeypatch.setattr(recording, "take", take)
    with pytest.raises(KeyboardInterrupt):
        recording.record(block_push.DEMONSTRATOR, 8, 5, parts=home)
    assert done == [(0, 3), (3, 3)] and len(list(home.iterdir())) == 2
    done.clear()
    first = sorted(home.iterdir())[0]
    first.write_bytes(first.read_bytes()[:100])  # the machine went down while it was written
    equal(recording.record(block_push.DEMONSTRATOR, 8, 5, parts=home),
          taken._replace(discarded=0 + 3 + 6))
    assert done == [(0, 3), (6, 2)]
    monkeypatch.undo()
    monkeypatch.setattr(recording, "CHUNK", 2)
    two = recording.record(block_push.DEMONSTRATOR, 2, 5)
    three = recording.record(block_push.DEMONSTRATOR, 3, 5)
    equal(two, three._replace(trajectories=three.trajectories[:2], modes=three.modes[:2],
                              discarded=two.discarded))


def test_parts_of_the_cache_are_removed_when_all_is_there(taken, home, monkeypatch):
    def interrupted(demonstrator, first, num, seed, threads, show):
        if first:
            raise KeyboardInterrupt
        return recording_file.Recording(taken.trajectories[:num], taken.modes[:num], 0)

    monkeypatch.setattr(recording, "CHUNK", 4)
    monkeypatch.setattr(recording, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recording.recorded(block_push.DEMONSTRATOR, 2, 5)
    folder = home / "vdd_jax" / "demonstrations"
    assert [f.suffix for f in folder.iterdir()] == [".parts"]
    monkeypatch.setattr(recording, "take", lambda d, first, num, seed, threads, show: (
        recording_file.Recording(taken.trajectories[first:], taken.modes[first:], 0)))
    equal(recording.recorded(block_push.DEMONSTRATOR, 2, 5), taken._replace(discarded=0))
    assert [f.suffix for f in folder.iterdir()] == [".npz"]


def test_two_that_need_the_same_recording_at_once(taken, home, monkeypatch, capsys):
    """The second waits for the first, and takes its file."""
    calls, found = [], []
    second = threading.Thread(
        target=lambda: found.append(recording.recorded(block_push.DEMONSTRATOR, 2, 5)))

    def record(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            second.start()
            second.join(1.0)
            assert second.is_alive()
        return taken

    monkeypatch.setattr(recording, "record", record)
    found.append(recording.recorded(block_push.DEMONSTRATOR, 2, 5))
    second.join()
    assert len(calls) == 1
    for one in found:
        equal(one, taken)
    (file,) = (home / "vdd_jax" / "demonstrations").iterdir()
    assert f"waiting for the process that records {file}" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_is_no_failure(taken, home, monkeypatch):
    (home / "vdd_jax").write_text("a file where the directory should be")
    monkeypatch.setattr(recording, "record", lambda *args, **options: taken)
    with pytest.warns(UserWarning, match="cannot be kept"):
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
        with pytest.raises(ValueError, match="number of episodes must be at least 1, got 0"):
            function(block_push.DEMONSTRATOR, 0)


def test_a_demonstrator_that_always_fails_is_told(monkeypatch):
    def idle(mode, view, targets, rng):
        yield 0.0, 0.0

    monkeypatch.setattr(recording, "ATTEMPTS", 2)
    broken = block_push.DEMONSTRATOR._replace(
        script=idle, rules=block_push.RULES._replace(limit=3))
    with pytest.raises(RuntimeError, match=r"keeps failing \(8 attempts\)"):
        recording.record(broken, 4)
