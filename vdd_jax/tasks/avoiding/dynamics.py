"""How the robot's tool centre point (tcp) follows the commanded position: identified dynamics.

A policy moves the *desired* position; a Cartesian controller of a 7-joint arm follows it with lag,
overshoot and cross-talk between the axes (starting along y first kicks the tcp along x), all of
which change over the workspace. This is a discrete-time model of one control step (35 ms):

    e = desired' − tcp,   s = (v, h),   u = (Δdesired', Δdesired)
    s' = Σ_f φ_f(desired') (W_f [e, s, u] + b_f),     tcp' = tcp + v'

with the tcp's displacement v `[2]`, hidden states h `[H]`, and φ = (1, p, q, p², pq, q²) of the
normalised desired position (p, q). `coefficients.py` holds W, b and the initial s, fitted by
`experiments/avoiding_dynamics.py` to the recorded demonstrations.

The recording (and the official environment's observation) pairs each new desired position with
the tcp at the moment the command is given. The tcp after a step therefore hardly feels that
step's own command: it is what the *previous* command led to.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdd_jax.tasks.avoiding import coefficients as fitted
from vdd_jax.tasks.avoiding.geometry import START

Array = jax.Array

CENTRE = np.array([0.525, 0.0])
SCALE = np.array([0.2, 0.25])
# Outside the region of the demonstrations the coefficients stay those of its edge: a quadratic
# in the position must not be extrapolated.
REGION = np.array([[0.23, -0.28], [0.79, 0.39]])
REACH = 0.85  # of the arm, from its base at the origin
NUM_FEATURES = 6
NUM_HIDDEN = 2
# Metres per step and axis. The fastest of the recorded demonstrations is 0.021: this only bounds
# what the model does far from them.
SPEED_LIMIT = 0.03


class Coefficients(NamedTuple):
    """R = 2 + H rows (v, h); M = 2 + R + 4 inputs (e, s, u); F position features."""

    linear: Array  # `[F, R, M]`, W
    offset: Array  # `[F, R]`, b in metres
    initial: Array  # `[R]`, s right after a reset in metres: the arm still settles then


class Track(NamedTuple):
    """The tracking state, any batch axes in front."""

    desired: Array  # `[..., 2]`
    tcp: Array  # `[..., 2]`
    inner: Array  # `[..., R]`, s
    last_action: Array  # `[..., 2]`, Δdesired of the step before


COEFFICIENTS = Coefficients(
    np.asarray(fitted.LINEAR), np.asarray(fitted.OFFSET), np.asarray(fitted.INITIAL)
)


def start(tcp: Array, coefficients: Coefficients = COEFFICIENTS) -> Track:
    """The state right after a reset of the robot to `tcp`, `[..., 2]`."""
    tcp = jnp.asarray(tcp)
    inner = jnp.asarray(coefficients.initial, tcp.dtype)
    inner = jnp.broadcast_to(inner, (*tcp.shape[:-1], *inner.shape))
    return Track(tcp, tcp, inner, jnp.zeros_like(tcp))


def features(desired: Array) -> Array:
    """φ at the desired positions, `[..., 2]` → `[..., F]`."""
    point = jnp.clip(desired, REGION[0], REGION[1])
    radius = jnp.sqrt(jnp.sum(point * point, -1, keepdims=True))
    point = point * jnp.minimum(1.0, REACH / radius)
    p, q = jnp.moveaxis((point - CENTRE) / SCALE, -1, 0)
    return jnp.stack([jnp.ones_like(p), p, q, p * p, p * q, q * q], -1)


def advance(track: Track, action: Array, coefficients: Coefficients = COEFFICIENTS) -> Track:
    """One control step: the desired position moves by `action` `[..., 2]`, the tcp follows."""
    desired = track.desired + action
    inputs = jnp.concatenate([desired - track.tcp, track.inner, action, track.last_action], -1)
    phi = features(desired)
    linear = jnp.einsum("...f,frm->...rm", phi, coefficients.linear)
    inner = jnp.einsum("...rm,...m->...r", linear, inputs) + phi @ coefficients.offset
    velocity = jnp.clip(inner[..., :2], -SPEED_LIMIT, SPEED_LIMIT)
    inner = jnp.concatenate([velocity, inner[..., 2:]], -1)
    return Track(desired, track.tcp + velocity, inner, action)


def follow(desired: Array, coefficients: Coefficients = COEFFICIENTS) -> Array:
    """The tcp of a free-running simulation that is given only the desired positions.

    Args:
      desired: `[..., L, 2]`; its first row is the command at the first observation, so that the
        first step taken is to row 1. The tcp begins at `START`.

    Returns:
      The tcp `[..., L, 2]`; row 0 is `START`.
    """
    desired = jnp.asarray(desired)
    tcp = jnp.broadcast_to(jnp.asarray(START, desired.dtype), desired[..., 0, :].shape)

    def step(track: Track, target: Array) -> tuple[Track, Array]:
        track = advance(track, target - track.desired, coefficients)
        return track, track.tcp

    targets = jnp.moveaxis(desired, -2, 0)[1:]
    _, path = jax.lax.scan(step, start(tcp, coefficients), targets)
    return jnp.moveaxis(jnp.concatenate([tcp[None], path]), 0, -2)
