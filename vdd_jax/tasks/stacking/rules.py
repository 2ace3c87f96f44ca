"""Stacking's scene, starts, observation, success and modes."""

import itertools

import numpy as np

from vdd_jax.tasks.planar import d3il
from vdd_jax.tasks.planar.engine import Rules
from vdd_jax.tasks.planar.physics import Starts
from vdd_jax.tasks.planar.scene import Box, Servo, cube
from vdd_jax.tasks.planar.sorting import overlap
from vdd_jax.tasks.stacking.physics import OPEN, World
from vdd_jax.tasks.stacking.scene import TIP, Scene

NUM_BOXES = 3
ORDERS = tuple(itertools.permutations(range(NUM_BOXES)))  # of red, green, blue, by mode
NUM_MODES = len(ORDERS)
EPISODE_LIMIT = 1000
TOLERANCE = 0.06  # of a box's centre from the target's, horizontally, metres
APART = 0.03  # least difference between the heights of two boxes of a tower
TARGET = (0.5, 0.2)
START = (0.525, 0.0, 0.3, 0.0, OPEN)
# Where red, green and blue start; turned by up to ±90°.
AREAS = (((0.35, -0.25), (0.45, -0.15)), ((0.35, -0.1), (0.45, 0.0)), ((0.55, -0.2), (0.6, 0.0)))
HALF = d3il.BOX_HALF
LONG = 0.05  # half of the blue box along its y; the gripper takes it across
SCENE = Scene(
    boxes=(cube("red", HALF, d3il.BOX_MASS, "1 0 0 1"),
           cube("green", HALF, d3il.BOX_MASS, "0 1 0 1"),
           Box("blue", d3il.BOX_MASS, (((0.0, 0.0, 0.0), (HALF, LONG, HALF), 1.0),), "0 0 1 1",
               HALF)),
    servos=(Servo(30.0, 1.0, 1.0),) * 4,
    control_seconds=0.03, substeps=10, table=d3il.TABLE,
    bounds=((0.2, -0.45, d3il.TABLE + TIP + 0.002, -3.0, 0.0),
            (0.8, 0.45, 0.45, 3.0, OPEN)),
    target=TARGET, target_half=0.05)


def draw_contexts(rng: np.random.Generator, num: int) -> np.ndarray:
    """Contexts `[C, 3, 3]` x, y, yaw of red, green and blue, drawn as in the benchmark; those in
    which red and green would overlap (blue is too far away) are drawn again."""
    contexts = d3il.draw_poses(rng, num, AREAS)
    while (bad := overlap(contexts[:, :2])).any():
        contexts[bad] = d3il.draw_poses(rng, int(bad.sum()), AREAS)
    return contexts


def begin(contexts: np.ndarray, num_episodes: int) -> Starts:
    """N starts: episode i has context i mod C of `contexts` `[C, 3, 3]`."""
    index = np.arange(num_episodes) % len(contexts)
    tcp = np.tile(np.array(START), (num_episodes, 1))
    targets = np.tile(np.array([[*TARGET, 0.0]]), (num_episodes, 1, 1))
    return Starts(tcp, contexts[index], targets, index)


def starts(rng: np.random.Generator, num_episodes: int) -> Starts:
    """N starts, each of its own context."""
    return begin(draw_contexts(rng, num_episodes), num_episodes)


def observe(world: World) -> np.ndarray:
    """Desired x, y, z, yaw and width, and x, y, z, tan(yaw) of each box: `[N, 17]`."""
    boxes = np.concatenate([world.positions, np.tan(world.yaw)[..., None]], -1)
    return np.concatenate([world.desired, boxes.reshape(len(boxes), -1)], -1)


def past_actions(observations):
    """What was done between the observations of a window `[..., T, 17]`: `[..., T - 1, 5]`."""
    before, after = observations[..., :-1, :5], observations[..., 1:, :5]
    return after - before * np.array([1.0, 1.0, 1.0, 1.0, 0.0], np.float32)


def inside(world: World) -> np.ndarray:
    """Which box is over the target, at any height, `[N, 3, 1]`."""
    apart = world.positions[:, :, None, :2] - world.targets[:, None, :, :2]
    return np.linalg.norm(apart, axis=-1) <= TOLERANCE


def solved(world: World, inside: np.ndarray) -> np.ndarray:
    """Whether all boxes are over the target, each higher than the next one, `[N]`."""
    heights = np.sort(world.positions[..., 2], 1)
    return inside[..., 0].all(1) & (np.diff(heights, axis=1).min(1) > APART)


def mode(world: World, events: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Number of the order in which all boxes came to the target, `[N]`; −1 unless all did."""
    return order_mode(events, NUM_BOXES)


def order_mode(events: np.ndarray, first: int) -> np.ndarray:
    """Number of the order of the `first` boxes that came to the target; −1 unless so many did.

    Args:
      events: `[N, 3, 1]`, see `engine.Episodes`.

    Returns:
      `[N]`, of 3 modes (`first` = 1) or 6 (2, 3), numbered as `ORDERS` begin.
    """
    steps = np.where(events[..., 0] < 0, np.iinfo(np.int64).max, events[..., 0])
    order = np.argsort(steps, 1, kind="stable")[:, :first]
    numbers = {begins: i for i, begins in enumerate(dict.fromkeys(o[:first] for o in ORDERS))}
    came = (events[..., 0] >= 0).sum(1) >= first
    return np.where(came, [numbers[tuple(o)] for o in order.tolist()], -1)


RULES = Rules(SCENE, EPISODE_LIMIT, observe, inside, solved, mode, sees_before_physics=True,
              world=World)
