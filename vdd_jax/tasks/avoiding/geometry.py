"""The plane of the Avoiding task: obstacles, start, limits, swept collision, mode code.

All lengths are in metres. Points are `[..., 2]` (x, y); the rod moves from the start at small y
past three rows of cylinders to the finish line.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# One cylinder in the first row, two in the second, three in the third.
CENTRES = np.array(
    [[0.5, -0.1], [0.425, 0.08], [0.575, 0.08], [0.35, 0.26], [0.5, 0.26], [0.65, 0.26]]
)
RADII = np.array([0.03, 0.025, 0.025, 0.025, 0.025, 0.025])
ROD_RADIUS = 0.01
# Where the robot's reset puts the tool centre point: nominally (0.525, −0.28); the 96 recorded
# demonstrations all begin at this point.
START = np.array([0.5249, -0.2797])
FINISH_Y = 0.35
CORRIDOR_X = (0.18, 0.85)  # going round all obstacles is not a solution
ACTION_LIMIT = 0.0125  # per axis and step, of the demonstrators' gamepad
ROWS_Y = (-0.1, 0.08, 0.26)
ROW_BAND = 0.03  # half height of the band in which the first two rows are counted as passed
GATES_X = ((0.5,), (0.425, 0.575), (0.35, 0.5, 0.65))  # what separates the ways through each row
NUM_MODES = 24


def clearance(start: Array, end: Array) -> Array:
    """Smallest free distance between the rod, swept along a segment, and any cylinder.

    Args:
      start, end: the segment's ends, `[..., 2]`.

    Returns:
      `[...]` metres; negative or zero where the rod touches a cylinder anywhere on the way, also
      where both ends are free.
    """
    along = (end - start)[..., None, :]
    to_centre = CENTRES - start[..., None, :]
    # The maximum keeps a segment of length 0 (a rod that stands still) from dividing 0 by 0.
    length = jnp.maximum(jnp.sum(along * along, -1), 1e-12)
    t = jnp.clip(jnp.sum(to_centre * along, -1) / length, 0.0, 1.0)
    nearest = t[..., None] * along - to_centre
    # Not jnp.linalg.norm: its gradient is NaN at 0.
    distance = jnp.sqrt(jnp.maximum(jnp.sum(nearest * nearest, -1), 1e-18))
    return jnp.min(distance - RADII - ROD_RADIUS, -1)


def collides(start: Array, end: Array) -> Array:
    """Whether the rod touches a cylinder on the way from `start` to `end`, `[..., 2]` → `[...]`."""
    return clearance(start, end) <= 0.0


def reached(tcp: Array) -> Array:
    """Whether the rod is past the finish line, `[..., 2]` → `[...]`."""
    return tcp[..., 1] > FINISH_Y


def outside(tcp: Array) -> Array:
    """Whether the rod left the valid corridor of x, `[..., 2]` → `[...]`."""
    return (tcp[..., 0] < CORRIDOR_X[0]) | (tcp[..., 0] > CORRIDOR_X[1])


def update_ways(ways: Array, tcp: Array) -> Array:
    """Notes which way each row is passed, the first time the rod is there.

    Args:
      ways: `[..., 3]` int, −1 for a row not passed yet.
      tcp: `[..., 2]`, at the end of a control step (as the official environment looks at it).

    Returns:
      `[..., 3]`: counted from small x, 0–1 in the first row, 0–2 in the second, 0–3 in the third.
    """
    x, y = tcp[..., 0], tcp[..., 1]
    here = jnp.stack(
        [
            jnp.abs(y - ROWS_Y[0]) <= ROW_BAND,
            jnp.abs(y - ROWS_Y[1]) <= ROW_BAND,
            y >= ROWS_Y[2],
        ],
        -1,
    )
    way = jnp.stack([jnp.sum(x[..., None] > jnp.asarray(g), -1) for g in GATES_X], -1)
    return jnp.where(here & (ways < 0), way, ways).astype(jnp.int32)


def mode_of(ways: Array) -> Array:
    """Mode 0–23 of the ways `[..., 3]`; −1 where a row was not passed."""
    mode = ways[..., 0] * 12 + ways[..., 1] * 4 + ways[..., 2]
    return jnp.where(jnp.all(ways >= 0, -1), mode, -1).astype(jnp.int32)


def ways_of(mode) -> np.ndarray:
    """The inverse of `mode_of`: `[...]` modes 0–23 → `[..., 3]` ways."""
    mode = np.asarray(mode)
    return np.stack([mode // 12, mode // 4 % 3, mode % 4], -1)


def mode_bits(ways: Array) -> Array:
    """The 9-bit code: one-hot of each row's way, 2 + 3 + 4 bits, `[..., 3]` → `[..., 9]`.

    A row that was not passed has no bit set.
    """
    one_hot = [jax.nn.one_hot(ways[..., row], row + 2, dtype=jnp.int32) for row in range(3)]
    return jnp.concatenate(one_hot, -1)


def mode_of_path(tcp: Array) -> Array:
    """Mode of whole paths `[..., L, 2]` → `[...]`."""
    ways = jnp.full((*tcp.shape[:-2], 3), -1, jnp.int32)
    ways, _ = jax.lax.scan(
        lambda w, point: (update_ways(w, point), None), ways, jnp.moveaxis(tcp, -2, 0)
    )
    return mode_of(ways)
