"""The Avoiding task of D3IL: a rod is moved between six cylinders to a finish line, in 24 ways.

A policy sees the desired and the measured position of the rod `[4]` and returns the change of the
desired one `[2]`, in metres. Rules, geometry and the reader follow the official benchmark.
Re-created rather than official are the simulator (pure JAX, the robot identified from the recorded
demonstrations; see `simulator.py` for the differences) and the demonstrator (scripted, for those
who do not have the recordings).
"""

from vdd_jax.tasks.avoiding.demonstrator import demonstrate, demonstrate_counted
from vdd_jax.tasks.avoiding.geometry import NUM_MODES
from vdd_jax.tasks.avoiding.reader import read
from vdd_jax.tasks.avoiding.score import score, wilson
from vdd_jax.tasks.avoiding.simulator import (
    EPISODE_LIMIT,
    Episodes,
    State,
    observe,
    reset,
    rollout,
    step,
)
from vdd_jax.tasks.recording_file import read_of_task
from vdd_jax.types import TaskSpec, Trajectory

__all__ = [
    "DEMONSTRATOR_VERSION",
    "NUM_MODES",
    "SIMULATOR",
    "SPEC",
    "Episodes",
    "State",
    "demonstrate",
    "demonstrate_counted",
    "load",
    "observe",
    "past_actions",
    "read",
    "reset",
    "rollout",
    "score",
    "spec",
    "step",
    "wilson",
]

SPEC = TaskSpec(
    name="avoiding",
    observation_dim=4,
    action_dim=2,
    num_modes=NUM_MODES,
    episode_limit=EPISODE_LIMIT,
    control_hz=1000 / 35,
)
DEMONSTRATOR_VERSION = 1  # whatever changes a demonstration raises it
SIMULATOR = "re-created Avoiding of vdd_jax (identified tracking dynamics, swept collision check)"


def past_actions(observations):
    """What was done between the observations of a window `[..., T, 4]`: `[..., T - 1, 2]`."""
    return observations[..., 1:, :2] - observations[..., :-1, :2]


def spec(task) -> TaskSpec:
    """The sizes; `task` is `config.task`."""
    return SPEC


def load(task) -> tuple[list[Trajectory], dict]:
    """Demonstrations, and what they are.

    Args:
      task: `config.task`: `demonstrations`, the directory of official D3IL pickles or a file of
        `vdd_jax.tasks.record`, or empty for the scripted demonstrator with its
        `episodes_per_mode` (24 times as many episodes).

    Returns:
      The trajectories, and a description for reports: `demonstrations`, `simulator`, `episodes`,
      and `discarded` (failed attempts of the scripted demonstrator, drawn again).

    Raises:
      FileNotFoundError, ValueError: see `reader.read`, `recording_file.read_of_task`.
    """
    discarded = 0
    if task.demonstrations.endswith(".npz"):
        trajectories, _, discarded = read_of_task(task.demonstrations, SPEC)
        source = f"recording {task.demonstrations}, {len(trajectories)} episodes"
    elif task.demonstrations:
        trajectories = read(task.demonstrations)
        source = f"official D3IL pickles from {task.demonstrations}, {len(trajectories)} episodes"
    else:
        trajectories, discarded = demonstrate_counted(0, task.episodes_per_mode)
        source = f"scripted demonstrator of vdd_jax, {len(trajectories)} episodes"
    description = {
        "demonstrations": source,
        "simulator": SIMULATOR,
        "episodes": len(trajectories),
        "discarded": discarded,
    }
    return trajectories, description
