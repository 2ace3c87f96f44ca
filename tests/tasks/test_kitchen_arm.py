"""The arm goes where it is told, within its joints' ranges."""

import numpy as np
import pytest

from vdd_jax.tasks.kitchen.arm import ARM, Arm, facing, rotation_vector
from vdd_jax.tasks.kitchen.world import World

pytest.importorskip("gymnasium_robotics", reason="the kitchen extra is not installed")


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


def test_joints_go_back_to_rest():
    with World([0], 1) as world:
        arm = Arm(world, 0)
        world.data[0].qpos[0] += 0.5
        for _ in range(15):
            world.step(arm.joint_action(arm.rest, 0.1, 0.0)[None], np.ones(1, bool))
        assert np.abs(world.states[0, :ARM] - arm.rest).max() < 0.05
