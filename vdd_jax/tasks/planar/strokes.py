"""Plans straight pushes ("strokes") that bring a square box into a pose, from outside or inside.

Model: quasi-static pushing with an ellipsoidal limit surface and a contact that sticks (Lynch and
Mason 1996). With the contact at r = (x, y) from the box's centre and moving at p, the centre moves
at v and turns at w, in the box's frame:

    v = (c² p + (r · p) r) / (c² + r · r),    w = (x v_y − y v_x) / c²

where c is the ratio of the largest friction moment to the largest friction force.
"""

from typing import NamedTuple

import numpy as np

RESOLUTION = 0.005  # metres per step of the prediction
LONGEST = 0.25  # of a stroke, metres
SHORTEST = 0.03  # of one that does not end in the target
WEIGHT = 2.5
CONE = np.deg2rad(38.0)  # largest angle between stroke and face normal at which the contact holds
STICKS = np.deg2rad(28.0)  # the same of force and face normal; beyond it the contact creeps


class Stroke(NamedTuple):
    """One straight push; S of them where its fields have an axis."""

    face: np.ndarray  # 0–3; pushed along the box's +x, +y, −x, −y
    offset: np.ndarray  # of the contact along the face, metres
    direction: np.ndarray  # of the push, radians from the face's normal


class Problem(NamedTuple):
    """Sizes of the box and weights of the search; time is in control steps."""

    depth: float  # from the box's centre to a pushed face along the push: < 0 for outer faces
    reach: float  # largest offset of a contact, metres
    ratio: float  # c, metres
    speed: float  # metres per step while pushing
    reposition: float  # steps to get to another contact, at least
    circle: float  # metres of way per radian around the box to the first contact
    radian: float  # metres of way that a radian is worth
    apart: float  # metres from the target that are near enough
    turned: float  # radians from the target that are near enough


def wrap(angle):
    return (angle + np.pi) % (2 * np.pi) - np.pi


def candidates(rng: np.random.Generator, reach: float) -> Stroke:
    """Strokes to choose from, a little different each time."""
    face, offset, direction = np.meshgrid(
        np.arange(4), np.linspace(-1, 1, 7) * reach, np.deg2rad([-28.0, -14.0, 0.0, 14.0, 28.0]),
        indexing="ij")
    noise = rng.uniform(-1, 1, (2, *face.shape))
    return Stroke(face.ravel(), (offset + 0.08 * reach * noise[0]).ravel(),
                  (direction + 0.08 * noise[1]).ravel())


