"""The seven sub-tasks of the relay kitchen, when one counts as solved, and orders of them.

A sub-task is solved at the first moment when its object's coordinates are within 0.3 (Euclidean
norm) of fixed values, whoever moved them. A behaviour is the order in which the first four were
solved, one of 7 · 6 · 5 · 4 = 840.
"""

import itertools

import numpy as np

# What is solved where in an observation, and the coordinates to be reached (Gupta et al. 2019).
SUBTASKS = {
    "bottom burner": (slice(11, 13), (-0.88, -0.01)),
    "top burner": (slice(15, 17), (-0.92, -0.01)),
    "light switch": (slice(17, 19), (-0.69, -0.05)),
    "slide cabinet": (slice(19, 20), (0.37,)),
    "hinge cabinet": (slice(20, 22), (0.0, 1.45)),
    "microwave": (slice(22, 23), (-0.75,)),
    "kettle": (slice(23, 30), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
}
NAMES = tuple(SUBTASKS)
TOLERANCE = 0.3
LENGTH = 4  # sub-tasks of a behaviour, as many as a demonstrator was asked for
ORDERS = tuple(itertools.permutations(range(len(NAMES)), LENGTH))
_NUMBERS = {order: i for i, order in enumerate(ORDERS)}


def solved(positions: np.ndarray) -> np.ndarray:
    """Which sub-tasks are solved in states or observations `[..., 30]`: `[..., 7]` bool."""
    return np.stack([
        np.linalg.norm(positions[..., where] - np.array(values), axis=-1) < TOLERANCE
        for where, values in SUBTASKS.values()], -1)


def order_of(events: np.ndarray) -> np.ndarray:
    """The number of the order in which the first four sub-tasks were solved.

    Args:
      events: `[N, 7]` int, the step after which each was solved first; −1 never. Of two solved in
        one step the first in `NAMES` counts as earlier.

    Returns:
      `[N]` int; −1 where fewer than four were solved.
    """
    never = np.iinfo(np.int64).max
    first = np.argsort(np.where(events < 0, never, events), 1, kind="stable")[:, :LENGTH]
    return np.array([_NUMBERS[tuple(order)] if count >= LENGTH else -1 for order, count in zip(
        first.tolist(), (events >= 0).sum(1), strict=True)], int)


def name_of(number: int) -> str:
    """An order in words."""
    return ", ".join(NAMES[i] for i in ORDERS[number])
