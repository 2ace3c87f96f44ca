"""Kinematics of the Franka Emika Panda, by the Denavit–Hartenberg parameters (Craig's convention)
and the limits of its joints that its manufacturer gives."""

import numpy as np

# Of each joint, and of the flange last: a, d (metres) and α (radians).
PARAMETERS = ((0.0, 0.333, 0.0), (0.0, 0.0, -np.pi / 2), (0.0, 0.316, np.pi / 2),
              (0.0825, 0.0, np.pi / 2), (-0.0825, 0.384, -np.pi / 2), (0.0, 0.0, np.pi / 2),
              (0.088, 0.0, np.pi / 2))
LIMITS = np.array([(-2.8973, 2.8973), (-1.7628, 1.7628), (-2.8973, 2.8973), (-3.0718, -0.0698),
                   (-2.8973, 2.8973), (-0.0175, 3.7525), (-2.8973, 2.8973)]).T  # radians
TOOL = 0.107 + 0.105  # from the last joint to the flange, and to the benchmark's tcp, metres
TWIST = -np.pi / 4  # of the hand against the flange
DAMPING = 1e-6  # of the inverse, near singular poses
ITERATIONS, PRECISION = 50, 1e-9


def hand_pose(joints: np.ndarray) -> np.ndarray:
    """Joint angles `[T, 7]` → x, y, z of the tcp (metres) and the hand's rotation about the
    vertical (radians, 0 where its x axis is the world's, without jumps over time), `[T, 4]`."""
    position, rotation, _, _ = _forward(joints)
    return np.concatenate(
        [position, np.unwrap(np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]))[:, None]], 1)


def joints_at(pose: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Joint angles `[7]` at which the hand has the pose `[4]` of `hand_pose` and points down.

    Newton's method from `joints` `[7]`, by steps of least norm: of the many that there are, those
    nearby. Out of reach the result is as near as the limits of the joints allow.
    """
    c, s = np.cos(pose[3]), np.sin(pose[3])
    goal = np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])
    for _ in range(ITERATIONS):
        (position,), (rotation,), axes, origins = _forward(joints[None])
        # The rotation still to be done, as a vector, for small ones.
        turn = 0.5 * np.cross(rotation.T, goal.T).sum(0)
        left = np.concatenate([pose[:3] - position, turn])
        if np.abs(left).max() < PRECISION:
            break
        axes, origins = axes[0], origins[0]
        jacobian = np.concatenate([np.cross(axes, position - origins), axes], 1).T
        square = jacobian @ jacobian.T + DAMPING * np.eye(6)
        joints = np.clip(joints + jacobian.T @ np.linalg.solve(square, left), *LIMITS)
    return joints


def _forward(joints: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of `[T, 7]`: position of the tcp `[T, 3]`, rotation of the hand `[T, 3, 3]`, axes of the
    joints `[T, 7, 3]` and a point on each `[T, 7, 3]`."""
    rotation = np.tile(np.eye(3), (len(joints), 1, 1))
    position = np.zeros((len(joints), 3))
    axes, origins = [], []
    for angle, (a, d, alpha) in zip(joints.T, PARAMETERS, strict=True):
        c, s = np.cos(angle), np.sin(angle)
        ca, sa, zero = np.full_like(c, np.cos(alpha)), np.full_like(c, np.sin(alpha)), 0 * c
        position = position + rotation @ np.array([a, -np.sin(alpha) * d, np.cos(alpha) * d])
        rotation = rotation @ np.moveaxis(np.array(
            [[c, -s, zero], [s * ca, c * ca, -sa], [s * sa, c * sa, ca]]), -1, 0)
        axes.append(rotation[..., 2])
        origins.append(position)
    position = position + TOOL * rotation[..., 2]
    c, s = np.cos(TWIST), np.sin(TWIST)
    rotation = rotation @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return position, rotation, np.stack(axes, 1), np.stack(origins, 1)
