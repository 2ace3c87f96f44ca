"""Scripted demonstrations: four sub-tasks in a random order, as people were asked for.

The sub-task with which an episode begins is its mode, all seven equally often; the other three and
their order are drawn. A demonstration counts if exactly the four are solved at its end, within the
benchmark's 280 steps; others are drawn again. Of 280 attempts (`attempt`, the modes in turn, seeds
(101, 5) and (102, 5), no shoves, not looked at while choosing) 81 % counted; 52 of the 53 others
were to open the hinge cabinet, which alone takes two fifths of the time: as one of the later
sub-tasks it is therefore rarer. Solved at the end, of the episodes that should: the bottom burner
in 89 %, top burner 92, light switch 94, slide cabinet 100, hinge cabinet 98, microwave 94, kettle
95. Three of four attempts are shoved, and shown from there on (`planar/lapses.py`); what then is
shorter than `SHORTEST` does not count.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vdd_jax.metrics import Log
from vdd_jax.tasks.kitchen.arm import ARM, Arm
from vdd_jax.tasks.kitchen.skills import SKILLS, Hand
from vdd_jax.tasks.kitchen.subtasks import LENGTH, NAMES, solved
from vdd_jax.tasks.kitchen.world import JOINTS, OBSERVATION, World, packages
from vdd_jax.tasks.planar import lapses
from vdd_jax.tasks.planar.lapses import Lapse, begins
from vdd_jax.tasks.planar.recording import ATTEMPTS, cache_directory, finished, kept
from vdd_jax.tasks.recording_file import Recording, write
from vdd_jax.types import Trajectory

VERSION = 4  # of the scripts: whatever changes a recording raises it
HINGE, SLIDE = NAMES.index("hinge cabinet"), NAMES.index("slide cabinet")
LIMIT = 280  # control steps
LATEST = 200  # control step, of a shove
SHORTEST = 10  # control steps that are shown; fewer show nothing, and may hold no goal
TRIES = 2  # at a sub-task, in an episode
MOST_AT_ONCE = 56  # episodes under way


class Attempt(NamedTuple):
    """N episodes of the demonstrator, whatever came of them."""

    orders: np.ndarray  # `[N, 4]` the sub-tasks it set out for
    solved: np.ndarray  # `[N, 7]` bool, at the end
    trajectories: list[Trajectory]  # after their lapses

    @property
    def good(self) -> np.ndarray:
        """`[N]` bool: exactly the wanted sub-tasks are solved, and enough is shown."""
        wanted = (self.orders[:, :, None] == np.arange(len(NAMES))).any(1)
        shown = np.array([len(t.actions) >= SHORTEST for t in self.trajectories])
        return (wanted == self.solved).all(1) & shown


def script(hand: Hand, order):
    """The actions of an episode, one after the other."""
    for k in order:
        for _ in range(TRIES):
            yield from SKILLS[NAMES[k]](hand)
            if solved(hand.arm.state)[k]:
                break


def shove(rng: np.random.Generator) -> tuple[float, ...]:
    """Any way, the fingers together or apart."""
    return (*rng.uniform(-0.6, 0.6, ARM).tolist(), *[float(rng.choice((-1.0, 1.0)))] * 2)


def attempt(orders: np.ndarray, seed, limit: int = LIMIT, threads: int | None = None,
            lapses: list[Lapse | None] | None = None) -> Attempt:
    """One try of each order `[N, K]` of sub-tasks; `seed` is anything NumPy takes, `lapses` are of
    each."""
    n = len(orders)
    lapses = lapses or [None] * n
    seeds = np.random.SeedSequence(seed).spawn(2 * n)
    observations = np.zeros((n, limit, OBSERVATION), np.float32)
    actions = np.zeros((n, limit, JOINTS), np.float32)
    running, steps = np.ones(n, bool), np.full(n, limit)
    with World(seeds[:n], threads) as world:
        scripts = [script(Hand(Arm(world, i), np.random.default_rng(seeds[n + i])), orders[i])
                   for i in range(n)]
        for t in range(limit):
            for i in np.flatnonzero(running):
                if (lapse := lapses[i]) and lapse.begin <= t < lapse.end:
                    action = np.array(lapse.action, np.float32)
                else:
                    action = next(scripts[i], None)
                if action is None:
                    running[i], steps[i] = False, t
                else:
                    # what is kept is what is done, to the bit
                    observations[i, t], actions[i, t] = world.observed[i], action
            if not running.any():
                break
            world.step(actions[:, t].astype(float), running)
        done = solved(world.states)
    shown = [slice(begin, k) for begin, k in zip(begins(lapses, steps), steps, strict=True)]
    return Attempt(np.asarray(orders), done, [
        Trajectory(observations[i, part].copy(), actions[i, part].copy())
        for i, part in enumerate(shown)])


def draw_orders(modes, rng: np.random.Generator) -> np.ndarray:
    """Orders `[N, 4]` that begin with the sub-tasks `modes` `[N]`; never the hinge cabinet before
    the slide cabinet, whose handle its open door keeps the arm from."""
    def draw(mode):
        others = [k for k in range(len(NAMES)) if k != mode]
        while True:
            order = [mode, *rng.permutation(others)[: LENGTH - 1].tolist()]
            if not (HINGE in order and SLIDE in order[order.index(HINGE):]):
                return order

    return np.array([draw(int(mode)) for mode in modes])


def identity(seed: int) -> str:
    """As `planar.recording.identity`."""
    mujoco, _ = packages()
    return f"kitchen-seed{seed}-v{VERSION}-mujoco{mujoco.__version__}"


def block(missing: list[int], seed: int, number: int, threads: int | None = None) -> Recording:
    """The successful ones of an attempt at each of the sub-tasks `missing`."""
    rng = np.random.default_rng((seed, number, 1))
    orders = draw_orders(missing, rng)
    tried = attempt(orders, (seed, number), threads=threads,
                    lapses=[lapses.draw(rng, LATEST, shove) for _ in missing])
    good = np.flatnonzero(tried.good)
    return Recording([tried.trajectories[i] for i in good], tried.orders[good, 0],
                     len(missing) - len(good))


def record(episodes_per_mode: int, seed: int = 0, threads: int | None = None,
           parts: Path | None = None) -> Recording:
    """Demonstrations, the same for the same seed; the seven modes in turn.

    Args:
      parts: directory in which finished blocks are kept, and looked for; None: nowhere. It is of
        this number of episodes alone.

    Raises:
      ValueError: `episodes_per_mode` is not positive.
      RuntimeError: attempts keep failing.
      OSError: `parts` cannot be written.
    """
    if episodes_per_mode < 1:
        raise ValueError(f"episodes_per_mode must be at least 1, got {episodes_per_mode}")
    total = episodes_per_mode * len(NAMES)
    found: list[list[Trajectory]] = [[] for _ in NAMES]
    discarded = 0
    with Log(Path(os.devnull), "record kitchen", total) as log:
        for number in range(ATTEMPTS + 4 * total // MOST_AT_ONCE):
            log.progress(sum(min(len(f), episodes_per_mode) for f in found))
            missing = [m for i in range(episodes_per_mode) for m in range(len(NAMES))
                       if i >= len(found[m])]
            if not missing:
                break
            file = parts and parts / f"{identity(seed)}-block{number}.npz"
            tried = finished(file) if file else None
            if tried is None:
                tried = block(missing[:MOST_AT_ONCE], seed, number, threads)
                if file and tried.trajectories:
                    write(file, tried)
            for mode, trajectory in zip(tried.modes, tried.trajectories, strict=True):
                found[mode].append(trajectory)
            discarded += tried.discarded
            done = sum(min(len(f), episodes_per_mode) for f in found)
            log.record(done, {"discarded": discarded})
    if any(len(f) < episodes_per_mode for f in found):
        raise RuntimeError(f"kitchen: the scripted demonstrator keeps failing ({discarded} "
                           "attempts)")
    order = [(m, i) for i in range(episodes_per_mode) for m in range(len(NAMES))]
    return Recording([found[m][i] for m, i in order], np.array([m for m, _ in order]), discarded)


def recorded(episodes_per_mode: int, seed: int = 0) -> Recording:
    """As `record`, from the user's cache if it is there."""
    file = cache_directory() / f"{identity(seed)}-{episodes_per_mode}x{len(NAMES)}.npz"
    return kept(file, f"[kitchen] recording {episodes_per_mode * len(NAMES)} demonstrations",
                lambda parts: record(episodes_per_mode, seed, parts=parts))
