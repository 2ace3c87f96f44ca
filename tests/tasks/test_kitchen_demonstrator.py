"""The scripts solve their sub-tasks; recordings are the same for the same seed, and cached."""

import numpy as np
import pytest

from vdd_jax import config as config_lib
from vdd_jax.tasks import kitchen, record
from vdd_jax.tasks.kitchen import demonstrator
from vdd_jax.tasks.kitchen.subtasks import solved
from vdd_jax.tasks.planar.lapses import Lapse
from vdd_jax.tasks.recording_file import Recording
from vdd_jax.types import Trajectory

pytest.importorskip("gymnasium_robotics", reason="the kitchen extra is not installed")



@pytest.fixture(scope="module")
def singles():
    """Two episodes of each sub-task alone."""
    return demonstrator.attempt(np.arange(14)[:, None] % 7, 3, limit=150)


def test_every_subtask_is_solved(singles):
    """At least one of two of each, 12 of all 14; none solves what it was not asked for."""
    wanted = singles.orders == np.arange(7)
    assert (wanted & singles.solved).reshape(2, 7, 7).any((0, 2)).all()
    assert (wanted & singles.solved).sum() >= 12
    assert (singles.solved & ~wanted).sum() <= 1


def test_doors_stay_open():
    """The arm leaves them without closing them, for the knobs beyond."""
    orders = np.array([[kitchen.NAMES.index(door), 0] for door in (
        "microwave", "hinge cabinet") for _ in range(4)])
    done = demonstrator.attempt(orders, 4, limit=220).solved
    assert np.take_along_axis(done, orders[:, :1], 1).sum() >= 7


def test_what_is_kept_is_what_was_done(singles):
    """Observations before actions, the actions in their range, the end as it was left."""
    for i in np.flatnonzero(singles.good)[:4]:
        observations, actions = singles.trajectories[i]
        assert len(observations) == len(actions) <= 150 and np.abs(actions).max() <= 1
        assert solved(observations[-1])[singles.orders[i, 0]] and not solved(observations[0]).any()


def test_a_demonstration_begins_after_its_lapse():
    """The arm goes where it is shoved to, and the script goes on from there."""
    shove = Lapse(10, 22, (0.5,) * 7 + (1.0,) * 2)
    calm, shoved = (demonstrator.attempt(np.array([[3]]), 6, limit=120, lapses=[lapse])
                    for lapse in (None, shove))
    (before,), (after,) = calm.trajectories, shoved.trajectories
    assert calm.good.all() and shoved.good.all() and len(before.actions) > 22
    moved = after.observations[0, :7] - before.observations[10, :7]
    assert np.linalg.norm(moved) > 0.3 and (after.actions != shove.action).any(1).all()
    late = demonstrator.attempt(np.array([[3]]), 6, limit=120, lapses=[Lapse(119, 130, (0.0,) * 9)])
    np.testing.assert_array_equal(late.trajectories[0].actions, before.actions)
    lost = demonstrator.attempt(np.array([[3]]), 6, limit=40, lapses=[Lapse(5, 50, (0.0,) * 9)])
    assert not lost.good.any() and not len(lost.trajectories[0].actions)


def test_only_what_was_wanted_is_good():
    """And of that only what is long enough to be learned from, and to hold a goal."""
    shown = [Trajectory(np.zeros((n, 30)), np.zeros((n, 9))) for n in (10, 10, 10, 9, 280)]
    orders = np.array([[0, 1, 2, 3]] * 5)
    done = np.zeros((5, 7), bool)
    done[:, :4] = True
    done[1, 3], done[2, 5] = False, True
    found = demonstrator.Attempt(orders, done, shown)
    assert list(found.good) == [True, False, False, False, True]


def test_orders_begin_with_their_mode_and_never_repeat():
    orders = demonstrator.draw_orders([0, 3, 6] * 50, np.random.default_rng(0))
    hinge, slide = demonstrator.HINGE, demonstrator.SLIDE
    assert not any(hinge in o and slide in o[o.index(hinge):] for o in orders.tolist())
    assert (orders[:, 0] == [0, 3, 6] * 50).all()
    assert all(len(set(order)) == 4 for order in orders.tolist())
    assert len({tuple(o) for o in orders.tolist()}) > 100


