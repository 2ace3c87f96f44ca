"""The scripted demonstrator of stacking: boxes are grasped, carried and set down one on another.

Closed loop: every step is decided from what is there now, with the traits of its episode. A grasp
that failed is tried again; a tower that fell is built again.
"""

import math
from typing import NamedTuple

import numpy as np

from vdd_jax.tasks.planar import lapses
from vdd_jax.tasks.planar.recording import Demonstrator
from vdd_jax.tasks.planar.skills import Hand, Steps, View
from vdd_jax.tasks.stacking.physics import CLOSED, OPEN, World
from vdd_jax.tasks.stacking.rules import (
    HALF,
    LONG,
    NUM_MODES,
    ORDERS,
    RULES,
    SCENE,
    TARGET,
    TOLERANCE,
    solved,
    starts,
)
from vdd_jax.tasks.stacking.scene import FINGER

VERSION = 3  # of scene and script: whatever changes a recording raises it
EXTENTS = ((HALF, HALF), (HALF, HALF), (HALF, LONG))  # half sides of the boxes, x and y
TURN = 1.9  # farthest that the hand is turned from where it starts, radians
SLOW = 0.35  # share of what is left that a step goes at most: the hand arrives gently
HOLDS = CLOSED - 0.01  # a narrower gripper holds nothing
LEVEL = 2 * HALF
LATEST = 400  # control step, of a shove


class Traits(NamedTuple):
    """Of one episode, beside its `Hand`; lengths in metres."""

    turn: float  # greatest step of the yaw, radians
    lower: float  # greatest step down near a box
    hover: float  # height of the tcp above the centre of a box, before it is grasped
    clear: float  # free space below a carried box
    grasp: float  # height of the tcp above the centre of the box it takes
    aim: tuple[float, float]  # where the tower shall stand
    careful: float  # standard deviation of where a box is set down on another


def wrap(angle: float, period: float = 2 * math.pi) -> float:
    return (angle + period / 2) % period - period / 2


class Arm:
    """Moves of the hand as generators of actions; each returns the view that it ends with."""

    def __init__(self, hand: Hand, traits: Traits, rng: np.random.Generator):
        self.steps, self.traits, self.rng = Steps(hand, rng, 3), traits, rng
        self.width = OPEN

    def still(self, view: View, frames: int):
        for _ in range(frames):
            view = yield (*self.steps(0.0, 0.0, 0.0), 0.0, self.width)
        return view

    def pause(self, view: View):
        """Sometimes a moment's rest."""
        if self.rng.random() < self.steps.hand.pause:
            view = yield from self.still(view, int(self.rng.integers(2, 8)))
        return view

    def go(self, view: View, place, speed: float, precision: float = 0.003, turned: float = 0.03,
           patience: int = 250):
        """Moves the command to `place(view) -> (x, y, z, yaw)`, until the hand is there."""
        for _ in range(patience):
            *goal, yaw = place(view)
            if math.dist(view.tcp[:3], goal) < precision and abs(view.tcp[3] - yaw) < turned:
                break
            way = [g - d for g, d in zip(goal, view.desired, strict=False)]
            left = math.hypot(*way)
            size = min(speed, SLOW * left) / max(left, 1e-9)
            turn = yaw - view.desired[3]
            turn = math.copysign(min(abs(turn) * SLOW, self.traits.turn), turn)
            view = yield (*self.steps(*(size * w for w in way)), turn, self.width)
        return view

    def grip(self, view: View, width: float, least: int = 5, most: int = 25):
        """Closes or opens, until the fingers rest."""
        self.width, before = width, math.inf
        for frame in range(most):
            if frame >= least and abs(view.tcp[4] - before) < 2e-4:
                break
            before = view.tcp[4]
            view = yield (*self.steps(0.0, 0.0, 0.0), 0.0, width)
        return view


def corners(x: float, y: float, yaw: float, half: tuple[float, float]) -> np.ndarray:
    """Of a rectangle, `[4, 2]`."""
    c, s = math.cos(yaw), math.sin(yaw)
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * half
    return np.array([x, y]) + signs @ np.array([[c, s], [-s, c]])


