"""Aligning of D3IL: a hollow box is pushed into a given pose, from inside or from outside.

Input `[20]`: desired xyz, tcp xyz, position (3) and quaternion (4, w first) of the box, and of the
target; action `[3]`: the change of the desired position, metres. Success: the positions differ by
at most 1.8 cm (height included: the target floats 9 mm above the table, as in the benchmark) and
the rotation between them is at most 0.048 π. Two modes: 0, the rod ends inside the box (5.1 cm
around its centre), 1, outside. At most 400 steps.

Episodes come in contexts: the benchmark has 60, 8 episodes each. `rollout` draws contexts as the
benchmark does (box x 0.4–0.6, y −0.25 to −0.1; target x 0.4–0.6, y 0.2–0.35; yaw ±90°), or takes
those that the caller read with `read_contexts`.
"""

import numpy as np

from vdd_jax.tasks.planar import d3il, engine, recording, scores
from vdd_jax.tasks.planar.aligning_demonstrator import DEMONSTRATOR
from vdd_jax.tasks.planar.aligning_rules import (
    EPISODE_LIMIT,
    NUM_MODES,
    RULES,
    begin,
    draw_contexts,
    starts,
)
from vdd_jax.tasks.planar.engine import COMPILED, Episodes
from vdd_jax.types import TaskSpec, Trajectory

__all__ = ["COMPILED", "DEMONSTRATOR", "RULES", "SIMULATOR", "SPEC", "Episodes", "begin",
           "draw_contexts", "load", "past_actions", "read", "read_contexts", "rollout", "score",
           "spec", "starts"]

EPISODES_PER_CONTEXT = 8
SPEC = TaskSpec("aligning", observation_dim=20, action_dim=3, num_modes=NUM_MODES,
                episode_limit=EPISODE_LIMIT, control_hz=1000 / 35,
                relative=((6, 0), (7, 1), (13, 6), (14, 7)))  # box from rod, target from box
SIMULATOR = "re-created Aligning of vdd_jax (MuJoCo, rod on servos)"


def spec(task) -> TaskSpec:
    """The sizes; `task` is `config.task`."""
    return SPEC


def past_actions(observations):
    """What was done between the observations of a window `[..., T, 20]`: `[..., T - 1, 3]`."""
    return observations[..., 1:, :3] - observations[..., :-1, :3]


def read_contexts(path) -> np.ndarray:
    """Contexts `[C, 2, 3]`: x, y, yaw of box and target; see `d3il.read_contexts`."""
    return d3il.read_contexts(path, num_boxes=2)


rollout = engine.in_contexts(RULES, draw_contexts, begin, EPISODES_PER_CONTEXT)


def score(episodes: Episodes) -> dict:
    """`scores.rates`, and `entropy`: mean over contexts, log base 2, 0 without success."""
    found = scores.rates(episodes, NUM_MODES)
    found["entropy"] = scores.entropy_per_context(episodes, NUM_MODES, drop_failed=False)
    return found


def read(directory) -> list[Trajectory]:
    """Official recordings, a directory of pickles, in the order of their file names.

    Raises:
      FileNotFoundError, ValueError: see `d3il.read_demonstrations`.
    """
    return [_demonstration(*pair) for pair in d3il.records(directory)]


def _demonstration(file, record) -> Trajectory:
    desired = d3il.numbers(record, file, "robot", "des_c_pos", 3)
    columns = [desired, d3il.numbers(record, file, "robot", "c_pos", 3)]
    for name in ("push-box", "target-box"):
        columns.append(d3il.numbers(record, file, name, "pos", 3))
        columns.append(d3il.numbers(record, file, name, "quat", 4))
    return d3il.trajectory(columns, desired, file)


def load(task) -> tuple[list[Trajectory], dict]:
    """Demonstrations, and what they are; see `recording.load`."""
    return recording.load(DEMONSTRATOR, task, SPEC, SIMULATOR, read)
