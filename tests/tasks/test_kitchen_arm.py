"""The arm goes where it is told, within its joints' ranges."""

import numpy as np
import pytest

from vdd_jax.tasks.kitchen.arm import ARM, Arm, Pose, facing, rotation_vector
from vdd_jax.tasks.kitchen.world import World

pytest.importorskip("gymnasium_robotics", reason="the kitchen extra is not installed")
mujoco = pytest.importorskip("mujoco")


def test_rotation_vectors_by_hand():
    """A turn to the left about the vertical; a gripper that looks down has no approach upwards."""
    np.testing.assert_allclose(rotation_vector(facing(yaw=0.3) @ facing().T), [0, 0, 0.3],
                               atol=1e-9)
    np.testing.assert_allclose(facing()[:, 2], [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(facing(pitch=np.pi / 2)[:, 2], [0, 0, -1], atol=1e-9)
    np.testing.assert_allclose(np.abs(facing(roll=np.pi / 2)[:, 1]), [0, 0, 1], atol=1e-9)
    assert np.linalg.det(facing(0.2, 0.4, 0.6)) == pytest.approx(1.0)
    assert not rotation_vector(np.eye(3)).any()


@pytest.mark.parametrize("place", [(-0.37, 0.49, 2.28), (-0.53, 0.45, 2.6)])
def test_a_place_is_reached_and_held(place):
    """Within 5 mm and 0.03 radians, in spite of gravity and noise; no joint beyond its range."""
    with World([0], 1) as world:
        arm = Arm(world, 0)
        for _ in range(50):
            position, rotation = arm.pose
            way = np.array(place) - position
            way *= min(1.0, 0.05 / max(np.linalg.norm(way), 1e-9))
            turn = rotation_vector(facing() @ rotation.T)
            world.step(arm.action(np.concatenate([way, turn]), 0.0)[None], np.ones(1, bool))
        low, high = arm._model.jnt_range[:ARM].T
        assert (world.states[0, :ARM] > low - 0.01).all()
        assert (world.states[0, :ARM] < high + 0.01).all()
        assert np.linalg.norm(arm.pose.position - place) < 5e-3
        assert np.linalg.norm(rotation_vector(facing() @ arm.pose.rotation.T)) < 0.03


@pytest.mark.parametrize("from_rest", [False, True])
def test_joints_for_a_pose_bring_the_gripper_there(from_rest):
    """From where the episode begins, and from a bent arm."""
    with World([0, 0], 1) as world:
        wanted = Pose(np.array([-0.3, 0.5, 2.3]), facing(yaw=-0.1, pitch=-0.2))
        world.data[1].qpos[:ARM] += [0.4, 0.3, -0.4, 0.3, 0.5, 0.2, -0.3]
        for i in range(2):
            arm = Arm(world, i)
            joints = arm.joints_for(wanted, from_rest)
            assert (arm._low <= joints).all() and (joints <= arm._high).all()
            world.data[i].qpos[:ARM] = joints
            mujoco.mj_forward(world.model, world.data[i])
            assert np.linalg.norm(arm.pose.position - wanted.position) < 1e-3
            assert np.linalg.norm(rotation_vector(wanted.rotation @ arm.pose.rotation.T)) < 0.01


def test_what_is_too_fast_is_slower_and_not_elsewhere():
    """The joints keep their shares where one is at its limit."""
    step = np.array([0.02, 0.03, -0.01, 0.0, 0.0, 0.0])
    with World([0], 1) as world:
        arm = Arm(world, 0)
        joints = arm.joints_for(Pose(np.array([-0.3, 0.45, 2.3]), facing()))  # far from all ends
        for _ in range(30):
            world.step(arm.joint_action(joints, 0.08, 0.0)[None], np.ones(1, bool))
        still, slow, fast = (arm.action(k * step, 0.0)[:ARM] for k in (0.0, 0.5, 1.5))
    shares = [(a - still) / np.linalg.norm(a - still) for a in (slow, fast)]
    assert np.abs(fast).max() == pytest.approx(1.0)
    np.testing.assert_allclose(*shares, atol=1e-6)


def test_joints_go_back_to_rest():
    with World([0], 1) as world:
        arm = Arm(world, 0)
        world.data[0].qpos[0] += 0.5
        for _ in range(15):
            world.step(arm.joint_action(arm.rest, 0.1, 0.0)[None], np.ones(1, bool))
        assert np.abs(world.states[0, :ARM] - arm.rest).max() < 0.05
