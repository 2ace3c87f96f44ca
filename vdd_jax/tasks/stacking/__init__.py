"""Stacking of D3IL: a red, a green and a blue box are stacked on a target, in any order.

Input `[17]`: the hand's commanded x, y, z (metres), yaw (radians) and width (0.08 open, 0.06
closed), and x, y, z, tan(yaw) of the red, the green and the blue box. Action `[5]`: changes of x,
y, z and yaw, and the commanded width; above 0.075 m it opens the gripper. These are the benchmark's
input and action with the pose of the hand in place of the seven joints of the arm, which here is a
hand on a gantry; it really grasps, by friction. At most 1000 steps at 33.3 Hz; MuJoCo is imported
when the first episode starts: `pip install 'vdd_jax[sim]'`.

A box is placed when it has come within 6 cm of the target, horizontally. Success: all three are
within 6 cm and their heights differ by more than 3 cm each. As in the benchmark that may be so a
moment before the last box is let go. Modes: the orders in which the boxes came, 3 for one box, 6
for two and 6 for three; numbered red, green, blue and as `itertools` lists permutations.

The benchmark's contexts are 60, 18 episodes each. `rollout` draws contexts as it does (red x
0.35–0.45, y −0.25 to −0.15; green the same x, y −0.1–0; blue x 0.55–0.6, y −0.2–0; yaw ±90°; those
in which boxes overlap are drawn again) or takes those that the caller read with `read_contexts`.
"""

import numpy as np

from vdd_jax.tasks.planar import d3il, engine, recording, scores
from vdd_jax.tasks.planar.engine import COMPILED, Episodes
from vdd_jax.tasks.stacking.demonstrator import DEMONSTRATOR
from vdd_jax.tasks.stacking.reader import read
from vdd_jax.tasks.stacking.rules import (
    EPISODE_LIMIT,
    NUM_BOXES,
    NUM_MODES,
    RULES,
    begin,
    draw_contexts,
    order_mode,
    past_actions,
    starts,
)
from vdd_jax.types import TaskSpec, Trajectory

__all__ = ["COMPILED", "DEMONSTRATOR", "RULES", "SIMULATOR", "SPEC", "Episodes", "begin",
           "draw_contexts", "load", "past_actions", "read", "read_contexts", "rollout", "score",
           "spec", "starts"]

EPISODES_PER_CONTEXT = 18
SPEC = TaskSpec("stacking", observation_dim=17, action_dim=5, num_modes=NUM_MODES,
                episode_limit=EPISODE_LIMIT, control_hz=1000 / 30, tangents=(8, 12, 16),
                relative=tuple((5 + 4 * k + i, i) for k in range(NUM_BOXES) for i in range(3)))
SIMULATOR = "re-created Stacking of vdd_jax (MuJoCo, hand on a gantry)"


def spec(task) -> TaskSpec:
    """The sizes; `task` is `config.task`."""
    return SPEC


def read_contexts(path) -> np.ndarray:
    """Official contexts `[C, 3, 3]`: x, y, yaw of the boxes; see `d3il.read_contexts`."""
    return d3il.read_contexts(path, NUM_BOXES)


rollout = engine.in_contexts(RULES, draw_contexts, begin, EPISODES_PER_CONTEXT)


def score(episodes: Episodes) -> dict:
    """`scores.rates`, `entropy` of the orders of all three, and for one box and for two:
    `success_1`, `success_2` (the benchmark's Stacking-1 and -2), `entropy_1`, `entropy_2`.

    Entropies are means over contexts with success, in logarithms to the base of the number of
    modes: 3, 6 and 6.
    """
    found = scores.rates(episodes, NUM_MODES)
    found["entropy"] = scores.entropy_per_context(episodes, NUM_MODES, drop_failed=True)
    for boxes, modes in ((1, 3), (2, 6)):
        mode = order_mode(episodes.events, boxes)
        placed = episodes._replace(mode=mode, success=mode >= 0)
        found[f"success_{boxes}"] = float(placed.success.mean())
        found[f"entropy_{boxes}"] = scores.entropy_per_context(placed, modes, drop_failed=True)
    return found


def load(task) -> tuple[list[Trajectory], dict]:
    """Demonstrations, and what they are; see `recording.load`."""
    return recording.load(DEMONSTRATOR, task, SPEC, SIMULATOR, read)
