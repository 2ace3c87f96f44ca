"""Scripted demonstrations of aligning: strokes against the walls, from inside or from outside.

`strokes` plans a few pushes ahead; the first is made, what came of it is looked at, and the next
is planned. Of 480 attempts (`recording.attempt`, both modes in turn, seed 7001, not looked at while
choosing) 240 of 240 succeeded from inside and 238 of 240 from outside; half of them took 189 steps
or fewer, 95 % at most 292.
"""

import math

import numpy as np

from vdd_jax.tasks.planar import aligning_rules as aligning
from vdd_jax.tasks.planar import d3il, lapses, recording, skills, strokes

LOW, HIGH = 0.25, 0.335  # heights of the tcp: among the walls, above them
OUTER = aligning.WALL + aligning.THICK
INNER = aligning.WALL - aligning.THICK
SHAPE = skills.Shape(OUTER, d3il.ROD)
SHOVED = 0.012  # metres
LATEST = 200  # control step, of a shove
ASTRAY = 0.25  # radians from what was expected of a stroke, at which it is given up
FROM_OUTSIDE = strokes.Problem(
    depth=-OUTER, reach=0.8 * OUTER, ratio=0.065, speed=0.006, reposition=45.0, circle=0.1,
    radian=0.12, apart=0.010, turned=math.radians(5.0))
FROM_INSIDE = FROM_OUTSIDE._replace(
    depth=INNER, reach=0.9 * (INNER - d3il.ROD), reposition=20.0, circle=0.0)


class Hand3:
    """Steps in space: along the plane as told, and back to a height."""

    def __init__(self, hand: skills.Hand, rng: np.random.Generator):
        self.hand, self.rng, self.height = hand, rng, LOW
        self.dimensions = 2
        self._steps = skills.Steps(hand, rng, 3)
        self._expected = None  # where the last step leads

    def __call__(self, x: float, y: float, view: skills.View | None = None) -> tuple:
        z = 0.0 if view is None else 0.3 * (self.height - view.desired[2])
        step = self._steps(x, y, max(-0.01, min(0.01, z)))
        self._expected = view and (view.desired[0] + step[0], view.desired[1] + step[1])
        return step

    def start_anew(self):
        """Whatever has been is what was expected."""
        self._expected = None

    def shoved(self, view: skills.View) -> bool:
        """Whether the hand is elsewhere than its last step led."""
        return bool(self._expected) and math.dist(view.desired[:2], self._expected) > SHOVED


def towards(view, goal, most: float, slow: float = 0.3, least: float = 0.0008):
    """The step `(x, y)` from the commanded position to the goal; slows down before it."""
    dx, dy = goal[0] - view.desired[0], goal[1] - view.desired[1]
    distance = math.hypot(dx, dy)
    size = min(most, max(slow * distance, min(least, distance)))
    scale = size / max(distance, 1e-9)
    return dx * scale, dy * scale


def to_height(steps: Hand3, view, height: float, goal=None):
    """Lifts or lowers the rod, over `goal(view)` if there is one."""
    steps.height = height
    for _ in range(60):
        if abs(view.desired[2] - height) < 0.006:
            break
        step = (0.0, 0.0) if goal is None else towards(view, goal(view), steps.hand.travel)
        view = yield steps(*step, view)
    return view


def never(view) -> bool:
    return False


def move(steps: Hand3, view, goal, precision: float, most: float, patience: int = 150,
         slow: float = 0.3, least: float = 0.0008, until=never):
    """Straight to `goal(view)`, or until `until(view)`."""
    for _ in range(patience):
        place = goal(view)
        if math.dist(view.desired[:2], place) < precision or until(view):
            break
        view = yield steps(*towards(view, place, most, slow, least), view)
    return view


def enter(steps: Hand3, view, rng: np.random.Generator):
    """Over the wall into the box."""
    view = yield from to_height(steps, view, HIGH + rng.uniform(-0.005, 0.01))
    view = yield from move(steps, view, lambda v: v.boxes[0][:2], 0.006, steps.hand.travel)
    return (yield from to_height(steps, view, LOW + rng.uniform(-0.003, 0.01),
                                 lambda v: v.boxes[0][:2]))


def walk(steps: Hand3, view, place):
    """Around the box to a place beside it."""
    hand, (x, y, _) = steps.hand, view.boxes[0]
    ux, uy = skills.unit(place[0] - x, place[1] - y)
    far = SHAPE.corner + 0.014
    way = (x + far * ux, y + far * uy)
    obstacle = [(x, y, SHAPE.corner + 0.008)]
    for _ in range(120):
        distance = math.dist(view.desired[:2], way)
        if distance < 0.012:
            break
        dx, dy = skills.around(view.desired, way, obstacle)
        size = min(hand.travel, max(0.4 * distance, 0.003))
        view = yield steps(dx * size, dy * size, view)
    return view


