"""The physics of N episodes at once: MuJoCo in threads, state in NumPy arrays.

`mj_step` releases Python's lock, so threads run on all cores. Episodes share nothing but the
model: what happens in one does not depend on the others, nor on the number of threads.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from vdd_jax.cores import cores
from vdd_jax.tasks.planar.scene import Scene, leads, mjcf

SETTLE_STEPS = 20  # physics steps before an episode, in which boxes come to rest on the table


class Starts(NamedTuple):
    """How N episodes begin."""

    tcp: np.ndarray  # `[N, D]` metres
    boxes: np.ndarray  # `[N, K, 3]` x, y in metres, yaw in radians
    targets: np.ndarray  # `[N, J, 3]` the same, of the targets
    context: np.ndarray  # `[N]` int, episodes of the same context begin alike


def simulator():
    """The module `mujoco`, which only these tasks need.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import mujoco
    except ImportError as error:
        raise ImportError("this task is simulated with MuJoCo, which is not installed: "
                          "pip install 'vdd_jax[sim]'") from error
    return mujoco


@lru_cache(maxsize=16)
def model_of(xml: str):
    """The compiled model of a scene's MJCF."""
    return simulator().MjModel.from_xml_string(xml)


class World:
    """N episodes under way. Another robot is a subclass, with other `mjcf`, `place`, `measure`
    and `command`.

    Attributes:
      desired: `[N, D]`, the commanded position of the rod's tcp, metres.
      tcp: `[N, D]`, the measured one.
      positions: `[N, K, 3]`, the boxes' origins, metres.
      rotations: `[N, K, 4]`, their unit quaternions (w, x, y, z).
      targets: `[N, J, 3]`, x, y, yaw.
    """

    def __init__(self, scene: Scene, starts: Starts, threads: int | None = None):
        self.scene, self.targets = scene, np.asarray(starts.targets, float)
        self._model = model_of(self.mjcf(scene))
        self._step = simulator().mj_step
        n = len(starts.tcp)
        self._robot = self._model.nq - 7 * len(scene.boxes)  # coordinates of the robot
        self._lead = leads(scene)
        self._threads = max(1, min(threads or cores(), n))
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        self.desired = np.array(starts.tcp, float)
        self._data = [simulator().MjData(self._model) for _ in range(n)]
        # Views into MuJoCo's own memory: reading them costs no call.
        self._qpos = [data.qpos for data in self._data]
        self._ctrl = [data.ctrl for data in self._data]
        self._places = np.zeros((n, self._model.nq))
        for i, qpos in enumerate(self._qpos):
            qpos[: self._robot] = self.place(starts.tcp[i])
            for k, (x, y, yaw) in enumerate(starts.boxes[i]):
                at = self._robot + 7 * k
                qpos[at : at + 2] = x, y
                qpos[at + 2] = scene.table + scene.boxes[k].rest
                qpos[at + 3 : at + 7] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
        self._advance(np.ones(n, bool), self.desired, SETTLE_STEPS)

    @property
    def places(self) -> np.ndarray:
        """Coordinates of everything, `[N, Q]`; what `cameras.Renderer` draws."""
        return self._places.copy()

    @property
    def model(self):
        """MuJoCo's, of which the episodes are."""
        return self._model

    mjcf = staticmethod(mjcf)

    @staticmethod
    def place(tcp: np.ndarray) -> np.ndarray:
        """Coordinates `[Q]` of a robot at `tcp` `[D]`."""
        return tcp

    @staticmethod
    def measure(places: np.ndarray) -> np.ndarray:
        """The inverse, of coordinates `[N, Q]`: `[N, D]`."""
        return places

    def step(self, actions: np.ndarray, running: np.ndarray) -> None:
        """One control step: commands move by `actions` `[N, D]` where `running` `[N]`."""
        self.advance(self.command(actions, running), running)

    def command(self, actions: np.ndarray, running: np.ndarray) -> np.ndarray:
        """Moves `desired` without letting time pass; returns what the servos are told `[N, D]`."""
        desired = self.desired + np.where(running[:, None], actions, 0.0)
        if self.scene.bounds is not None:
            desired = np.clip(desired, *self.scene.bounds)
        moved, self.desired = desired - self.desired, desired
        return desired + self._lead * moved

    def advance(self, command: np.ndarray, running: np.ndarray) -> None:
        """Lets the physics of one control step pass."""
        self._advance(running, command, self.scene.substeps)

    def _advance(self, running, command, steps: int) -> None:
        indices = np.flatnonzero(running)

        def some(indices):
            step, model = self._step, self._model
            for i in indices:
                self._ctrl[i][:] = command[i]
                step(model, self._data[i], steps)
                self._places[i] = self._qpos[i]

        if self._pool is None or len(indices) < 2:
            some(indices)
        else:
            list(self._pool.map(some, np.array_split(indices, self._threads)))
        robot, boxes = np.split(self._places, [self._robot], axis=1)
        boxes = boxes.reshape(len(boxes), -1, 7)
        self.tcp = self.measure(robot).copy()
        self.positions, self.rotations = boxes[..., :3].copy(), boxes[..., 3:].copy()

    @property
    def yaw(self) -> np.ndarray:
        """Rotation of the boxes about the vertical, `[N, K]` in (−π, π]."""
        w, x, y, z = np.moveaxis(self.rotations, -1, 0)
        return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()
