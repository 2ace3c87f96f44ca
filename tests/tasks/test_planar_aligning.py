"""Aligning: contexts, observation, success and modes by hand, strokes, demonstrator."""

import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.tasks.planar import aligning, engine, recording, skills, strokes
from vdd_jax.tasks.planar import aligning_demonstrator as demonstrator
from vdd_jax.tasks.planar import aligning_rules as rules
from vdd_jax.tasks.planar.lapses import Lapse
from vdd_jax.tasks.planar.physics import World

pytest.importorskip("mujoco", reason="mujoco is not installed")
TARGET = [0.5, 0.3, 0.4]


def at(box, target=TARGET, tcp=rules.START):
    begin = aligning.begin(np.array([[box, target]], float), 1)
    return World(rules.SCENE, begin._replace(tcp=np.array([tcp])), 1)


def test_drawn_contexts_are_the_benchmarks():
    contexts = aligning.draw_contexts(np.random.default_rng(0), 3000)
    low, high = np.moveaxis(np.array(rules.AREAS), 1, 0)
    assert (contexts[..., :2] >= low).all() and (contexts[..., :2] <= high).all()
    np.testing.assert_allclose(contexts[..., :2].min(0), low, atol=1e-3)
    np.testing.assert_allclose(contexts[..., :2].max(0), high, atol=1e-3)
    assert 1.5 < np.abs(contexts[..., 2]).max() <= np.pi / 2


def test_the_observation_by_hand():
    seen = rules.observe(at([0.45, -0.2, -0.6]))[0]
    half = [np.cos(-0.3), 0, 0, np.sin(-0.3)]
    target = [0.5, 0.3, 0.0, np.cos(0.2), 0, 0, np.sin(0.2)]
    np.testing.assert_allclose(
        seen, [*rules.START, *rules.START, 0.45, -0.2, -0.009, *half, *target], atol=2e-3)


@pytest.mark.parametrize("box, success", [
    ([0.5, 0.3, 0.4], True),
    ([0.514, 0.3, 0.4], True),  # 9 mm below the target: 1.66 cm apart
    ([0.517, 0.3, 0.4], False),  # 1.92 cm
    ([0.5, 0.3, 0.4 + 0.14], True),  # 0.0446 π
    ([0.5, 0.3, 0.4 + 0.16], False),  # 0.051 π
    ([0.5, 0.3, 0.4 + np.pi], False),  # walls have colours: a half turn is not the same
    ([0.5, 0.3, 0.4 + 2 * np.pi], True),
])
def test_success_by_hand(box, success):
    world = at(box)
    assert rules.solved(world, rules.inside(world))[0] == success


@pytest.mark.parametrize("tcp, mode", [
    ((0.5, 0.3, 0.25), 0), ((0.53, 0.33, 0.25), 0), ((0.5, 0.235, 0.25), 1), ((0.6, 0.3, 0.25), 1),
])
def test_modes_by_hand(tcp, mode):
    world = at([0.5, 0.3, 0.0], tcp=tcp)
    assert rules.mode(world, np.zeros((1, 1, 1)), rules.inside(world))[0] == mode


def test_the_rod_is_lifted_over_a_wall_and_lowered_into_the_box():
    world = at([0.5, -0.1, 0.0], tcp=(0.5, -0.25, 0.25))
    here = np.ones(1, bool)
    for action in (
            ([0, 0, 0.01],) * 9 + ([0, 0.01, 0],) * 15 + ([0, 0, 0],) * 40 + ([0, 0, -0.01],) * 9):
        world.step(np.array([action], float), here)
    for _ in range(20):
        world.step(np.zeros((1, 3)), here)
    np.testing.assert_allclose(world.tcp[0], [0.5, -0.1, 0.25], atol=2e-3)
    np.testing.assert_allclose(world.positions[0, 0, :2], [0.5, -0.1], atol=2e-3)
    for _ in range(30):  # and takes the box along
        world.step(np.array([[0, 0.006, 0]]), here)
    assert world.positions[0, 0, 1] > 0.0