def settle(steps: Hand3, view, precision: float = 0.005, patience: int = 8):
    """Waits until the rod has swung in: beside its place it would meet the box elsewhere."""
    for _ in range(patience):
        if math.dist(view.tcp[:2], view.desired[:2]) < precision:
            break
        view = yield steps(0.0, 0.0, view)
    return view


def astray(box, touch, stroke, problem: strokes.Problem):
    """Whether the box leaves the way that a stroke was to take it: `view -> bool`.

    From outside a small error of the contact grows, until the box turns away or the rod slips off
    the face: the sooner that is seen, the less there is to mend.
    """
    face, offset, direction, length = stroke
    poses, _ = strokes.predict(
        np.array([box]), strokes.Stroke(*(np.array([v]) for v in stroke[:3])), problem)
    yaws = [box[2], *poses[0, 0, :, 2].tolist()]
    heading = box[2] + face * math.pi / 2 + direction
    along = (math.cos(heading), math.sin(heading))

    def seen(view) -> bool:
        way = (view.tcp[0] - touch[0]) * along[0] + (view.tcp[1] - touch[1]) * along[1]
        at = min(max(round(way / strokes.RESOLUTION), 0), len(yaws) - 1)
        return abs(strokes.wrap(view.boxes[0][2] - yaws[at])) > ASTRAY

    return seen


def align(steps: Hand3, view, target, problem: strokes.Problem, rng: np.random.Generator):
    """Stroke after stroke, until the episode ends."""
    hand, outside = steps.hand, problem.depth < 0
    gap = hand.gap if outside else 0.4 * hand.gap
    while True:
        steps.start_anew()
        box = view.boxes[0]
        stroke = strokes.plan(box, target, view.tcp[:2], problem, rng)
        face, offset, direction, length = stroke
        normal = box[2] + face * math.pi / 2
        along = (math.cos(normal + direction), math.sin(normal + direction))
        depth = problem.depth - d3il.ROD
        touch = (box[0] + depth * math.cos(normal) - offset * math.sin(normal),
                 box[1] + depth * math.sin(normal) + offset * math.cos(normal))
        # Square to the face, however slanted the stroke: at an angle the rod meets the box's
        # corner first, or the face beside the place.
        ready = (touch[0] - gap * math.cos(normal), touch[1] - gap * math.sin(normal))
        if outside:
            view = yield from walk(steps, view, ready)
        view = yield from move(steps, view, lambda v, place=ready: place, 0.004, 0.7 * hand.travel,
                               until=steps.shoved)
        if steps.shoved(view):
            continue
        if outside:
            view = yield from settle(steps, view)
        if rng.random() < hand.pause:
            for _ in range(int(rng.integers(1, 5))):
                view = yield steps(0.0, 0.0, view)
        view = yield from move(steps, view, lambda v, place=touch: place, 0.005, hand.push,
                               slow=1.0, patience=12, until=steps.shoved)
        if steps.shoved(view):
            continue
        wrong = astray(box, touch, stroke, problem) if outside else never
        end = (touch[0] + length * along[0], touch[1] + length * along[1])
        view = yield from move(
            steps, view, lambda v, place=end: place, 0.004, hand.push, slow=0.18, least=0.0015,
            until=lambda v, wrong=wrong: wrong(v) or steps.shoved(v))
        if steps.shoved(view):
            continue
        for _ in range(3):
            view = yield steps(0.0, 0.0, view)
        if outside:  # off the box, straight back
            back = (view.desired[0] - 0.03 * along[0], view.desired[1] - 0.03 * along[1])
            view = yield from move(steps, view, lambda v, place=back: place, 0.008, hand.travel,
                                   patience=20)


def script(mode: int, view: skills.View, targets: np.ndarray, rng: np.random.Generator):
    """A demonstration of the mode: 0 from inside, 1 from outside."""
    uniform = rng.uniform
    hand = skills.Hand(
        travel=uniform(0.010, 0.0125), push=uniform(0.0065, 0.0085), gap=uniform(0.012, 0.02),
        steer=0.0, noise=uniform(0.0002, 0.0005), smooth=0.6, pause=0.3, limit=0.016)
    steps = Hand3(hand, rng)
    for _ in range(int(rng.integers(2, 10))):
        view = yield steps(0.0, 0.0)
    x, y, yaw = targets[0].tolist()
    target = (x + rng.normal(scale=0.001), y + rng.normal(scale=0.001), yaw)
    if mode == 0:
        view = yield from enter(steps, view, rng)
    problem = (FROM_INSIDE, FROM_OUTSIDE)[mode]
    problem = problem._replace(speed=hand.push, radian=uniform(0.1, 0.16),
                               reposition=uniform(0.9, 1.2) * problem.reposition)
    yield from align(steps, view, target, problem, rng)


DEMONSTRATOR = recording.Demonstrator(
    "aligning", 3, aligning.RULES, aligning.NUM_MODES, aligning.starts, script,
    lapse=lambda rng: lapses.draw(rng, LATEST, lapses.flat(0.012, 3)))
