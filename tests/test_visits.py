"""States that a student comes to when it drives, and what it learns there."""

from collections import namedtuple
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_distill_warm_start import fake_task
from tiny_config import tiny, tiny_avoiding

from vdd_jax import closed_loop, distill, policy, problem, sharding, stages, visits
from vdd_jax.checkpoint import CheckpointError
from vdd_jax.data import Scaler
from vdd_jax.metrics import TrainingDiverged
from vdd_jax.tasks import recording_file
from vdd_jax.types import Batch

pytest_plugins = "smoke_run"


def episodes(lengths=(3, 1, 2), limit=4):
    """Episode i sees 100 i + t and does −(100 i + t) at step t; 7 stands after its end."""
    n, steps = len(lengths), np.arange(limit)
    mask = steps < np.array(lengths)[:, None]
    number = 100.0 * np.arange(n)[:, None] + steps
    return SimpleNamespace(
        mask=mask, mode=10 + np.arange(n), success=np.arange(n) > 0,
        observations=np.where(mask, number, 7)[..., None] * np.ones(4, np.float32),
        actions=np.where(mask, -number, 7)[..., None] * np.ones(2, np.float32))


def test_of_an_episode_what_was_executed_is_kept():
    """Not what stands after its end."""
    found, kept = visits.as_recording(episodes())
    assert kept == [0, 1, 2]
    assert [len(t.actions) for t in found.trajectories] == [3, 1, 2]
    np.testing.assert_array_equal(found.trajectories[2].observations[:, 0], [200, 201])
    np.testing.assert_array_equal(found.trajectories[2].actions[:, 1], [-200, -201])
    np.testing.assert_array_equal(found.modes, [10, 11, 12])
    assert found.discarded == 0


@pytest.mark.parametrize("what", ["observations", "actions"])
def test_an_episode_of_numbers_that_are_not_finite_is_left_out(what):
    """The others are kept, each with its mode; after an end anything may stand."""
    ran = episodes()
    getattr(ran, what)[0, 1, 0] = np.inf
    getattr(ran, what)[1, 3, 0] = np.nan
    found, kept = visits.as_recording(ran)
    assert kept == [1, 2]
    np.testing.assert_array_equal(found.modes, [11, 12])
    assert [len(t.actions) for t in found.trajectories] == [1, 2] and found.discarded == 1


@pytest.mark.parametrize("parts, found", [((), []), ((0.7, 0.4), [8, 14]), ((0.01, 0.02), [1])])
def test_the_iterations_of_visits(parts, found):
    """In order, of 20; never before the first."""
    assert visits.steps(tiny(distill__visits=parts).distill) == found


def scaler(dim=4):
    one, none = jnp.ones(dim), jnp.zeros(dim)
    return Scaler(none[:2], one[:2], none, one, one)


@pytest.fixture
def driven(monkeypatch):
    """Visits of which the episodes are those of `episodes`; what was asked for, in order."""
    asked = []

    def run(config, actor, key, num):
        asked.append((actor, num, np.asarray(jax.random.key_data(key)).tolist()))
        return episodes(), 1.0

    def of_student(config, apply, params, scaler, how, goals, min_weight):
        assert goals is None
        return params, how, min_weight

    monkeypatch.setattr(closed_loop, "of_student", of_student)
    monkeypatch.setattr(closed_loop, "run", run)
    return asked


def avoiding(**values):
    return tiny_avoiding(distill__actions="teacher", distill__visits=(0.4, 0.7),
                         distill__visited_episodes=3, **values)


def test_a_visit_is_kept(tmp_path, driven):
    """As a recording that says who drove; the student acts as the policy would, from starts of
    its own at each visit; one that is there stays."""
    config = avoiding(policy__acting="sample")
    for step, params in ((8, "early"), (14, "late"), (8, "another")):
        visits.drive(config, tmp_path, step, None, params, scaler())
    actors, numbers, keys = zip(*driven, strict=True)
    assert actors == (("early", "sample", 0.1), ("late", "sample", 0.1))
    assert numbers == (3, 3) and keys[0] != keys[1]
    about = recording_file.read_about(tmp_path / "distill" / "visited" / "8.npz")
    assert about == {"task": "avoiding", "driven_by": "the student of iteration 8",
                     "success": pytest.approx(2 / 3), "episodes": [0, 1, 2]}


def test_a_visit_without_a_finite_episode_is_told(tmp_path, driven, monkeypatch):
    """And leaves nothing behind."""
    ran = episodes()
    ran.actions[:, 0] = np.nan
    monkeypatch.setattr(closed_loop, "run", lambda *_: (ran, 1.0))
    with pytest.raises(TrainingDiverged, match="iteration 8 drove 3 .*distill.learning_rate"):
        visits.drive(avoiding(), tmp_path, 8, None, None, scaler())
    assert not list(tmp_path.iterdir())


def test_what_was_visited_so_far(tmp_path, driven):
    """Nothing, the first visit's steps, those of both; scaled windows of them."""
    config = avoiding()
    for step in (8, 14):
        visits.drive(config, tmp_path, step, None, None, scaler())
    assert visits.visited(config, tmp_path, 7, scaler()) is None
    first, both = (visits.visited(config, tmp_path, until, scaler()) for until in (13, 20))
    numbers = [0, 1, 2, 100, 200, 201]
    np.testing.assert_array_equal(first.observation.observations[:, -1, 0], numbers)
    np.testing.assert_array_equal(first.observation.observations[:, 0, 0], [0, 0, 1, 100, 200, 200])
    np.testing.assert_array_equal(first.observation.past_actions[2], [[-1, -1]])
    np.testing.assert_array_equal(both.observation.observations[:, -1, 0], numbers * 2)


