"""N kitchens at once: the model and the rules of gymnasium-robotics' FrankaKitchen, in threads.

The model, the robot's bounds and the sizes of the noise come from the installed package; what is
done at a control step is written here for N states of one model, because an environment of the
package holds a model of its own and steps alone. With the same seed and actions an episode is, to
the last bit, that of `FrankaKitchen-v1` (a test compares them).

A control step: the action `[9]`, clipped to ±1, says by how much the set-points of the joints'
servos lead the last *observed* positions, in units of 2 rad/s (fingers 2 m/s) times 0.08 s. The
servos sag: an action of zeros lets the arm sink. Observations carry uniform noise (±1 mrad).
"""

import contextlib
import importlib.metadata
import io
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from vdd_jax.cores import cores

JOINTS = 9  # seven of the arm, two fingers
OBSERVATION = 30  # and the 21 coordinates of the objects
SUBSTEPS = 40  # of 2 ms
LEAD = 2.0  # rad/s or m/s that an action of 1 asks for
_ROBOT_NOISE, _OBJECT_NOISE = 0.01, 0.0005  # shares of the amplitudes in the package's files
# Where FrankaKitchen begins, always: nine joints of the robot, then the objects.
START = (
    0.148388023, -1.76848573, 1.84390296, -2.47685760, 0.260252026, 0.712533105, 1.59515394,
    0.0479267505, 0.0371350919, -0.000266279850, -5.18043486e-05, 3.12877220e-05, -4.51199853e-05,
    -3.90842156e-06, -4.22629655e-05, 6.28065475e-05, 4.04984708e-05, 0.000462730939,
    -0.000226906415, -0.000465501369, -0.00644129196, -0.00177048263, 0.00108009684, -0.269397440,
    0.350383255, 1.61944683, 1.00618764, 0.00406395120, -0.00662095997, -0.000268278933,
)


def packages():
    """The modules `mujoco` and the one that holds the package's robot.

    Raises:
      ImportError: one is not installed.
    """
    try:
        import mujoco

        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            from gymnasium_robotics.envs.franka_kitchen import franka_env
    except ImportError as error:
        raise ImportError("the kitchen is simulated with gymnasium-robotics and MuJoCo, which are "
                          f"not installed ({error}): pip install 'vdd_jax[kitchen]'") from error
    return mujoco, franka_env


def about() -> str:
    """Which simulator this is, for reports."""
    mujoco, _ = packages()
    version = importlib.metadata.version("gymnasium-robotics")
    return f"FrankaKitchen of gymnasium-robotics {version}, MuJoCo {mujoco.__version__}"


@lru_cache(maxsize=1)
def robot():
    """The package's robot in the kitchen: model, bounds, amplitudes of the noise."""
    _, franka_env = packages()
    return franka_env.FrankaRobot(
        model_path="../assets/kitchen_franka/kitchen_assets/kitchen_env_model.xml")


class World:
    """N episodes under way.

    Attributes:
      observed: `[N, 30]`, positions of robot and objects as last seen, with noise.
      states: `[N, 30]`, the same without.
      data: the N states of MuJoCo.
    """

    def __init__(self, seeds, threads: int | None = None):
        """`seeds`: of the noise, one per episode; anything `numpy.random.default_rng` takes."""
        mujoco, _ = packages()
        self._robot, self._step = robot(), mujoco.mj_step
        self.model = self._robot.model
        n = len(seeds)
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._threads = max(1, min(threads or cores(), n))
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        self._amplitude = np.concatenate([
            _ROBOT_NOISE * self._robot.robot_pos_noise_amp[:JOINTS],
            _OBJECT_NOISE * self._robot.robot_pos_noise_amp[JOINTS - 1:]])
        self.data = [mujoco.MjData(self.model) for _ in range(n)]
        for data in self.data:
            data.qpos[:] = START
            mujoco.mj_forward(self.model, data)
        self.states = np.tile(np.array(START), (n, 1))
        self.observed = np.zeros((n, OBSERVATION))
        self._observe(range(n))

    def _observe(self, indices) -> None:
        for i in indices:
            self.states[i] = self.data[i].qpos
            rng = self._rngs[i]
            # in the package's order, with the velocities that nobody sees
            robot, _, objects, _ = (rng.uniform(-1.0, 1.0, size) for size in (
                JOINTS, JOINTS, OBSERVATION - JOINTS, self.model.nv - JOINTS))
            self.observed[i] = self.states[i] + self._amplitude * np.concatenate([robot, objects])

    def step(self, actions: np.ndarray, running: np.ndarray) -> None:
        """One control step of the episodes that run `[N]` bool, with actions `[N, 9]`."""
        lead = np.clip(actions, -1.0, 1.0) * LEAD
        low, high = self._robot.robot_vel_bound[:JOINTS].T
        command = self.observed[:, :JOINTS] + np.clip(lead, low, high) * self._robot.dt
        command = np.clip(command, *self._robot.robot_pos_bound[:JOINTS].T)
        indices = np.flatnonzero(running)

        def some(indices):
            for i in indices:
                self.data[i].ctrl[:] = command[i]
                self._step(self.model, self.data[i], SUBSTEPS)

        if self._pool is None or len(indices) < 2:
            some(indices)
        else:
            list(self._pool.map(some, np.array_split(indices, self._threads)))
        self._observe(indices)

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()