def gap(one: np.ndarray, other: np.ndarray) -> float:
    """Widest gap between two rectangles `[4, 2]` along a normal of theirs; < 0 if they overlap."""
    edges = np.concatenate([np.diff(r, axis=0)[:2] for r in (one, other)])
    normals = edges / np.linalg.norm(edges, axis=1, keepdims=True)
    a, b = one @ normals.T, other @ normals.T
    return float(np.maximum(a.min(0) - b.max(0), b.min(0) - a.max(0)).max())


def grasps(view: View, box: int):
    """Ways to take a box: (free space beside the fingers, x, y, yaw of the hand)."""
    x, y, yaw = view.boxes[box]
    along = yaw - math.pi / 2  # the fingers close along the hand's y
    period = math.pi / 2 if EXTENTS[box][1] == HALF else math.pi
    others = [corners(*view.boxes[k], EXTENTS[k]) for k in range(len(view.boxes))
              if k != box and abs(view.heights[k] - view.heights[box]) < LEVEL]
    found = []
    first = wrap(along, period)
    for turned in (first, first + period, first - period):
        if abs(turned) > TURN:
            continue
        c, s = math.cos(turned), math.sin(turned)
        for shift in (0.0, 0.005, -0.005):
            hx, hy = x - shift * s, y + shift * c
            fingers = [corners(hx - side * s, hy + side * c, turned, FINGER[:2])
                       for side in (OPEN / 2 + FINGER[1], -OPEN / 2 - FINGER[1])]
            free = min((gap(f, o) for f in fingers for o in others), default=1.0)
            found.append((free, hx, hy, turned))
    return found


def best_grasp(view: View, box: int) -> tuple[float, float, float]:
    """Free of other boxes above all, then with the least turning and off the middle least:
    x, y from the box's centre, and yaw of the hand."""
    x, y, _ = view.boxes[box]

    def cost(grasp):
        free, hx, hy, turned = grasp
        return (-30.0 * min(free, 0.006) + 0.02 * abs(turned - view.tcp[3])
                + 4.0 * math.dist((hx, hy), (x, y)))

    _, hx, hy, turned = min(grasps(view, box), key=cost)
    return hx - x, hy - y, turned


def take(arm: Arm, view: View, box: int, tries: int = 5):
    """Grasps a box and lifts it a little."""
    traits, hand = arm.traits, arm.steps.hand
    for _ in range(tries):
        dx, dy, yaw = best_grasp(view, box)

        def above(v, height, dx=dx, dy=dy, yaw=yaw):
            x, y, _ = v.boxes[box]
            return x + dx, y + dy, v.heights[box] + height, yaw

        def arriving(v, above=above):
            """Higher as long as it is far: what has just been built stands near the way."""
            x, y, z, yaw = above(v, traits.hover)
            return x, y, z + min(0.3 * math.dist(v.tcp[:2], (x, y)), 0.05), yaw

        view = yield from arm.go(view, arriving, hand.travel, precision=0.004)
        view = yield from arm.pause(view)
        view = yield from arm.go(view, lambda v: above(v, traits.grasp), traits.lower)
        view = yield from arm.grip(view, CLOSED)
        was = view.heights[box]
        x, y, z = view.desired[:3]
        view = yield from arm.go(view, lambda v, at=(x, y, z + 0.03, yaw): at, traits.lower)
        if view.tcp[4] > HOLDS and view.heights[box] > was + 0.015:
            return view
        view = yield from release(arm, view)
    return view


def release(arm: Arm, view: View):
    """Opens, and goes up."""
    view = yield from arm.grip(view, OPEN)
    x, y, z, yaw = view.desired[:4]
    return (yield from arm.go(view, lambda v: (x, y, z + arm.traits.hover, yaw),
                              arm.steps.hand.travel, precision=0.008))


