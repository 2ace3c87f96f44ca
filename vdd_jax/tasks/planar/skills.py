"""What the scripted demonstrators can do: travel around boxes, and push a box to a place.

A script is a generator: it receives a `View` of its own episode and yields the next action. It is
closed-loop: all is decided from what is there now, with the traits (`Hand`) of its episode.
"""

import math
from typing import NamedTuple

import numpy as np


class View(NamedTuple):
    """What a script sees; plain floats, which are faster than small arrays."""

    tcp: tuple  # x, y(, z) metres
    desired: tuple
    boxes: list  # of (x, y, yaw)
    t: int
    heights: tuple | list = ()  # of the boxes' centres, metres


class Hand(NamedTuple):
    """The traits of one episode; lengths in metres per control step or metres."""

    travel: float  # greatest step of a move through free space
    push: float  # greatest step while pushing
    gap: float  # free space between rod and box before a push
    steer: float  # share of the sideways error corrected per step of a push
    noise: float  # standard deviation of an action per axis, metres
    smooth: float  # how much of the noise of the step before is kept
    pause: float  # chance per way point of a moment's rest
    limit: float  # length of the longest action


class Shape(NamedTuple):
    """Sizes that scripts need, metres."""

    half: float  # of a box's side
    rod: float  # radius

    @property
    def corner(self) -> float:
        """Distance between the centres below which rod and box may touch."""
        return self.half * math.sqrt(2) + self.rod


class Steps:
    """Turns wanted steps into actions: the noise of a hand, and its limit."""

    def __init__(self, hand: Hand, rng: np.random.Generator, dimensions: int = 2):
        self.hand, self.rng, self.dimensions = hand, rng, dimensions
        self._noise = [0.0] * dimensions
        self._draws = iter(())

    def normal(self) -> float:
        value = next(self._draws, None)
        if value is None:  # drawn in bulk: one call per number would be slow
            self._draws = iter(self.rng.normal(size=512).tolist())
            value = next(self._draws)
        return value

    def __call__(self, *step: float) -> tuple:
        hand = self.hand
        fresh = math.sqrt(1 - hand.smooth**2) * hand.noise
        self._noise = [hand.smooth * n + fresh * self.normal() for n in self._noise]
        # A hand at rest does not tremble.
        size = math.hypot(*step)
        scale = min(1.0, size / (0.2 * hand.travel))
        noisy = [s + scale * n for s, n in zip(step, self._noise, strict=True)]
        scale = min(1.0, hand.limit / max(math.hypot(*noisy), 1e-12))
        return tuple(scale * s for s in noisy)


def unit(x: float, y: float) -> tuple[float, float]:
    size = math.hypot(x, y)
    return (x / size, y / size) if size > 1e-9 else (0.0, 1.0)


def around(start, goal, obstacles) -> tuple[float, float]:
    """The direction from `start` to `goal` that passes the circles (x, y, radius); unit length."""
    heading = unit(goal[0] - start[0], goal[1] - start[1])
    distance = math.dist(start[:2], goal[:2])
    nearest, result = math.inf, heading
    for x, y, radius in obstacles:
        ox, oy = x - start[0], y - start[1]
        far = math.hypot(ox, oy)
        ahead = ox * heading[0] + oy * heading[1]
        aside = ox * heading[1] - oy * heading[0]  # > 0: the obstacle lies to the right
        if far < radius:
            # Inside the circle: out of it, unless the way leads out already.
            if ahead > 0 and far < nearest:
                out = unit(-ox, -oy)
                side = 1.0 if aside > 0 else -1.0
                result = unit(out[0] - 0.6 * side * out[1], out[1] + 0.6 * side * out[0])
                nearest = far
            continue
        reach = ahead - math.sqrt(max(radius**2 - aside**2, 0.0))
        if ahead <= 0 or abs(aside) >= radius or reach >= distance or reach >= nearest:
            continue
        nearest = reach
        # Along the tangent on the side where the way is shorter.
        angle = math.asin(min(radius / far, 1.0)) * 1.02
        side = 1.0 if aside > 0 else -1.0
        c, s = math.cos(angle), side * math.sin(angle)
        to = unit(ox, oy)
        result = (c * to[0] - s * to[1], s * to[0] + c * to[1])
    return result


