"""Sorting: contexts, regions, delivery orders, success and demonstrators for 2, 4 and 6 boxes."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.tasks.planar import engine, recording, sorting
from vdd_jax.tasks.planar.physics import World
from vdd_jax.tasks.planar.sorting import SORTING_2, SORTING_4, SORTING_6

pytest.importorskip("mujoco", reason="mujoco is not installed")
EVERY = (SORTING_2, SORTING_4, SORTING_6)


@pytest.mark.parametrize("task, size, modes, limit", [
    (SORTING_2, 10, 2, 500), (SORTING_4, 16, 6, 700), (SORTING_6, 22, 20, 1200)])
def test_sizes(task, size, modes, limit):
    spec = task.spec(None)
    assert (spec.observation_dim, spec.action_dim, spec.num_modes, spec.episode_limit) == (
        size, 2, modes, limit)
    assert spec.name == f"sorting_{task.num_boxes}" and task.COMPILED is False


def test_orders_are_numbered_with_red_first():
    assert sorting.orders(2) == [(0, 1), (1, 0)]
    assert sorting.orders(4) == [(0, 0, 1, 1), (0, 1, 0, 1), (0, 1, 1, 0), (1, 0, 0, 1),
                                 (1, 0, 1, 0), (1, 1, 0, 0)]
    assert len(set(sorting.orders(6))) == 20


@pytest.mark.parametrize("task", EVERY)
def test_contexts_fill_different_cells_and_do_not_overlap(task):
    contexts = task.draw_contexts(np.random.default_rng(0), 200)
    assert contexts.shape == (200, task.num_boxes, 3)
    assert not sorting.overlap(contexts).any()
    assert np.abs(contexts[..., 2]).max() <= np.pi / 2
    cells = sorting.CELLS
    at = contexts[:, :, None, :2]
    within = ((at >= cells[:, 0]) & (at <= cells[:, 1])).all(-1)  # `[C, K, 6]`
    assert (within.sum(-1) == 1).all() and within.sum(1).max() == 1
    assert (within.mean(0) > 0.05).all()  # every box starts in every cell


def test_overlap_by_hand():
    def pair(x, yaw):
        return np.array([[0.0, 0.0, 0.0], [x, 0.0, yaw]])

    assert not sorting.overlap(pair(0.065, 0.0))
    assert sorting.overlap(pair(0.058, 0.0))
    assert sorting.overlap(pair(0.065, np.pi / 4))  # its corner reaches 4.2 cm
    assert not sorting.overlap(pair(0.076, np.pi / 4))


def world(task, boxes):
    boxes = np.concatenate([np.array(boxes), np.zeros((len(boxes), 1))], 1)
    return World(task.SCENE, task.begin(boxes[None], 1), 1)


@pytest.mark.parametrize("boxes, success", [
    ([[0.4, 0.3], [0.6, 0.3]], True),
    ([[0.6, 0.3], [0.4, 0.3]], False),  # each in the other's region
    ([[0.31, 0.23], [0.715, 0.4]], True),
    ([[0.29, 0.3], [0.6, 0.3]], False),
    ([[0.4, 0.3], [0.51, 0.3]], False),  # between the regions
    ([[0.4, 0.21], [0.6, 0.3]], False),
])
def test_success_by_hand(boxes, success):
    now = world(SORTING_2, boxes)
    assert sorting.solved(now, sorting.inside(now))[0] == success


def test_modes_by_hand():
    def events(*own):  # steps at which reds then blues are delivered
        found = np.full((1, len(own), 2), -1)
        half = len(own) // 2
        for box, step in enumerate(own):
            found[0, box, int(box >= half)] = step
        return found

    for own, mode in (((3, 9), 0), ((9, 3), 1), ((1, 2, 3, 4), 0), ((1, 3, 2, 4), 1),
                      ((2, 4, 1, 3), 4), ((3, 4, 1, 2), 5), ((4, 1, 3, 2), 2),
                      ((1, -1, 2, 3), -1), ((5, 9), 0), ((5, 5), 0)):
        assert sorting.mode(None, events(*own), None)[0] == mode, own


@pytest.mark.parametrize("task, seed", [(SORTING_2, 0), (SORTING_4, 1), (SORTING_6, 2)])
def test_demonstrations(task, seed):
    modes = np.arange(4) * task.NUM_MODES // 4
    attempts = recording.attempt(task.DEMONSTRATOR, modes, seed, threads=2)
    assert attempts.success.all() and (attempts.steps < task.EPISODE_LIMIT).all()
    np.testing.assert_array_equal(attempts.mode, modes)
    sizes = np.linalg.norm(attempts.actions, axis=-1)[attempts.mask]
    assert sizes.max() <= 0.0125 + 1e-6


def test_rollout_contexts_and_threads():
    policy = lambda h, v, k: 0.004 * jax.random.normal(k, (len(h), 2))  # noqa: E731
    one, two = (SORTING_4.rollout(policy, jax.random.key(0), 36, episode_limit=5, threads=threads)
                for threads in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.context, np.arange(36) % 2)  # 18 episodes each
    np.testing.assert_allclose(SORTING_4.past_actions(one.observations), one.actions[:, :-1],
                               atol=1e-6)
    given = SORTING_2.rollout(lambda h, v, k: jnp.zeros((len(h), 2)), jax.random.key(0), 3,
                              contexts=np.array([[[0.42, -0.12, 0.0], [0.6, 0.0, 0.3]]]),
                              episode_limit=2, threads=1)
    np.testing.assert_allclose(given.observations[:, 0, 4:6], np.tile([0.42, -0.12], (3, 1)),
                               atol=1e-3)


def test_contexts_without_success_are_dropped():
    success = np.array([1, 1, 0, 0], bool)
    ran = engine.Episodes(success, ~success, np.full(4, 9), np.array([0, 1, 0, 1]),
                          np.array([0, 0, 1, 1]), *[None] * 6)
    assert SORTING_2.score(ran)["entropy"] == pytest.approx(1.0)
    nothing = ran._replace(success=np.zeros(4, bool))
    assert SORTING_2.score(nothing)["entropy"] == 0.0


def test_official_contexts_and_demonstrations_are_read(tmp_path):
    pose = [np.array([0.45, -0.1, 10.0], np.float32), np.array([1.0, 0.0, 0.0, 0.0])]
    file = tmp_path / "test_contexts.pkl"
    file.write_bytes(pickle.dumps([[pose] * 6] * 3))  # the benchmark's pairs, always six
    assert SORTING_4.read_contexts(tmp_path).shape == (3, 4, 3)
    file.unlink()
    frames = {"pos": np.zeros((5, 3)), "quat": np.tile([1.0, 0, 0, 0], (5, 1))}
    record = {"robot": {"des_c_pos": np.ones((5, 3)), "c_pos": np.zeros((5, 3))},
              "red-box1": frames, "blue-box1": frames}
    (tmp_path / "env.pkl").write_bytes(pickle.dumps(record))
    (trajectory,) = SORTING_2.read(tmp_path)
    assert trajectory.observations.shape == (4, 10)
    with pytest.raises(ValueError, match="no array 'red-box2/pos'"):
        SORTING_4.read(tmp_path)


def test_other_numbers_of_boxes_are_refused():
    with pytest.raises(ValueError, match="2, 4 or 6 boxes, not 3"):
        sorting.Sorting(3)
