"""The identified tracking dynamics: stable, lagging, and like the recordings where they exist."""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.tasks.avoiding import dynamics, geometry, reader


def settle(target):
    """The tcp after driving to the target in small steps and waiting."""
    way = np.asarray(target) - geometry.START
    part = np.clip(np.arange(400) * 0.008 / np.abs(way).max(), 0, 1)
    return np.asarray(dynamics.follow(geometry.START + part[:, None] * way))


@pytest.mark.parametrize("target", [(0.3, -0.2), (0.7, -0.1), (0.5, 0.3), (0.25, 0.3), (0.6, 0.2)])
def test_a_still_command_is_reached_within_millimetres_or_little_more(target):
    tcp = settle(target)
    np.testing.assert_allclose(tcp[-1], target, atol=0.015)
    np.testing.assert_allclose(tcp[-1], tcp[-20], atol=1e-4)


def test_nothing_grows_without_bound_anywhere():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.0125, 0.0125, (64, 250, 2)) * (rng.random((64, 250, 1)) < 0.7)
    # Slow random walks, pushed to the corners of the corridor and beyond.
    drift = 0.004 * np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]])[np.arange(64) % 4]
    desired = geometry.START + np.cumsum(actions + drift[:, None], 1)
    desired = np.clip(desired, [0.1, -0.4], [1.0, 0.5])
    tcp = np.asarray(dynamics.follow(desired))
    assert np.isfinite(tcp).all()
    # (1.0, 0.5) is far beyond the arm's reach: the tcp stays behind there.
    assert np.linalg.norm(tcp - desired, axis=-1).max() < 0.3


def test_the_tcp_lags_behind_a_moving_command():
    desired = geometry.START + np.arange(30)[:, None] * np.array([0.0, 0.01])
    lead = desired[:, 1] - np.asarray(dynamics.follow(desired))[:, 1]
    assert 0.01 < lead[10:20].mean() < 0.07


def test_starting_along_y_kicks_the_tcp_along_x():
    # Seen in every recording; a model with separate axes cannot do it.
    desired = geometry.START + np.arange(8)[:, None] * np.array([0.0, 0.0085])
    still = np.repeat(geometry.START[None], 8, 0)
    kick = np.asarray(dynamics.follow(desired) - dynamics.follow(still))[:, 0]
    assert kick.min() < -0.002


def test_advance_agrees_with_follow_and_takes_batches():
    rng = np.random.default_rng(1)
    actions = jnp.asarray(rng.uniform(-0.0125, 0.0125, (20, 3, 2)))
    track = dynamics.start(jnp.broadcast_to(jnp.asarray(geometry.START), (3, 2)))
    tcp = [track.tcp]
    for action in actions:
        track = dynamics.advance(track, action)
        tcp.append(track.tcp)
    zero = jnp.zeros((1, 3, 2))
    desired = geometry.START + jnp.cumsum(jnp.concatenate([zero, actions]), 0)
    followed = dynamics.follow(jnp.swapaxes(desired, 0, 1))
    np.testing.assert_allclose(followed, jnp.stack(tcp, 1), atol=1e-5)


def test_one_step_is_the_documented_equation():
    c, desired, tcp = dynamics.COEFFICIENTS, np.array([0.6, 0.1]), np.array([0.58, 0.07])
    inner, action, last = np.array([0.01, 0.005, 0.002, -0.001]), np.array([0.003, 0.01]), 0.004
    track = dynamics.Track(desired, tcp, inner, np.full(2, last))
    new = desired + action
    p, q = (new - dynamics.CENTRE) / dynamics.SCALE
    inputs = np.concatenate([new - tcp, inner, action, [last, last]])
    expected = np.zeros(4)
    for f, phi in enumerate((1.0, p, q, p * p, p * q, q * q)):
        expected += phi * (c.linear[f] @ inputs + c.offset[f])
    moved = dynamics.advance(track, action)
    np.testing.assert_allclose(moved.inner, expected, atol=1e-7)
    np.testing.assert_allclose(moved.tcp, tcp + expected[:2], atol=1e-6)
    np.testing.assert_allclose(moved.desired, new, atol=1e-6)
    np.testing.assert_allclose(moved.last_action, action, rtol=1e-6)


def test_features_stay_those_of_the_edge_outside_the_region():
    edge = jnp.array([dynamics.REGION[0, 0], 0.0])
    np.testing.assert_allclose(
        dynamics.features(edge - jnp.array([0.3, 0.0])), dynamics.features(edge), atol=1e-6
    )


def test_replays_the_recorded_demonstrations():
    root = os.environ.get("VDD_SHARED_DATA")
    if not root:
        pytest.skip("VDD_SHARED_DATA is not set: no recorded demonstrations")
    recorded = [t.observations for t in reader.read(os.path.join(root, "d3il_avoiding"))]
    longest = max(map(len, recorded))
    mask = np.stack([np.arange(longest) < len(r) for r in recorded])
    padded = [np.pad(r, ((0, longest - len(r)), (0, 0)), mode="edge") for r in recorded]
    desired, recorded = np.split(np.stack(padded), 2, -1)
    tcp = np.asarray(dynamics.follow(desired))

    def before_finish(y):
        return mask & (np.cumsum(y > geometry.FINISH_Y, 1) <= 1)

    arrived = ((tcp[..., 1] > geometry.FINISH_Y) & mask).any(1)
    touches = np.asarray(geometry.collides(tcp[:, :-1], tcp[:, 1:]))
    success = arrived & ~(touches & before_finish(tcp[..., 1])[:, 1:]).any(1)
    assert success.mean() >= 0.97
    squared = np.sum((tcp - recorded) ** 2, -1)[before_finish(recorded[..., 1])]
    assert np.sqrt(squared.mean()) < 0.003
