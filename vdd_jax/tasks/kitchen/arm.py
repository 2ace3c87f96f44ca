"""The arm driven in space: damped least squares on the model's Jacobian, for demonstrations.

    Δq = Jᵀ (J Jᵀ + λ² I)⁻¹ e + (I − J⁺ J) k (q_rest − q)

with e the displacement `[6]` wanted of the gripper in one control step (Wampler 1986).
"""

from typing import NamedTuple

import numpy as np

from vdd_jax.tasks.kitchen.world import JOINTS, LEAD, packages, robot

ARM = 7  # joints without the fingers
SITE = "end_effector"  # between the fingers, about 5 cm before their tips
OPEN = 0.04  # of each finger, metres
DAMPING = 0.02  # λ
WEIGHTS = np.array([1.0, 1.0, 1.0, 0.15, 0.15, 0.15])  # where not all can be had, places count
MARGIN = 0.02  # of the joints' ranges, radians
PULL = 0.1  # k, per control step
# How far set-points must lead for a displacement to happen within a step: the servos are slow.
GAIN = 1.0 / (1.0 - np.exp(-0.08 * np.array([870 / 100] * 4 + [120 / 10] * 3)))
ROUNDS = 40  # of the search for joints
EXACT = 0.01  # metres, and as many radians as `WEIGHTS` count for that
STIFFNESS = np.array([870.0] * 4 + [120.0] * 3)


class Pose(NamedTuple):
    """Where the gripper is or shall be."""

    position: np.ndarray  # `[3]` metres
    rotation: np.ndarray  # `[3, 3]`; columns: the gripper's thickness, fingers' motion, approach


