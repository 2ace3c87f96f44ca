"""A scripted demonstrator for the Avoiding task: all 24 modes evenly, driven like a gamepad.

Two sticks give the action per axis: nothing below 0.4 of the way, then proportionally up to
0.0125 m per step; y only forwards. The driver waits a moment, aims at a point of each row's gate
(roughly first, correcting when near), slows down or stops where x is not there in time, now and
then hesitates. Every trait (speeds, aims, smoothness, pauses) is drawn anew for each episode.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdd_jax.tasks.avoiding import geometry, simulator
from vdd_jax.types import Trajectory

Array = jax.Array

DEAD_ZONE = 0.4  # of the stick
FRAMES = 150  # longest demonstration
MIN_CLEARANCE = 0.002  # metres; a closer shave is drawn again
START_NOISE = 0.003  # twice the simulator's, so that policies see how to come back
# Where to pass each row, from small to large x; cells narrower than the gates themselves.
AIMS = (
    ((0.385, 0.450), (0.565, 0.625)),
    ((0.312, 0.370), (0.480, 0.522), (0.628, 0.705)),
    ((0.260, 0.304), (0.400, 0.444), (0.552, 0.594), (0.698, 0.755)),
)


class Driver(NamedTuple):
    """The traits of one episode."""

    aims: Array  # `[3]` x at each row, metres
    first_aims: Array  # `[3]` the same before the correction
    correct_at: Array  # `[3]` distance to the row at which the aim is corrected, metres
    cruise: Array  # `[4]` y stick on the way to each row and to the finish
    side: Array  # `[3]` least x stick of a move
    strength: Array  # `[3]` greatest x stick of a move
    urgency: Array  # how much faster than just in time x is moved
    margin: Array  # how far before a row x has to be right, metres
    smooth: Array  # share of the stick's way covered per frame
    turn_at: Array  # `[3]` how far behind a row the next aim is taken up, metres
    tolerance: Array  # x error that starts a move, metres
    idle: Array  # frames before the first action
    pause_at: Array  # `[2]` frames of hesitations
    pause_for: Array  # `[2]` their lengths; 0 for none
    tail: Array  # frames recorded after the finish


class Hand(NamedTuple):
    """What the driver is doing."""

    sticks: Array  # `[2]`
    push: Array  # the x stick aimed at while a move lasts; 0 otherwise
    leg: Array  # int, rows dealt with; 3 on the way to the finish


def draw(key: Array, ways: Array) -> Driver:
    """Traits of an episode that passes the rows by `ways` `[3]`."""
    uniform_key, normal_key = jax.random.split(key)
    # One draw of each kind, dealt out below: compiles in a third of the time of twenty draws.
    numbers = iter(jax.random.uniform(uniform_key, (48,)))
    normals = jax.random.normal(normal_key, (4,))

    def uniform(low, high, size: int = 1) -> Array:
        values = jnp.stack([next(numbers) for _ in range(size)])
        return low + (high - low) * (values if size > 1 else values[0])

    cells = jnp.stack([jnp.asarray(row)[ways[i]] for i, row in enumerate(AIMS)])
    aims = uniform(cells[:, 0], cells[:, 1], 3)
    # The next aim is taken up early, unless a cylinder of this row is on that side.
    right = aims[1:] > aims[:-1]
    blocked = jnp.where(right, ways[:2] < jnp.array([1, 2]), ways[:2] > 0)
    turn_at = jnp.where(blocked, uniform(0.0, 0.02, 2), uniform(-0.1, -0.02, 2))
    # 1.2: pushed beyond the stop, so that the limit is reached in few frames.
    cruise = jnp.where(uniform(0.0, 1.0, 4) < 0.7, 1.2, uniform(0.7, 1.0, 4)).at[3].set(1.2)
    hesitates = uniform(0.0, 1.0, 2) < 0.12
    return Driver(
        aims=aims,
        first_aims=jnp.clip(aims + 0.01 * normals[:3], cells[:, 0], cells[:, 1]),
        correct_at=uniform(0.07, 0.12, 3),
        cruise=cruise,
        side=uniform(0.42, 0.6, 3),
        strength=jnp.where(uniform(0.0, 1.0, 3) < 0.5, 1.0, uniform(0.65, 0.95, 3)),
        urgency=uniform(0.95, 1.2),
        margin=uniform(0.035, 0.055),
        smooth=uniform(0.25, 0.5),
        turn_at=jnp.append(turn_at, 0.02),
        tolerance=uniform(0.011, 0.016),
        idle=jnp.clip(jnp.round(3.9 * jnp.exp(0.5 * normals[3])), 0, 20),
        pause_at=uniform(10.0, 70.0, 2),
        pause_for=jnp.where(hesitates, jnp.round(uniform(2.0, 9.0, 2)), 0),
        tail=jnp.round(uniform(5.0, 12.0)),
    )


def drive(driver: Driver, hand: Hand, desired: Array, tcp: Array, frame: Array):
    """The next action `[2]` in metres, and the hand."""
    rows = jnp.asarray(geometry.ROWS_Y)
    row = jnp.minimum(hand.leg, 2)
    past = tcp[1] - rows[row]
    inside = (jnp.abs(driver.aims[row] - tcp[0]) < 0.03) | (past > 0.01)
    leg = jnp.where((hand.leg < 3) & (past > driver.turn_at[row]) & inside, hand.leg + 1, hand.leg)
    row = jnp.minimum(leg, 2)
    far = rows[row] - tcp[1] > driver.correct_at[row]
    aim = jnp.where(far, driver.first_aims[row], driver.aims[row])
    error = aim - desired[0]
    room = jnp.maximum(rows[row] - driver.margin - desired[1], 0.0)
    late = leg < 3
    limit = geometry.ACTION_LIMIT

    cruise = driver.cruise[leg]
    needed = driver.urgency * jnp.abs(error) / jnp.maximum(room / jnp.minimum(cruise, 1.0), limit)
    wanted = jnp.clip(jnp.maximum(needed, driver.side[row]), DEAD_ZONE + 0.02, 1.0)
    going = hand.push != 0
    # Let go a little early: the next frame would overshoot, and the tcp swings on.
    arrived = (jnp.abs(error) < 0.004 + 0.5 * limit * jnp.abs(hand.push)) | (
        jnp.sign(error) != jnp.sign(hand.push)
    )
    begins = ~going & (jnp.abs(error) > driver.tolerance)
    size = jnp.where(begins, wanted, jnp.maximum(jnp.abs(hand.push), jnp.where(late, needed, 0)))
    size = jnp.minimum(size, driver.strength[row])
    push = jnp.where(begins | (going & ~arrived), jnp.sign(error) * size, 0.0)

    # Forwards no faster than x allows; a stick that would be in the dead zone is let go.
    missing = jnp.maximum(jnp.abs(error), jnp.abs(aim - tcp[0]) - 0.015)
    time = missing / (limit * jnp.maximum(jnp.abs(push), 0.4))
    pace = room / (limit * jnp.maximum(time, 1.0))
    # Never beside the row just passed: the rod must not be drawn back across its cylinders.
    beside = (leg > 0) & (desired[1] < rows[leg - 1] + 0.06)
    slows = late & ~beside & (missing > driver.tolerance)
    pace = jnp.where(slows, jnp.minimum(cruise, pace), cruise)
    pace = jnp.where(pace < DEAD_ZONE, 0.0, pace)

    since = frame - driver.pause_at
    waits = (frame < driver.idle) | jnp.any((since >= 0) & (since < driver.pause_for))
    target = jnp.where(waits, 0.0, jnp.stack([push, pace]))
    # A stick is let go faster than it is pushed.
    sticks = hand.sticks + jnp.where(target == 0, 0.85, driver.smooth) * (target - hand.sticks)
    sticks = jnp.where(jnp.abs(sticks - target) < 0.01, target, sticks)
    action = limit * jnp.where(jnp.abs(sticks) < DEAD_ZONE, 0.0, jnp.clip(sticks, -1.0, 1.0))
    return action.at[1].set(jnp.maximum(action[1], 0.0)), Hand(sticks, push, leg)


class Attempt(NamedTuple):
    """One drive, recorded for `FRAMES` frames of which the first `length` count."""

    observations: Array  # `[FRAMES, 4]`
    actions: Array  # `[FRAMES, 2]`
    length: Array
    good: Array  # bool


def attempt(key: Array, mode: Array) -> Attempt:
    """Drives one episode of the mode and says whether it is worth keeping."""
    noise_key, driver_key = jax.random.split(key)
    ways = jnp.stack([mode // 12, mode // 4 % 3, mode % 4])
    driver = draw(driver_key, ways)
    track = simulator.reset(noise_key, START_NOISE).track

    def frame(carry, t):
        track, hand = carry
        action, hand = drive(driver, hand, track.desired, track.tcp, t)
        observation = jnp.concatenate([track.desired, track.tcp])
        after = simulator.follow(track, t, action)
        free = geometry.clearance(track.tcp, after.tcp)
        return (after, hand), (observation, action, after.tcp, free)

    carry = (track, Hand(jnp.zeros(2), jnp.zeros(()), jnp.zeros((), int)))
    _, (observations, actions, tcp, free) = jax.lax.scan(frame, carry, jnp.arange(FRAMES))
    arrived = geometry.reached(tcp)
    first = jnp.argmax(arrived)
    length = first + 1 + driver.tail.astype(int)
    before = jnp.arange(FRAMES) <= first
    good = jnp.any(arrived) & (length <= FRAMES) & (geometry.mode_of_path(tcp) == mode)
    good &= jnp.min(jnp.where(before, free, 1.0)) > MIN_CLEARANCE
    good &= ~jnp.any(geometry.outside(tcp) & before)
    return Attempt(observations, actions, length, good)


@partial(jax.jit, static_argnames="num")
def _attempts(key: Array, num: int) -> Attempt:
    """`num` attempts of each mode, `[24, num, ...]`."""
    keys = jax.random.split(key, (geometry.NUM_MODES, num))
    over_attempts = jax.vmap(attempt, in_axes=(0, None))
    return jax.vmap(over_attempts)(keys, jnp.arange(geometry.NUM_MODES))


def demonstrate_counted(seed: int, episodes_per_mode: int = 4) -> tuple[list[Trajectory], int]:
    """As `demonstrate`, with the number of attempts that were discarded on the way.

    Raises:
      ValueError: `episodes_per_mode` is not positive.
    """
    if episodes_per_mode < 1:
        raise ValueError(f"episodes_per_mode must be at least 1, got {episodes_per_mode}")
    kept: list[list[Trajectory]] = [[] for _ in range(geometry.NUM_MODES)]
    discarded, key, batch = 0, jax.random.key(seed), min(episodes_per_mode + 2, 64)
    block = 0
    while any(len(k) < episodes_per_mode for k in kept):
        tries = jax.tree.map(np.asarray, _attempts(jax.random.fold_in(key, block), batch))
        block += 1
        for mode, i in np.ndindex(geometry.NUM_MODES, batch):
            if len(kept[mode]) == episodes_per_mode:
                continue
            if not tries.good[mode, i]:
                discarded += 1
                continue
            length = tries.length[mode, i]
            kept[mode].append(
                Trajectory(tries.observations[mode, i, :length], tries.actions[mode, i, :length])
            )
    # Mode by mode in turn, so that any prefix is as balanced as it can be.
    return [
        kept[m][i] for i in range(episodes_per_mode) for m in range(geometry.NUM_MODES)
    ], discarded


def demonstrate(seed: int, episodes_per_mode: int = 4) -> list[Trajectory]:
    """Successful demonstrations in the re-created simulator, the same for the same seed.

    Returns:
      24 · `episodes_per_mode` trajectories: observations `[L, 4]` and actions `[L, 2]` (metres,
      float32), L at most `FRAMES`; the modes 0–23 in turn.
    """
    return demonstrate_counted(seed, episodes_per_mode)[0]