def carry(arm: Arm, view: View, box: int, onto, level: int):
    """Sets the box that is held down at `onto` (x, y), on so many others.

    On the way the hand lets go of nothing; where the box was lost, it gives up.
    """
    traits, hand = arm.traits, arm.steps.hand
    yaw = view.desired[3]
    rest = SCENE.table + HALF + LEVEL * level  # where the box's centre shall be
    # Above the tower, and above what stands on the table.
    high = max(rest + traits.clear, SCENE.table + HALF + LEVEL + traits.clear)

    def place(height):
        def at(v):
            x, y, _ = v.boxes[box]
            return (onto[0] + v.tcp[0] - x, onto[1] + v.tcp[1] - y,
                    height + v.tcp[2] - v.heights[box], yaw)
        return at

    x, y = view.desired[:2]
    view = yield from arm.go(view, lambda v: (x, y, place(high)(v)[2], yaw), hand.travel,
                             precision=0.015)
    view = yield from arm.go(view, place(high), hand.travel, precision=0.004)
    if view.tcp[4] < HOLDS:
        return view
    view = yield from arm.pause(view)
    return (yield from arm.go(view, place(rest + 0.001), traits.lower, patience=80))


def tower(view: View) -> list[int]:
    """The boxes that stand over the target one on another, from below."""
    found = []
    for level in range(len(view.boxes)):
        height = SCENE.table + HALF + LEVEL * level
        on = [k for k, (x, y, _) in enumerate(view.boxes)
              if math.dist((x, y), TARGET) < TOLERANCE and abs(view.heights[k] - height) < 0.01]
        if len(on) != 1:
            break
        found += on
    return found


def script(mode: int, view: View, targets: np.ndarray, rng: np.random.Generator):
    """A demonstration of the mode; without end, the last thing being to do nothing."""
    uniform = rng.uniform
    hand = Hand(travel=uniform(0.009, 0.013), push=0.0, gap=0.0, steer=0.0,
                noise=uniform(0.0003, 0.0009), smooth=0.6, pause=0.3, limit=0.015)
    traits = Traits(
        turn=uniform(0.03, 0.06), lower=uniform(0.005, 0.008), hover=uniform(0.07, 0.1),
        clear=uniform(0.025, 0.045), grasp=uniform(-0.004, 0.008),
        aim=tuple(np.array(TARGET) + rng.normal(scale=0.006, size=2).clip(-0.012, 0.012)),
        careful=uniform(0.001, 0.003))
    arm = Arm(hand, traits, rng)
    view = yield from arm.still(view, int(rng.integers(2, 12)))
    for _ in range(3 * len(view.boxes)):
        built = tower(view)
        if len(built) == len(view.boxes):
            break
        waiting = [k for k in ORDERS[mode] if k not in built]
        below = view.boxes[built[-1]][:2] if built else traits.aim
        error = rng.normal(scale=traits.careful, size=2).clip(-0.006, 0.006) if built else (0, 0)
        view = yield from take(arm, view, waiting[0])
        view = yield from carry(arm, view, waiting[0],
                                (below[0] + error[0], below[1] + error[1]), len(built))
        view = yield from release(arm, view)
    while True:
        view = yield from arm.still(view, 1)


def stands(world: World, inside: np.ndarray) -> np.ndarray:
    """Whether the tower stands by itself, `[N]`: success is had before it does, with the last box
    still in the hand, but a demonstration ends with the hand open and away."""
    free = world.tcp[:, 2] > world.positions[..., 2].max(1) + 0.04
    return solved(world, inside) & free


def shove(rng: np.random.Generator) -> tuple[float, ...]:
    """Any way, turning, with the gripper opened or closed."""
    way = rng.normal(size=3)
    way *= 0.012 * rng.uniform(0.3, 1.0) / np.linalg.norm(way)
    return (*way.tolist(), float(rng.uniform(-0.04, 0.04)), float(rng.choice((OPEN, CLOSED))))


DEMONSTRATOR = Demonstrator("stacking", VERSION, RULES._replace(solved=stands), NUM_MODES, starts,
                            script, lapse=lambda rng: lapses.draw(rng, LATEST, shove))
