"""Forward kinematics of the Franka Emika Panda, by the Denavit–Hartenberg parameters (Craig's
convention) that its manufacturer gives."""

import numpy as np

# Of each joint, and of the flange last: a, d (metres) and α (radians).
PARAMETERS = ((0.0, 0.333, 0.0), (0.0, 0.0, -np.pi / 2), (0.0, 0.316, np.pi / 2),
              (0.0825, 0.0, np.pi / 2), (-0.0825, 0.384, -np.pi / 2), (0.0, 0.0, np.pi / 2),
              (0.088, 0.0, np.pi / 2))
TOOL = 0.107 + 0.105  # from the last joint to the flange, and to the benchmark's tcp, metres
TWIST = -np.pi / 4  # of the hand against the flange


def hand_pose(joints: np.ndarray) -> np.ndarray:
    """Joint angles `[T, 7]` → x, y, z of the tcp (metres) and the hand's rotation about the
    vertical (radians, 0 where its x axis is the world's, without jumps over time), `[T, 4]`."""
    rotation = np.tile(np.eye(3), (len(joints), 1, 1))
    position = np.zeros((len(joints), 3))
    for angle, (a, d, alpha) in zip(joints.T, PARAMETERS, strict=True):
        c, s = np.cos(angle), np.sin(angle)
        ca, sa, zero = np.full_like(c, np.cos(alpha)), np.full_like(c, np.sin(alpha)), 0 * c
        position = position + rotation @ np.array([a, -np.sin(alpha) * d, np.cos(alpha) * d])
        rotation = rotation @ np.moveaxis(np.array(
            [[c, -s, zero], [s * ca, c * ca, -sa], [s * sa, c * sa, ca]]), -1, 0)
    position = position + TOOL * rotation[..., 2]
    x_axis = rotation @ np.array([np.cos(TWIST), np.sin(TWIST), 0.0])
    return np.concatenate([position, np.unwrap(np.arctan2(x_axis[:, 1], x_axis[:, 0]))[:, None]],
                          1)