def pushed(stroke: Stroke, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """A box at the origin after each `RESOLUTION` of a stroke; how it moves does not depend on
    where it is.

    Args:
      stroke: fields `[S]`.

    Returns:
      `[S, P, 3]` x, y, yaw, and `[S, P]` whether the contact still holds there.
    """
    turn = stroke.face * (np.pi / 2)
    # The contact in the box's frame.
    rx = problem.depth * np.cos(turn) - stroke.offset * np.sin(turn)
    ry = problem.depth * np.sin(turn) + stroke.offset * np.cos(turn)
    c2, count = problem.ratio**2, int(LONGEST / RESOLUTION)
    at, held = np.zeros((len(turn), 3)), np.ones(len(turn), bool)
    poses, holds = np.empty((len(turn), count, 3)), np.empty((len(turn), count), bool)
    for i in range(count):
        local = turn + stroke.direction - at[:, 2]  # the rod moves straight
        px, py = RESOLUTION * np.cos(local), RESOLUTION * np.sin(local)
        along = (rx * px + ry * py) / (c2 + rx * rx + ry * ry)
        scale = c2 / (c2 + rx * rx + ry * ry)
        vx, vy = scale * px + along * rx, scale * py + along * ry
        force = np.arctan2(vy, vx)  # along the motion of the centre
        held = held & (np.abs(wrap(local - turn)) < CONE) & (np.abs(wrap(force - turn)) < STICKS)
        step = np.stack([vx, vy, (rx * vy - ry * vx) / c2], -1)
        at = composed(at, step)
        poses[:, i], holds[:, i] = at, held
    return poses, holds


def composed(pose: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """`moved` `[..., 3]`, in the frame of `pose` `[..., 3]`, in the frame that `pose` is in."""
    cos, sin = np.cos(pose[..., 2]), np.sin(pose[..., 2])
    x, y, yaw = np.moveaxis(moved, -1, 0)
    return np.stack([pose[..., 0] + cos * x - sin * y, pose[..., 1] + sin * x + cos * y,
                     pose[..., 2] + yaw], -1)


def predict(pose: np.ndarray, stroke: Stroke, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """As `pushed`, of boxes at `[B, 3]`: `[B, S, P, 3]`, and `[S, P]`."""
    moves, holds = pushed(stroke, problem)
    return composed(pose[:, None, None], moves), holds


def remaining(pose: np.ndarray, target: np.ndarray, problem: Problem) -> np.ndarray:
    """Steps that a pose `[..., 3]` is estimated to be away from the target `[3]`; 0 in it."""
    apart = np.hypot(pose[..., 0] - target[0], pose[..., 1] - target[1])
    turned = np.abs(wrap(pose[..., 2] - target[2]))
    there = (apart < problem.apart) & (turned < problem.turned)
    # Weighed more than what has been spent, or the search would dawdle: no way is as short as the
    # straight one.
    steps = WEIGHT * (apart + problem.radian * turned) / problem.speed + 2 * problem.reposition
    return np.where(there, 0.0, steps)


def plan(pose, target, rod, problem: Problem, rng: np.random.Generator, depth: int = 4,
         beam: int = 32) -> tuple[float, float, float, float]:
    """The first stroke of the best short sequence that a beam search finds.

    Args:
      pose, target: of the box, `[3]`. rod: `[2]`, where it is.

    Returns:
      face, offset, direction (see `Stroke`), and the length of the push in metres.
    """
    strokes = candidates(rng, problem.reach)
    nodes, spent = np.asarray(pose, float)[None], np.zeros(1)
    first = None  # of each node, the number of its first stroke and its length
    best, choice = np.inf, None
    moves, holds = pushed(strokes, problem)
    length = RESOLUTION * np.arange(1, holds.shape[1] + 1)
    enough = np.broadcast_to(length >= SHORTEST, holds.shape)[holds]
    for level in range(depth):
        cost = spent[:, None, None] + length / problem.speed + problem.reposition
        if level == 0:  # the way around the box to the contact
            turn = pose[2] + strokes.face * (np.pi / 2) + np.pi
            angle = wrap(np.arctan2(rod[1] - pose[1], rod[0] - pose[0]) - turn)
            cost = cost + (np.abs(angle) * problem.circle / problem.speed)[None, :, None]
        left = remaining(composed(nodes[:, None], moves[holds]), target, problem)
        # A stroke is worth its approach, or ends in the target: plans that begin with a trifle
        # are made anew after it, with another trifle.
        total = np.full((len(nodes), *holds.shape), np.inf)
        total[:, holds] = np.where(enough | (left == 0), left, np.inf)
        total += cost
        # One length per contact is carried on.
        at = total.argmin(-1)
        picked = np.take_along_axis(total, at[..., None], -1)[..., 0].ravel()
        order = np.argsort(picked)[:beam]
        node, stroke = np.divmod(order, len(strokes.face))
        i = at.ravel()[order]
        if first is None:
            first = np.stack([stroke, i], -1)
        else:
            first = first[node]
        if picked[order[0]] < best:
            best, choice = picked[order[0]], first[0]
        nodes = composed(nodes[node], moves[stroke, i])
        spent = np.broadcast_to(cost, total.shape)[node, stroke, i]
    stroke, i = choice
    return (int(strokes.face[stroke]), float(strokes.offset[stroke]),
            float(strokes.direction[stroke]), float(RESOLUTION * (i + 1)))
