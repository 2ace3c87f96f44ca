"""Shoves, after which demonstrations begin.

A policy comes where a demonstrator never is, and what it does there takes it farther off. So a
share of the demonstrations begins after the hand was shoved, at any time of an episode, wherever
that has left it and the boxes: how to go on from there is what is shown. The shove itself is not
part of the demonstration, or a policy would learn it (as in DART: Laskey et al. 2017, CoRL).
"""

from typing import NamedTuple

import numpy as np

SHARE = 0.75  # of the attempts at a demonstration
SHORTEST, LONGEST = 3, 30  # control steps


class Lapse(NamedTuple):
    """From `begin` to before `end` (control steps) `action` is done, whatever the script wants."""

    begin: int
    end: int
    action: tuple[float, ...]


def draw(rng: np.random.Generator, until: int, action) -> Lapse | None:
    """One that begins at steps 1 to `until` - 1, or none; `action` is a function of `rng`."""
    if rng.random() > SHARE:
        return None
    begin = int(rng.integers(1, until))
    return Lapse(begin, begin + int(rng.integers(SHORTEST, LONGEST)), action(rng))


def begins(lapses: list[Lapse | None], steps) -> np.ndarray:
    """The first step to show `[N]` of episodes that took `steps` `[N]`: one whose lapse had not
    begun when it ended is shown whole, of one that ended within it nothing is left."""
    return np.array([lapse.end if lapse and lapse.begin < n else 0
                     for lapse, n in zip(lapses, steps, strict=True)])


def flat(size: float, dimensions: int = 2):
    """Actions of up to `size` metres a step in any direction of the plane."""
    def action(rng: np.random.Generator) -> tuple[float, ...]:
        angle, step = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.3, 1.0)
        return (step * float(np.cos(angle)), step * float(np.sin(angle)),
                *(0.0,) * (dimensions - 2))

    return action