def rest(steps: Steps, view: View, frames: int):
    """Nothing for some frames."""
    for _ in range(frames):
        view = yield steps(*(0.0,) * steps.dimensions)
    return view


def travel(steps: Steps, view: View, shape: Shape, place, precision: float = 0.004,
           margin: float = 0.008, except_box: int | None = None, patience: int = 150):
    """Moves the command to `place(view) -> (x, y)` around all boxes, from where it is now.

    `except_box`: the box near which `place` may be: its circle is only as large as that allows.
    """
    for _ in range(patience):
        goal = place(view)
        here = view.desired
        distance = math.dist(here[:2], goal)
        if distance < precision:
            break
        obstacles = []
        for number, (x, y, _) in enumerate(view.boxes):
            radius = shape.corner + margin
            if number == except_box:
                radius = min(radius, math.dist((x, y), goal) - 0.002)
            else:
                radius = min(radius, max(math.dist((x, y), goal) - 0.002, shape.half + shape.rod))
            obstacles.append((x, y, radius))
        dx, dy = around(here, goal, obstacles)
        size = min(steps.hand.travel, max(0.6 * distance, min(distance, 0.004)))
        view = yield steps(dx * size, dy * size)
    return view


def onwards(view: View, shape: Shape, number: int, target, avoid: bool) -> tuple[float, float]:
    """The direction in which to push box `number`: to the target, or around other boxes."""
    x, y, _ = view.boxes[number]
    obstacles = []
    if avoid:
        left = math.dist((x, y), target)
        for other, (ox, oy, _) in enumerate(view.boxes):
            # Boxes may touch in passing; the target may lie beside one.
            near = min(2.4 * shape.half, math.dist((ox, oy), target) - 0.002)
            if other != number and math.dist((x, y), (ox, oy)) < left:
                obstacles.append((ox, oy, max(near, 2.1 * shape.half)))
    return around((x, y), target, obstacles)


def behind(view: View, number: int, heading, distance: float) -> tuple[float, float]:
    """The place `distance` behind box `number` that shall move in direction `heading`."""
    x, y, _ = view.boxes[number]
    return x - distance * heading[0], y - distance * heading[1]


def push(steps: Steps, view: View, shape: Shape, number: int, target, tolerance: float,
         tries: int = 12, patience: int = 200, avoid: bool = False):
    """Pushes box `number` until its centre is within `tolerance` of `target` (x, y).

    The rod stays behind the box as seen from the target; where it has slipped off sideways it
    goes back and approaches again. `avoid`: whether the box is pushed around the other boxes.
    """
    hand = steps.hand
    touch = shape.half + shape.rod
    for _ in range(tries):
        box = view.boxes[number]
        if math.dist(box[:2], target) < tolerance:
            break
        view = yield from travel(
            steps, view, shape,
            lambda v: behind(v, number, onwards(v, shape, number, target, avoid),
                             shape.corner + hand.gap),
            except_box=number)
        if steps.rng.random() < hand.pause:
            view = yield from rest(steps, view, int(steps.rng.integers(1, 5)))
        for _ in range(patience):
            x, y, _ = view.boxes[number]
            left = math.dist((x, y), target)
            if left < tolerance:
                break
            ux, uy = onwards(view, shape, number, target, avoid)
            rx, ry = view.desired[0] - x, view.desired[1] - y
            along, aside = rx * ux + ry * uy, rx * -uy + ry * ux
            if abs(aside) > 1.0 * shape.half or along > -0.3 * touch:
                break
            near = along > -(shape.corner + 0.004)
            size = hand.push if near else min(hand.travel, max(hand.push, -along - shape.corner))
            size = min(size, max(left - 0.5 * tolerance, 0.25 * hand.push) if near else size)
            correct = -hand.steer * aside
            view = yield steps(size * ux - correct * uy, size * uy + correct * ux)
        # Off the box before anything else: straight back.
        x, y, _ = view.boxes[number]
        ux, uy = unit(view.desired[0] - x, view.desired[1] - y)
        goal = (x + ux * (shape.corner + hand.gap), y + uy * (shape.corner + hand.gap))
        view = yield from travel(steps, view, shape, lambda v, goal=goal: goal, precision=0.01,
                                 except_box=number, patience=30)
    return view
