"""Reads the official D3IL recordings of stacking: one pickle per demonstration.

They hold joint angles of the arm; here its hand is driven in Cartesian space, so that the commanded
joints become the commanded pose of the hand, and their changes its changes.
"""

from pathlib import Path

import numpy as np

from vdd_jax.tasks.planar import d3il
from vdd_jax.tasks.stacking.kinematics import hand_pose
from vdd_jax.tasks.stacking.physics import snapped
from vdd_jax.types import Trajectory

BOXES = ("red-box", "green-box", "blue-box")


def read(directory: str | Path) -> list[Trajectory]:
    """Official recordings, a directory of pickles, in the order of their file names.

    Returns:
      For each: observations `[L, 17]` and actions `[L, 5]`, float32 (see the task), L one less than
      the frames recorded. As in the benchmark, what the gripper was told is how wide it is next.

    Raises:
      FileNotFoundError: there is no such directory, or no `*.pkl` in it.
      ValueError: a file is damaged, wants to run code, or does not hold what it should.
    """
    return [_demonstration(*pair) for pair in d3il.records(directory)]


def _demonstration(file: Path, record) -> Trajectory:
    pose = hand_pose(d3il.numbers(record, file, "robot", "des_j_pos", 7))
    columns = [pose, snapped(_widths(record, file))]
    for name in BOXES:
        columns.append(d3il.numbers(record, file, name, "pos", 3))
        columns.append(np.tan(d3il.yaw_of(d3il.numbers(record, file, name, "quat", 4)))[:, None])
    moves = d3il.trajectory(columns, pose, file)
    width = columns[1][1:].astype(np.float32)
    return moves._replace(actions=np.concatenate([moves.actions, width], 1))


def _widths(record, file) -> np.ndarray:
    """`robot/gripper_width` `[T]` or `[T, 1]` → `[T, 1]`."""
    robot = record.get("robot") if isinstance(record, dict) else None
    value = robot.get("gripper_width") if isinstance(robot, dict) else None
    if isinstance(value, np.ndarray) and value.ndim == 1:
        record = {"robot": {"gripper_width": value[:, None]}}
    return d3il.numbers(record, file, "robot", "gripper_width", 1)