def test_goals_are_pursued(tmp_path, driven, monkeypatch):
    """By the student as it drives, those of as many demonstrations as it drives episodes, and by
    the teacher where it is asked: of each episode its own, also where another was left out."""
    goals = jnp.arange(2.0)[:, None, None] * jnp.ones((2, 1, 4)) + 50.0
    wanted, pursued = [], []
    monkeypatch.setattr(problem, "goals",
                        lambda config, number: wanted.append(number) or goals)
    monkeypatch.setattr(closed_loop, "of_student", lambda *given: pursued.append(given[5]))
    ran = episodes((2, 1, 2, 1))
    ran.actions[1] = np.nan
    monkeypatch.setattr(closed_loop, "run", lambda *_: (ran, 1.0))
    config = avoiding()
    for step in (8, 14):
        visits.drive(config, tmp_path, step, None, None, scaler())
    found = visits.visited(config, tmp_path, 14, scaler())
    assert set(wanted) == {3} and pursued[0] is goals
    assert found.observation.goal.shape == (10, 1, 4)
    np.testing.assert_array_equal(found.observation.goal[:, 0, 0], [50, 50, 50, 50, 51] * 2)


@pytest.mark.parametrize("damage", [lambda f: f.write_bytes(b"no zip"), lambda f: f.unlink()])
def test_damaged_visits_are_refused(tmp_path, driven, damage):
    """In a sentence that says what to do."""
    config = avoiding()
    visits.drive(config, tmp_path, 8, None, None, scaler())
    damage(tmp_path / "distill" / "visited" / "8.npz")
    with pytest.raises(CheckpointError, match="iteration 9 cannot be read from .*another workdir"):
        visits.visited(config, tmp_path, 9, scaler())


@pytest.mark.parametrize("number", [30, 60])
def test_the_teacher_is_asked_at_the_states(number):
    """Each beside its own action; no state twice where there are enough."""
    fake = vars(fake_task(rows=40))
    task, config = namedtuple("Task", fake)(**fake), tiny().distill
    found = visits.asked(config, task, task.data, number, jax.random.key(1))
    newest = np.asarray(found.observation.observations[:, -1, 0])
    assert found.action.shape == (number, 2)
    np.testing.assert_allclose(found.action[:, 0], newest, rtol=1e-5, atol=1e-5)
    given = np.asarray(task.data.observation.observations[:, -1, 0])
    assert set(newest) <= set(given) and len(set(newest)) >= min(number, 25)
    assert len(set(newest)) == number or number > 40


@pytest.mark.parametrize("split", [False, True])
def test_rows_of_a_resident_set_are_replaced(split):
    """The others stay, and each array where it lies."""
    mesh = sharding.make_mesh(tiny())
    data = Batch(jnp.arange(14.0).reshape(7, 2), -jnp.arange(7.0)[:, None])
    held, draw = sharding.resident(data, mesh, split)
    places = jax.tree.map(lambda v: v.sharding, held)
    found = sharding.replaced(held, jax.tree.map(lambda v: v[:3] + 100.0, data), 4)
    assert jax.tree.map(lambda v: v.sharding, found) == places
    np.testing.assert_array_equal(found.action[:7, 0], [0, -1, -2, -3, 100, 99, 98])
    np.testing.assert_array_equal(found.observation[:4], data.observation[:4])
    assert draw(found, jax.random.key(0), 0, 4).action.shape == (4, 1)


def test_a_run_learns_from_its_visits(tmp_path, monkeypatch):
    """A whole run: half of its rows are states of its episodes, and one that was stopped between
    two visits ends as it does, without driving again."""
    stages.run(avoiding(stages=("train_teacher",)), tmp_path / "teacher")
    values = dict(stages=("distill",), distill__teacher_actions=40, run__steps_per_dispatch=2,
                  run__checkpoint_every=2, run__log_every=2,
                  teacher__workdir=str(tmp_path / "teacher"))
    learned, drives, replaced, run = [], [], sharding.replaced, closed_loop.run

    def spy(data, rows, start):
        found = replaced(data, rows, start)
        learned.append((start, jax.tree.map(np.asarray, found)))
        return found

    def counted(*args):
        drives.append(args[-1])
        return run(*args)

    monkeypatch.setattr(sharding, "replaced", spy)
    monkeypatch.setattr(closed_loop, "run", counted)
    config = avoiding(**values)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    distill.run(config, whole)
    distill.run(config, parts, stop_at=10)
    distill.run(config, parts)
    assert drives == [3] * 4 and len(learned) == 5  # the first visit is read again by the resume
    (start, early), (_, late), (_, before), (_, again), (_, after) = learned
    num = len(late.action)
    assert start == num - round(num / 2)
    jax.tree.map(np.testing.assert_array_equal, (early, late), (before, after))
    jax.tree.map(np.testing.assert_array_equal, early, again)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:start], b[:start]), early, late)
    bring = problem.build(config, whole).scaler.scale_observation
    for rows, files in ((early, ("8",)), (late, ("8", "14"))):
        seen = np.concatenate([
            bring(t.observations) for file in files for t in recording_file.read(
                whole / "distill" / "visited" / f"{file}.npz").trajectories])
        shown = rows.observation.observations[start:, -1]
        apart = np.abs(shown[:, None] - seen[None]).max(-1)
        assert apart.min(1).max() < 1e-5
    jax.tree.map(np.testing.assert_array_equal, *(policy.load(w).params for w in (whole, parts)))