class Arm:
    """The arm of one episode of a `World`."""

    def __init__(self, world, index: int):
        mujoco, _ = packages()
        self._mujoco, self._imagined = mujoco, mujoco.MjData(world.model)
        self._world, self._index = world, index
        self._data, self._model = world.data[index], world.model
        self._site = self._model.site(SITE).id
        self._jacobian = mujoco.mj_jacSite
        self._j = np.zeros((6, self._model.nv))
        low, high = np.stack([self._model.jnt_range[:ARM], robot().robot_pos_bound[:ARM]]).T
        self._low, self._high = low.max(1) + MARGIN, high.min(1) - MARGIN
        self.rest = np.array(world.states[index][:ARM])

    @property
    def pose(self) -> Pose:
        """Of the gripper now."""
        return Pose(self._data.site_xpos[self._site].copy(),
                    self._data.site_xmat[self._site].reshape(3, 3).copy())

    @property
    def state(self) -> np.ndarray:
        """`[30]`, see `World`."""
        return self._world.states[self._index]

    @property
    def observed(self) -> np.ndarray:
        """`[30]`, see `World`."""
        return self._world.observed[self._index]

    def site(self, name: str) -> np.ndarray:
        """Where a site of the model is now, `[3]`."""
        return self._data.site(name).xpos.copy()

    def action(self, step: np.ndarray, fingers: float, idle: float = 0.0) -> np.ndarray:
        """The action `[9]` that moves the gripper.

        Args:
          step: `[6]`, displacement in metres and rotation vector in radians, in the world's frame.
          fingers: their opening, metres.
          idle: most that a joint moves towards its rest where the gripper does not mind, radians.
        """
        self._jacobian(self._model, self._data, self._j[:3], self._j[3:], self._site)
        j, q = WEIGHTS[:, None] * self._j[:, :ARM], self._data.qpos[:ARM]
        step = WEIGHTS * step
        home = np.clip(PULL * (self.rest - q), -idle, idle)
        free = np.ones(ARM)
        for _ in range(3):  # a joint that would leave its range stays, the others do the rest
            k = j * free
            inverse = k.T @ np.linalg.inv(k @ k.T + DAMPING**2 * np.eye(6))
            idle = home - np.linalg.pinv(k, rcond=0.02) @ (k @ home)
            change = inverse @ step + free * idle
            beyond = (q + change < self._low) & (change < 0) | (q + change > self._high) & (
                change > 0)
            if not (beyond & (free > 0)).any():
                break
            free[beyond] = 0.0
        return self._moved(change, fingers)

    def joints_for(self, pose: Pose, from_rest: bool = False) -> np.ndarray:
        """Joints `[7]` within their ranges that bring the gripper into a pose, or near it.

        Of those found from here and from `rest` the nearer ones; those from here only if they
        bring it there: an arm may be bent so that joints end before. `from_rest`: those from
        `rest`, whatever the arm does now.
        """
        here = self._data.qpos[:ARM].copy()
        nearer, error = self._search(pose, here)
        other, _ = self._search(pose, self.rest)
        if from_rest or error > EXACT or np.abs(other - here).max() < np.abs(nearer - here).max():
            return other
        return nearer

    def _search(self, pose: Pose, joints: np.ndarray) -> tuple[np.ndarray, float]:
        """Joints `[7]` found from `joints`, and how far from the pose they are, weighted."""
        data, size = self._imagined, np.inf
        for _ in range(ROUNDS):
            data.qpos[:ARM] = joints
            self._mujoco.mj_kinematics(self._model, data)
            self._mujoco.mj_comPos(self._model, data)
            self._jacobian(self._model, data, self._j[:3], self._j[3:], self._site)
            turn = rotation_vector(pose.rotation @ data.site_xmat[self._site].reshape(3, 3).T)
            error = WEIGHTS * np.append(pose.position - data.site_xpos[self._site], turn)
            size = np.linalg.norm(error)
            j = WEIGHTS[:, None] * self._j[:, :ARM]
            change = j.T @ np.linalg.solve(j @ j.T + DAMPING**2 * np.eye(6), error)
            joints = np.clip(joints + np.clip(change, -0.3, 0.3), self._low, self._high)
        return joints, size

    def joint_action(self, joints, speed: float, fingers: float, noise=0.0) -> np.ndarray:
        """The action `[9]` that moves all joints towards `joints` `[7]`, the one that has to go
        farthest by `speed` radians at most; `noise` `[7]` is added."""
        left = joints - self._data.qpos[:ARM]
        return self._moved(left * min(1.0, speed / max(np.abs(left).max(), 1e-9)) + noise, fingers)

    def _moved(self, change: np.ndarray, fingers: float) -> np.ndarray:
        # servos sag: what gravity takes away is added
        q, most = self._data.qpos[:ARM], LEAD * 0.08
        sag = q + self._data.qfrc_bias[:ARM] / STIFFNESS - self.observed[:ARM]
        lead = GAIN * change
        # a joint at its limit slows the others down, or the gripper would leave its way
        room = (most - np.sign(lead) * sag) / np.maximum(np.abs(lead), 1e-9)
        lead = sag + lead * np.clip(room.min(), 0.0, 1.0)
        lead = np.append(lead, np.array([fingers, fingers]) - self.observed[ARM:JOINTS])
        return np.clip(lead / most, -1.0, 1.0)


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """`[3, 3]` rotation → axis × angle `[3]`, for angles below π."""
    skew = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0],
                     matrix[1, 0] - matrix[0, 1]])
    sine, cosine = np.linalg.norm(skew) / 2, (np.trace(matrix) - 1) / 2
    return skew * (0.5 if sine < 1e-9 else np.arctan2(sine, cosine) / (2 * sine))


def facing(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Rotations `[3, 3]` of the gripper: at zeros it faces the kitchen (+y), fingers to the sides.

    yaw > 0 turns it to the left, pitch > 0 down, roll > 0 about its own axis; radians.
    """
    front = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])

    def about(axis, angle):
        c, s = np.cos(angle), np.sin(angle)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        r = np.eye(3)
        r[[i, j], [i, j]] = c
        r[i, j], r[j, i] = -s, s
        return r

    return about(2, yaw) @ about(0, -pitch) @ front @ about(2, roll)
