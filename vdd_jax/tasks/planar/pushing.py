"""Pushing of D3IL: a red and a green box are pushed into two targets.

Input `[10]`: desired xy, tcp xy, and x, y, tan(yaw) of the red and of the green box; action `[2]`:
the change of the desired position, metres. Success: the boxes lie in different targets, their
centres within 5 cm. Four modes: which box first × into which target; here numbered
2 · (first box) + (its target), box and target 0 being red. At most 400 steps.

Episodes come in contexts: the benchmark has 60 of them, of which its scripts take the first 30, 16
episodes each. `rollout` draws contexts as the benchmark does (red x 0.4–0.5, green x 0.55–0.65, y
−0.15–0, yaw ±90°), or takes those that the caller read with `read_contexts`.
"""

import numpy as np

from vdd_jax.tasks.planar import d3il, engine, recording, scores, skills
from vdd_jax.tasks.planar.d3il import past_actions, read_contexts
from vdd_jax.tasks.planar.engine import COMPILED, Episodes, Rules
from vdd_jax.tasks.planar.physics import Starts, World
from vdd_jax.tasks.planar.scene import cube
from vdd_jax.types import TaskSpec, Trajectory

__all__ = ["COMPILED", "DEMONSTRATOR", "RULES", "SIMULATOR", "SPEC", "Episodes", "draw_contexts",
           "load", "past_actions", "read_contexts", "rollout", "score", "spec"]

NUM_MODES = 4
EPISODE_LIMIT = 400
EPISODES_PER_CONTEXT = 16
TOLERANCE = 0.05  # of a box's centre from its target's, metres
START = (0.525, -0.28)
TARGETS = ((0.42, 0.3, 0.0), (0.63, 0.3, 0.0))  # red, green
AREAS = (((0.4, -0.15), (0.5, 0.0)), ((0.55, -0.15), (0.65, 0.0)))  # where red and green start
SPEC = TaskSpec("pushing", observation_dim=10, action_dim=2, num_modes=NUM_MODES,
                episode_limit=EPISODE_LIMIT, control_hz=1000 / 35, tangents=(6, 9),
                relative=d3il.relative_flat(2))
SIMULATOR = "re-created Pushing of vdd_jax (MuJoCo, rod on servos)"
SCENE = d3il.flat_scene([cube("red", d3il.BOX_HALF, d3il.BOX_MASS, "1 0 0 1"),
                         cube("green", d3il.BOX_HALF, d3il.BOX_MASS, "0 1 0 1")])


def spec(task) -> TaskSpec:
    """The sizes; `task` is `config.task`."""
    return SPEC


def draw_contexts(rng: np.random.Generator, num: int) -> np.ndarray:
    """Contexts drawn as in the benchmark, `[C, 2, 3]` x, y, yaw."""
    return d3il.draw_poses(rng, num, AREAS)


def begin(contexts: np.ndarray, num_episodes: int) -> Starts:
    """N starts: episode i has context i mod C of `contexts` `[C, 2, 3]`."""
    index = np.arange(num_episodes) % len(contexts)
    tcp = np.tile(np.array(START), (num_episodes, 1))
    targets = np.tile(np.array(TARGETS), (num_episodes, 1, 1))
    return Starts(tcp, contexts[index], targets, index)


def starts(rng: np.random.Generator, num_episodes: int) -> Starts:
    """N starts, each of its own context."""
    return begin(draw_contexts(rng, num_episodes), num_episodes)


def inside(world: World) -> np.ndarray:
    """Which box is in which target, `[N, 2, 2]`."""
    apart = world.positions[:, :, None, :2] - world.targets[:, None, :, :2]
    return np.linalg.norm(apart, axis=-1) <= TOLERANCE


def solved(world: World, inside: np.ndarray) -> np.ndarray:
    """Whether the boxes are in different targets, `[N]`."""
    return (inside[:, 0, 0] & inside[:, 1, 1]) | (inside[:, 0, 1] & inside[:, 1, 0])


def mode(world: World, events: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """2 · first box + its target, `[N]`."""
    return scores.pair_mode(events, inside)


RULES = Rules(SCENE, EPISODE_LIMIT, d3il.observe_flat, inside, solved, mode,
              sees_before_physics=True)


rollout = engine.in_contexts(RULES, draw_contexts, begin, EPISODES_PER_CONTEXT)


def score(episodes: Episodes) -> dict:
    """`scores.rates`, and `entropy`: mean over contexts, log base 4, 0 without success."""
    found = scores.rates(episodes, NUM_MODES)
    found["entropy"] = scores.entropy_per_context(episodes, NUM_MODES, drop_failed=False)
    return found


def script(mode: int, view: skills.View, targets: np.ndarray, rng: np.random.Generator):
    """A demonstration of the mode: see `skills`."""
    uniform = rng.uniform
    hand = skills.Hand(
        travel=uniform(0.008, 0.011), push=uniform(0.005, 0.008), gap=uniform(0.01, 0.025),
        steer=uniform(0.15, 0.25), noise=uniform(0.0003, 0.0008), smooth=0.6, pause=0.4,
        limit=0.0125)
    steps = skills.Steps(hand, rng)
    view = yield from skills.rest(steps, view, int(rng.integers(2, 12)))
    first, target = divmod(mode, 2)
    for box, into in ((first, target), (1 - first, 1 - target)):
        aim = tuple(targets[into, :2] + rng.normal(scale=0.006, size=2))
        view = yield from skills.push(steps, view, SHAPE, box, aim, uniform(0.015, 0.03),
                                      avoid=True)


SHAPE = skills.Shape(d3il.BOX_HALF, d3il.ROD)
DEMONSTRATOR = recording.Demonstrator("pushing", 1, RULES, NUM_MODES, starts, script)


def read(directory) -> list[Trajectory]:
    """Official recordings; see `d3il.read_demonstrations`."""
    return d3il.read_demonstrations(directory, ("red-box", "green-box"))


def load(task) -> tuple[list[Trajectory], dict]:
    """Demonstrations, and what they are; see `recording.load`."""
    return recording.load(DEMONSTRATOR, task, SPEC, SIMULATOR, read)
