"""Sorting of D3IL: red boxes are pushed into the red region, blue boxes into the blue one.

For 2, 4 or 6 boxes (`SORTING_2`, `SORTING_4`, `SORTING_6`: each is used like the module of a
task). Input `[4 + 3 n]`: desired xy, tcp xy, and x, y, tan(yaw) of each box, reds first; action
`[2]`: the change of the desired position, metres. Success: every box's centre lies in the region
of its colour. Modes: the order in which colours are delivered, 2, 6 or 20 of them, numbered as
`itertools` lists them with red before blue. At most 500, 700 or 1200 steps.

Boxes start in six cells, shuffled, yaw ±90°; unlike in the benchmark, contexts in which boxes
would overlap are drawn again. A box counts as delivered when it is first in its region (the
benchmark also asks that it be the nearest one to the region's centre among those not delivered).
"""

import itertools
from functools import partial

import numpy as np

from vdd_jax.tasks.planar import d3il, engine, lapses, recording, scores, skills
from vdd_jax.tasks.planar.engine import COMPILED, Episodes, Rules
from vdd_jax.tasks.planar.physics import Starts, World
from vdd_jax.tasks.planar.scene import cube
from vdd_jax.types import Alike, TaskSpec, Trajectory

__all__ = ["SORTING_2", "SORTING_4", "SORTING_6", "Sorting"]

START = (0.525, -0.3)
CELLS = np.array([[[x, y], [x + 0.1, y + 0.05]]
                  for x in (0.4, 0.55) for y in (-0.15, -0.05, 0.05)])  # `[6, 2, 2]` low, high
REGIONS = np.array([[[0.3, 0.22], [0.5, 0.41]], [[0.525, 0.22], [0.725, 0.41]]])  # red, blue
EPISODE_LIMITS = {2: 500, 4: 700, 6: 1200}
EPISODES_PER_CONTEXT = {2: 8, 4: 18, 6: 20}
SHAPE = skills.Shape(d3il.BOX_HALF, d3il.ROD)
# Where the demonstrator puts the boxes of a colour, from the region's low corner: those at the far
# side first.
SLOTS = {2: ((0.1, 0.095),), 4: ((0.05, 0.1), (0.15, 0.1)),
         6: ((0.05, 0.125), (0.15, 0.125), (0.1, 0.05))}


def orders(num_boxes: int) -> list[tuple[int, ...]]:
    """All orders of delivered colours (0 red, 1 blue), in the order of their numbers."""
    half = num_boxes // 2
    return [tuple(int(i not in reds) for i in range(num_boxes))
            for reds in itertools.combinations(range(num_boxes), half)]