def test_failed_attempts_are_drawn_again(monkeypatch):
    """Every second fails: as many as wanted of each mode come, the modes in turn."""
    def half(orders, seed, threads=None, lapses=None):
        n = len(orders)
        done = (orders[:, :, None] == np.arange(7)).any(1)
        return demonstrator.Attempt(orders, done & (np.arange(n) % 2 == 0)[:, None], [
            Trajectory(np.full((15, 30), o[0]), np.zeros((15, 9))) for o in orders])

    monkeypatch.setattr(demonstrator, "attempt", half)
    found = demonstrator.record(2)
    assert list(found.modes) == [0, 1, 2, 3, 4, 5, 6] * 2 and found.discarded > 0
    assert [t.observations[0, 0] for t in found.trajectories] == list(found.modes)
    monkeypatch.setattr(demonstrator.Attempt, "good", property(lambda a: np.zeros(len(a.orders),
                                                                                 bool)))
    with pytest.raises(RuntimeError, match="keeps failing"):
        demonstrator.record(1)
    with pytest.raises(ValueError, match="at least 1"):
        demonstrator.record(0)


def quick(orders, seed, threads=None, lapses=None):
    """Attempts, the first of several fails; actions tell the seed."""
    good = (np.arange(len(orders)) > 0) | (len(orders) == 1)
    done = (orders[:, :, None] == np.arange(7)).any(1) & good[:, None]
    rng = np.random.default_rng(seed)
    return demonstrator.Attempt(orders, done, [
        Trajectory(np.full((15, 30), o[0], np.float32),
                   rng.normal(size=(15, 9)).astype(np.float32)) for o in orders])


def test_a_recording_goes_on_where_it_was_left(monkeypatch, tmp_path):
    """To the same bits; a damaged part is made anew."""
    monkeypatch.setattr(demonstrator, "MOST_AT_ONCE", 5)
    asked = []

    def attempt(orders, seed, threads=None, lapses=None):
        if len(asked) == stop:
            raise KeyboardInterrupt
        asked.append(seed)
        return quick(orders, seed)

    stop, whole = None, None
    monkeypatch.setattr(demonstrator, "attempt", attempt)
    whole, blocks = demonstrator.record(3), len(asked)
    asked.clear()
    stop = 3
    with pytest.raises(KeyboardInterrupt):
        demonstrator.record(3, parts=tmp_path)
    first = tmp_path / f"{demonstrator.identity(0)}-block0.npz"
    first.write_bytes(first.read_bytes()[:50])
    asked.clear()
    stop = None
    found = demonstrator.record(3, parts=tmp_path)
    assert len(asked) == blocks - 2 and asked[0] == (0, 0)
    assert found.discarded == whole.discarded
    for a, b in zip(found.trajectories, whole.trajectories, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)


def test_a_file_of_demonstrations(monkeypatch, tmp_path, capsys):
    """By the command that records, and read again by the task."""
    monkeypatch.setattr(demonstrator, "attempt", quick)
    out = tmp_path / "kitchen.npz"
    record.main(["--task=kitchen", "--episodes=9", f"--out={out}"])
    assert "9 episodes of kitchen" in capsys.readouterr().out
    task = config_lib.default().task
    task.update(name="kitchen", demonstrations=str(out))
    trajectories, about = kitchen.load(task)
    assert [t.observations[0, 0] for t in trajectories] == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    assert str(out) in about["demonstrations"]
    with pytest.raises(SystemExit):
        record.main(["--task=kitchen", "--episodes=9", f"--out={tmp_path / 'b.npz'}", "--images"])
    assert "not for kitchen" in capsys.readouterr().err


def test_a_recording_is_made_once(monkeypatch, tmp_path):
    """And described; the second time it comes from the cache."""
    made = []

    def record(episodes_per_mode, seed=0, threads=None, parts=None):
        made.append(episodes_per_mode)
        some = [Trajectory(np.full((4, 30), i, np.float32), np.zeros((4, 9), np.float32))
                for i in range(7 * episodes_per_mode)]
        return Recording(some, np.arange(len(some)) % 7, 3)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(demonstrator, "record", record)
    task = config_lib.default().task
    task.update(name="kitchen", episodes_per_mode=2)
    for _ in range(2):
        trajectories, about = kitchen.load(task)
    assert made == [2] and len(trajectories) == 14
    assert about["discarded"] == 3 and about["episodes"] == 14
    assert "scripted" in about["demonstrations"]