def test_predicted_strokes_turn_as_a_pushed_box_does():
    """Straight through the centre: no turn. Beside it: away from the side that is pushed."""
    problem = demonstrator.FROM_OUTSIDE
    stroke = strokes.Stroke(np.array([1, 1, 1]), np.array([0.0, 0.03, -0.03]), np.zeros(3))
    poses, holds = strokes.predict(np.array([[0.5, 0.0, 0.0]]), stroke, problem)
    np.testing.assert_allclose(poses[0, 0, 9], [0.5, 0.05, 0.0], atol=1e-9)
    # Offsets along face 1 count towards −x: a push at the left turns clockwise.
    assert poses[0, 1, 9, 2] < -0.1 and poses[0, 2, 9, 2] > 0.1
    np.testing.assert_allclose(poses[0, 1, 9, 1], poses[0, 2, 9, 1])
    assert holds[0].all() and not holds[1].all()


@pytest.mark.parametrize("problem", [demonstrator.FROM_OUTSIDE, demonstrator.FROM_INSIDE])
def test_plans_end_in_the_target_where_the_model_is_exact(problem):
    rng, pose, target = np.random.default_rng(0), np.array([0.5, -0.2, 0.3]), (0.55, 0.28, -0.4)
    for _ in range(12):
        if strokes.remaining(pose, target, problem) == 0:
            break
        face, offset, direction, length = strokes.plan(pose, target, (0.5, -0.35), problem, rng)
        stroke = strokes.Stroke(*(np.array([v]) for v in (face, offset, direction)))
        poses, _ = strokes.predict(pose[None], stroke, problem)
        pose = poses[0, 0, round(length / strokes.RESOLUTION) - 1]
    assert strokes.remaining(pose, target, problem) == 0


@pytest.mark.parametrize("problem", [demonstrator.FROM_OUTSIDE, demonstrator.FROM_INSIDE])
def test_no_plan_begins_with_a_trifle(problem):
    """A stroke is worth its approach, or ends in the target."""
    rng = np.random.default_rng(3)
    for pose, target in rules.draw_contexts(rng, 12):
        face, offset, direction, length = strokes.plan(pose, target, (0.5, -0.35), problem, rng)
        stroke = strokes.Stroke(*(np.array([v]) for v in (face, offset, direction)))
        poses, holds = strokes.predict(pose[None], stroke, problem)
        end = round(length / strokes.RESOLUTION) - 1
        assert holds[0, end]
        left = strokes.remaining(poses[0, 0, end], target, problem)
        assert length >= strokes.SHORTEST - 1e-9 or left == 0


def test_a_box_that_turns_away_is_astray():
    """In 10 cm straight through the centre nothing turns; the test's box does, by 0.3 radians."""
    box, touch = (0.5, 0.0, 0.0), (0.5, -0.065)
    lost = demonstrator.astray(box, touch, (1, 0.0, 0.0, 0.1), demonstrator.FROM_OUTSIDE)
    at = lambda yaw: skills.View((0.5, 0.0), (0.5, 0.0), [(0.5, 0.065, yaw)], 9)  # noqa: E731
    assert not lost(at(0.1)) and lost(at(0.3)) and lost(at(-0.3))


def nearly_half_a_turn(rng, num):
    """The starts that take longest: the box has to turn by more than 2.5 radians."""
    contexts = rules.draw_contexts(rng, 100 * num)
    turn = np.abs(strokes.wrap(contexts[:, 1, 2] - contexts[:, 0, 2]))
    return aligning.begin(contexts[turn > 2.5][:num], num)


def test_boxes_are_turned_around_from_outside():
    worst = aligning.DEMONSTRATOR._replace(starts=nearly_half_a_turn)
    assert recording.attempt(worst, [1] * 10, 0, threads=2).success.all()