def alike(num_boxes: int) -> Alike:
    """Boxes of a colour."""
    if num_boxes == 2:
        return ()
    places = [tuple(range(i, i + 3)) for i in range(4, 4 + 3 * num_boxes, 3)]
    return tuple(places[: num_boxes // 2]), tuple(places[num_boxes // 2 :])


def overlap(boxes: np.ndarray, half: float = d3il.BOX_HALF, margin: float = 0.002) -> np.ndarray:
    """Whether any two of the squares `[..., K, 3]` overlap, `[...]` bool."""
    found = np.zeros(boxes.shape[:-2], bool)
    for a, b in itertools.combinations(range(boxes.shape[-2]), 2):
        apart = boxes[..., b, :2] - boxes[..., a, :2]
        separate = np.zeros(found.shape, bool)
        turned = boxes[..., b, 2] - boxes[..., a, 2]
        reach = half * (1 + np.abs(np.cos(turned)) + np.abs(np.sin(turned))) + margin
        for yaw in (boxes[..., a, 2], boxes[..., b, 2]):
            for angle in (yaw, yaw + np.pi / 2):
                along = apart[..., 0] * np.cos(angle) + apart[..., 1] * np.sin(angle)
                separate |= np.abs(along) > reach
        found |= ~separate
    return found


def draw_contexts(num_boxes: int, rng: np.random.Generator, num: int) -> np.ndarray:
    """Contexts `[C, K, 3]`: x, y, yaw, reds first."""
    def draw(num):
        cells = CELLS[np.argsort(rng.random((num, 6)), 1)[:, :num_boxes]]
        places = rng.uniform(cells[:, :, 0], cells[:, :, 1])
        yaw = rng.uniform(-np.pi / 2, np.pi / 2, (num, num_boxes, 1))
        return np.concatenate([places, yaw], -1)

    contexts = draw(num)
    while (bad := overlap(contexts)).any():
        contexts[bad] = draw(int(bad.sum()))
    return contexts


def begin(contexts: np.ndarray, num_episodes: int) -> Starts:
    """N starts: episode i has context i mod C of `contexts` `[C, K, 3]`."""
    index = np.arange(num_episodes) % len(contexts)
    tcp = np.tile(np.array(START), (num_episodes, 1))
    centres = np.concatenate([REGIONS.mean(1), np.zeros((2, 1))], -1)
    return Starts(tcp, contexts[index], np.tile(centres, (num_episodes, 1, 1)), index)


def inside(world: World) -> np.ndarray:
    """Which box is in which region, `[N, K, 2]`."""
    at = world.positions[:, :, None, :2]
    return ((at > REGIONS[:, 0]) & (at < REGIONS[:, 1])).all(-1)


def own(inside: np.ndarray) -> np.ndarray:
    """Of `[N, K, 2]`, the region of each box's own colour, `[N, K]`."""
    half = inside.shape[1] // 2
    return np.concatenate([inside[:, :half, 0], inside[:, half:, 1]], 1)


def solved(world: World, inside: np.ndarray) -> np.ndarray:
    """Whether every box is in its region, `[N]`."""
    return own(inside).all(1)


def mode(world: World, events: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Number of the order in which colours were delivered, `[N]`; −1 unless all were."""
    first = own(events)
    n = first.shape[1]
    numbers = {order: i for i, order in enumerate(orders(n))}
    sequence = (np.argsort(first, 1, kind="stable") >= n // 2).astype(int)
    return np.array([numbers[tuple(s)] if (f >= 0).all() else -1
                     for s, f in zip(sequence.tolist(), first, strict=True)])


def script(num_boxes: int, mode: int, view: skills.View, targets: np.ndarray,
           rng: np.random.Generator):
    """A demonstration of the mode: box after box, of each colour those in front first."""
    uniform = rng.uniform
    hand = skills.Hand(
        travel=uniform(0.0105, 0.0125), push=uniform(0.007, 0.0095), gap=uniform(0.003, 0.008),
        steer=uniform(0.25, 0.4), noise=uniform(0.0003, 0.0008), smooth=0.6, pause=0.3,
        limit=0.0125)
    steps = skills.Steps(hand, rng)
    view = yield from skills.rest(steps, view, int(rng.integers(2, 12)))
    half = num_boxes // 2
    waiting = [list(range(half)), list(range(half, num_boxes))]
    slots = [[tuple(REGIONS[c, 0] + s + rng.normal(scale=0.004, size=2))
              for s in SLOTS[num_boxes]] for c in (0, 1)]
    for colour in orders(num_boxes)[mode]:
        boxes = view.boxes
        box = max(waiting[colour], key=lambda k: boxes[k][1] + 0.01 * rng.normal())
        waiting[colour].remove(box)
        free = slots[colour][:2]
        slot = min(free, key=lambda s: abs(s[0] - boxes[box][0]))
        slots[colour].remove(slot)
        view = yield from skills.push(steps, view, SHAPE, box, slot, uniform(0.015, 0.025),
                                      avoid=True)
    # What was pushed out again on the way is brought back.
    for _ in range(4):
        for box in range(num_boxes):
            low, high = REGIONS[int(box >= half)]
            x, y, _ = view.boxes[box]
            if not (low[0] < x < high[0] and low[1] < y < high[1]):
                slot = (min(max(x, low[0] + 0.03), high[0] - 0.03),
                        min(max(y, low[1] + 0.03), high[1] - 0.03))
                view = yield from skills.push(steps, view, SHAPE, box, slot, 0.01, avoid=True)


class Sorting:
    """Sorting of a number of boxes, used like the module of a task."""

    COMPILED = COMPILED
    SIMULATOR = "re-created Sorting of vdd_jax (MuJoCo, rod on servos)"
    Episodes = Episodes

    def __init__(self, num_boxes: int):
        if num_boxes not in EPISODE_LIMITS:
            raise ValueError(f"sorting has 2, 4 or 6 boxes, not {num_boxes}")
        self.num_boxes, self.name = num_boxes, f"sorting_{num_boxes}"
        half, size = num_boxes // 2, (d3il.BOX_HALF, d3il.BOX_MASS)
        boxes = [cube(f"red_{i + 1}", *size, "1 0 0 1") for i in range(half)]
        boxes += [cube(f"blue_{i + 1}", *size, "0 0 1 1") for i in range(half)]
        marks = [(*region.mean(0), *(region[1] - region[0]) / 2, colour)
                 for region, colour in zip(REGIONS, ("1 0.6 0.6 1", "0.6 0.6 1 1"), strict=True)]
        self.SCENE, self.EPISODE_LIMIT = d3il.flat_scene(boxes, marks), EPISODE_LIMITS[num_boxes]
        self.NUM_MODES = len(orders(num_boxes))
        self.SPEC = TaskSpec(
            self.name, observation_dim=4 + 3 * num_boxes, action_dim=2, num_modes=self.NUM_MODES,
            episode_limit=self.EPISODE_LIMIT, control_hz=1000 / 35,
            tangents=tuple(range(6, 4 + 3 * num_boxes, 3)), alike=alike(num_boxes),
            relative=d3il.relative_flat(num_boxes))
        self.RULES = Rules(self.SCENE, self.EPISODE_LIMIT, d3il.observe_flat, inside, solved, mode,
                           sees_before_physics=True)
        self.DEMONSTRATOR = recording.Demonstrator(
            self.name, 2, self.RULES, self.NUM_MODES, self.starts, partial(script, num_boxes),
            lapse=lambda rng: lapses.draw(rng, self.EPISODE_LIMIT // 2, lapses.flat(0.012)))

    def spec(self, task) -> TaskSpec:
        """The sizes; `task` is `config.task`."""
        return self.SPEC

    past_actions = staticmethod(d3il.past_actions)
    begin = staticmethod(begin)

    def draw_contexts(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """Contexts `[C, K, 3]`: x, y, yaw of the boxes."""
        return draw_contexts(self.num_boxes, rng, num)

    def read_contexts(self, path) -> np.ndarray:
        """Official contexts `[C, K, 3]`; see `d3il.read_contexts`."""
        return d3il.read_contexts(path, self.num_boxes)

    def starts(self, rng: np.random.Generator, num_episodes: int) -> Starts:
        """N starts, each of its own context."""
        return begin(self.draw_contexts(rng, num_episodes), num_episodes)

    @property
    def rollout(self):
        """See `engine.in_contexts`."""
        return engine.in_contexts(self.RULES, self.draw_contexts, begin,
                                  EPISODES_PER_CONTEXT[self.num_boxes])

    def score(self, episodes: Episodes) -> dict:
        """`scores.rates`, `entropy`: mean over contexts with success, log base of modes, and
        `delivered`: share of the boxes that have been in their region (D3IL's own simulator does
        not tell)."""
        found = scores.rates(episodes, self.NUM_MODES)
        if getattr(episodes, "events", None) is not None:
            found["delivered"] = float(np.mean(own(episodes.events) >= 0))
        found["entropy"] = scores.entropy_per_context(episodes, self.NUM_MODES, drop_failed=True)
        return found

    def read(self, directory) -> list[Trajectory]:
        """Official recordings; see `d3il.read_demonstrations`."""
        names = [f"{colour}-box{i + 1}" for colour in ("red", "blue")
                 for i in range(self.num_boxes // 2)]
        return d3il.read_demonstrations(directory, tuple(names))

    def load(self, task) -> tuple[list[Trajectory], dict]:
        """Demonstrations, and what they are; see `recording.load`."""
        return recording.load(self.DEMONSTRATOR, task, self.SPEC, self.SIMULATOR,
                              self.read)


SORTING_2, SORTING_4, SORTING_6 = Sorting(2), Sorting(4), Sorting(6)
