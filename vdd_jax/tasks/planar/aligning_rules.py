"""Scene, starts and rules of aligning; see `aligning`."""

import numpy as np

from vdd_jax.tasks.planar import d3il
from vdd_jax.tasks.planar.engine import Rules
from vdd_jax.tasks.planar.physics import Starts, World
from vdd_jax.tasks.planar.scene import Box, Scene

NUM_MODES = 2
EPISODE_LIMIT = 400
MOST_APART = 0.018  # metres
MOST_TURNED = 0.048  # of π
INSIDE = 0.051  # of tcp and box, metres
START = (0.525, -0.35, 0.25)
AREAS = (((0.4, -0.25), (0.6, -0.1)), ((0.4, 0.2), (0.6, 0.35)))  # where box and target lie
WALL = 0.05  # from the centre to the middle of a wall
THICK = 0.005  # half a wall's thickness
FLOOR = 0.01  # half the floor's
_WALLS = tuple(
    ((sx * WALL, sy * WALL, 0.0485), (THICK if sx else WALL, THICK if sy else WALL, 0.045), 0.001)
    for sx, sy in ((1, 0), (0, 1), (-1, 0), (0, -1)))
BOX = Box("box", 1.004, (((0.0, 0.0, 0.0), (WALL, WALL, FLOOR), 1 - 0.004), *_WALLS),
          "0.8 0.65 0.45 1", FLOOR, friction=0.3)
SCENE = Scene((BOX,), (*d3il.SERVOS, d3il.SERVOS[0]), d3il.ROD, d3il.ROD_TIP,
              d3il.CONTROL_SECONDS, d3il.SUBSTEPS, d3il.TABLE)


def draw_contexts(rng: np.random.Generator, num: int) -> np.ndarray:
    """Contexts drawn as in the benchmark, `[C, 2, 3]`: x, y, yaw of box and target."""
    return d3il.draw_poses(rng, num, AREAS)


def begin(contexts: np.ndarray, num_episodes: int) -> Starts:
    """N starts: episode i has context i mod C of `contexts` `[C, 2, 3]`."""
    index = np.arange(num_episodes) % len(contexts)
    tcp = np.tile(np.array(START), (num_episodes, 1))
    return Starts(tcp, contexts[index, :1], contexts[index, 1:], index)


def starts(rng: np.random.Generator, num_episodes: int) -> Starts:
    """N starts, each of its own context."""
    return begin(draw_contexts(rng, num_episodes), num_episodes)


def target_quaternion(world: World) -> np.ndarray:
    """`[N, 4]`."""
    half = world.targets[:, 0, 2] / 2
    return np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], -1)


def target_position(world: World) -> np.ndarray:
    """`[N, 3]`; the benchmark's targets have height 0, not that of a box on the table."""
    return np.concatenate([world.targets[:, 0, :2], np.zeros((len(world.targets), 1))], -1)


def observe(world: World) -> np.ndarray:
    """`[N, 20]`, see the head of the file."""
    return np.concatenate([world.desired, world.tcp, world.positions[:, 0], world.rotations[:, 0],
                           target_position(world), target_quaternion(world)], -1)


def inside(world: World) -> np.ndarray:
    """Whether the box is in its target pose, `[N, 1, 1]`."""
    apart = np.linalg.norm(world.positions[:, 0] - target_position(world), axis=-1)
    dot = np.abs(np.sum(world.rotations[:, 0] * target_quaternion(world), -1))
    turned = 2 * np.arccos(np.minimum(dot, 1.0)) / np.pi
    return ((apart <= MOST_APART) & (turned <= MOST_TURNED))[:, None, None]


def solved(world: World, inside: np.ndarray) -> np.ndarray:
    """Whether the box is in its target pose, `[N]`."""
    return inside[:, 0, 0]


def mode(world: World, events: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """0 where the rod is inside the box, 1 outside, `[N]`."""
    apart = np.linalg.norm(world.positions[:, 0, :2] - world.tcp[:, :2], axis=-1)
    return np.where(apart < INSIDE, 0, 1)


RULES = Rules(SCENE, EPISODE_LIMIT, observe, inside, solved, mode, sees_before_physics=True)