def test_a_shoved_hand_plans_anew():
    """Before, during and after a stroke, from inside and from outside."""
    shoves = [Lapse(begin, begin + 15, (0.008, 0.008, 0.0)) for begin in (30, 60, 90, 120)]
    modes = [0, 1] * 4
    found = recording.attempt(aligning.DEMONSTRATOR, modes, 2, threads=2,
                              lapses=[shove for shove in shoves for _ in range(2)])
    assert found.success.sum() >= 7
    np.testing.assert_array_equal(found.mode[found.success], np.array(modes)[found.success])


@pytest.fixture(scope="module")
def attempts():
    return recording.attempt(aligning.DEMONSTRATOR, [0, 1, 0, 1], 1, threads=2)


def test_both_modes_are_demonstrated(attempts):
    assert attempts.success.all()
    np.testing.assert_array_equal(attempts.mode, [0, 1, 0, 1])
    assert (attempts.steps < 400).all()
    z = attempts.observations[..., 5]
    assert (z[[0, 2]].max(1) > 0.31).all() and (z[[1, 3]].max(1) < 0.27).all()


def test_the_number_of_threads_does_not_matter():
    policy = lambda h, v, k: 0.004 * jax.random.normal(k, (len(h), 3))  # noqa: E731
    one, two = (aligning.rollout(policy, jax.random.key(0), 4, episode_limit=20, threads=threads)
                for threads in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(aligning.past_actions(one.observations), one.actions[:, :-1],
                               atol=1e-6)
    assert one.observations.shape == (4, 20, 20)


def test_contexts_and_entropy():
    still = lambda h, v, k: jnp.zeros((len(h), 3))  # noqa: E731
    episodes = aligning.rollout(still, jax.random.key(0), 16, episode_limit=2, threads=1)
    np.testing.assert_array_equal(episodes.context, np.arange(16) % 2)  # 8 episodes each
    n = 4
    by_hand = engine.Episodes(np.array([1, 1, 1, 0], bool), np.array([0, 0, 0, 1], bool),
                              np.full(n, 9), np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1]),
                              *[None] * 6)
    assert aligning.score(by_hand)["entropy"] == pytest.approx(0.5)


def test_official_contexts():
    root = os.environ.get("VDD_SHARED_DATA")
    if not root:
        pytest.skip("VDD_SHARED_DATA is not set: no official contexts")
    contexts = aligning.read_contexts(os.path.join(root, "d3il_contexts", "aligning"))
    assert contexts.shape == (60, 2, 3)
    low, high = np.moveaxis(np.array(rules.AREAS), 1, 0)
    assert (contexts[..., :2] >= low - 1e-6).all() and (contexts[..., :2] <= high + 1e-6).all()
    np.testing.assert_allclose(contexts[0, :, 2], np.deg2rad([-43.513584, -58.28319]), atol=1e-3)


def test_official_demonstrations_are_read(tmp_path):
    rng = np.random.default_rng(0)
    pose = {"pos": rng.normal(size=(5, 3)), "quat": np.tile([1.0, 0, 0, 0], (5, 1))}
    robot = {"des_c_pos": rng.normal(size=(5, 3)), "c_pos": rng.normal(size=(5, 3))}
    record = {"robot": robot, "push-box": pose, "target-box": pose}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(record))
    (trajectory,) = aligning.read(tmp_path)
    assert trajectory.observations.shape == (4, 20) and trajectory.actions.shape == (4, 3)
    np.testing.assert_allclose(
        trajectory.observations[2],
        [*robot["des_c_pos"][2], *robot["c_pos"][2], *2 * [*pose["pos"][2], 1, 0, 0, 0]],
        rtol=1e-5)
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"robot": robot, "push-box": pose}))
    with pytest.raises(ValueError, match="b.pkl: no array 'target-box/pos'"):
        aligning.read(tmp_path)
