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
from vdd_jax.types import TaskSpec, Trajectory

__all__ = [
    "SIMULATOR",
    "SPEC",
    "Episodes",
    "State",
    "demonstrate",
    "demonstrate_counted",
    "load",
    "observe",
    "read",
    "reset",
    "rollout",
    "score",
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
SIMULATOR = "re-created Avoiding of vdd_jax (identified tracking dynamics, swept collision check)"


def load(
    demonstrations: str | None = None, seed: int = 0, episodes_per_mode: int = 4
) -> tuple[list[Trajectory], dict]:
    """Demonstrations, and what they are.

    Args:
      demonstrations: directory of official D3IL pickles; without one the scripted demonstrator
        drives.
      seed, episodes_per_mode: of the scripted demonstrator (`24 · episodes_per_mode` episodes).

    Returns:
      The trajectories, and a description for reports: `demonstrations`, `simulator`, `episodes`,
      and `discarded` (failed attempts of the scripted demonstrator, drawn again).

    Raises:
      FileNotFoundError, ValueError: see `reader.read` and `demonstrate_counted`.
    """
    discarded = 0
    if demonstrations:
        trajectories = read(demonstrations)
        source = f"official D3IL pickles from {demonstrations}, {len(trajectories)} episodes"
    else:
        trajectories, discarded = demonstrate_counted(seed, episodes_per_mode)
        source = f"scripted demonstrator of vdd_jax, {len(trajectories)} episodes"
    description = {
        "demonstrations": source,
        "simulator": SIMULATOR,
        "episodes": len(trajectories),
        "discarded": discarded,
    }
    return trajectories, description
