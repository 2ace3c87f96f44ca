"""The physics of N episodes of stacking at once: `planar.physics.World` with a hand."""

import numpy as np

from vdd_jax.tasks.planar import physics
from vdd_jax.tasks.stacking.scene import mjcf

OPEN, CLOSED = 0.08, 0.06  # widths told to the gripper, metres; closed is around a box
OPENS = 0.075  # a commanded width above it opens the gripper


def snapped(width):
    """A commanded width → the one of the two that it means."""
    return np.where(width > OPENS, OPEN, CLOSED)


class World(physics.World):
    """N episodes under way; D = 5 numbers of the hand: x, y, z (metres), yaw (radians), width.

    Of `desired` the width is OPEN or CLOSED, of `tcp` the measured one.
    """

    mjcf = staticmethod(mjcf)

    @staticmethod
    def place(tcp: np.ndarray) -> np.ndarray:
        return np.concatenate([tcp[:4], [tcp[4] / 2] * 2])

    @staticmethod
    def measure(places: np.ndarray) -> np.ndarray:
        return np.concatenate([places[:, :4], places[:, 4:].sum(1, keepdims=True)], 1)

    def command(self, actions: np.ndarray, running: np.ndarray) -> np.ndarray:
        """Moves `desired` without letting time pass; returns what the servos are told `[N, 5]`.

        Args:
          actions: `[N, 5]`: changes of x, y, z and yaw, and the width itself.
        """
        moved = self.desired.copy()
        moved[:, :4] += actions[:, :4]
        moved[:, 4] = snapped(actions[:, 4])
        moved = np.where(running[:, None], np.clip(moved, *self.scene.bounds), self.desired)
        change, self.desired = moved - self.desired, moved
        command = moved + np.append(self._lead, 0.0) * change
        command[:, 4] = np.where(moved[:, 4] > OPENS, OPEN, 0.0)  # closes with all its force
        return command
