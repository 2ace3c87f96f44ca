"""Jumps and walks along the probability-flow ODE, against a teacher whose ODE is solved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.core import jumps, samplers, schedules

B, A, STD = 5, 3, 0.4
Y = jnp.asarray(np.random.default_rng(0).normal(size=(B, A)), jnp.float32)
GRID = samplers.ratios(schedules.ve(0.01, 5.0), 60)


def denoise(y, r):
    """Of N(0, STD²)."""
    share = STD**2 / (STD**2 + jnp.square(r))
    return share[..., None] * y


def exact(y, r, s):
    """Where the ODE of N(0, STD²) takes y: y / √(STD² + r²) does not change."""
    return y * (jnp.sqrt(STD**2 + s**2) / jnp.sqrt(STD**2 + r**2))[..., None]


def test_a_jump_to_where_one_is_is_the_identity():
    """Whatever the network says, also where it says NaN; and at the end, r = 0."""
    r = jnp.array([5.0, 1.0, 0.1, 0.01, 0.0])
    for g in (Y + 3, jnp.full_like(Y, jnp.nan)):
        np.testing.assert_array_equal(jumps.jump(g, Y, r, r), Y)


def test_a_jump_to_the_end_is_what_the_network_says():
    """G(y, r, 0) = g, and half-way an Euler step towards it."""
    g, r = Y + 3, jnp.ones(B)
    np.testing.assert_array_equal(jumps.jump(g, Y, r, jnp.zeros(B)), g)
    np.testing.assert_allclose(jumps.jump(g, Y, r, r / 2), Y + 1.5, rtol=1e-6)


def test_gradients_of_a_jump():
    """(1 − s/r) into what the network says; exactly none where it does not move."""
    def loss(g, r, s):
        return jnp.sum(jumps.jump(g, Y, r, s))

    r = jnp.array([2.0, 1.0, 1.0, 0.5, 0.0])
    s = jnp.array([1.0, 0.0, 1.0, 0.1, 0.0])
    grad = jax.grad(loss)(Y, r, s)
    np.testing.assert_allclose(grad[:, 0], [0.5, 1.0, 0.0, 0.8, 0.0], rtol=1e-6)


def test_a_walk_follows_the_ode():
    """From anywhere, of any number of steps, each row its own; to the end too."""
    index, num = jnp.array([0, 10, 30, 59, 0]), jnp.array([60, 5, 30, 1, 0])
    r, s = GRID[index], GRID[index + num]
    found = jumps.walk(denoise, Y, GRID, index, num, 60)
    np.testing.assert_allclose(found, exact(Y, r, s), rtol=0.03, atol=2e-3)
    np.testing.assert_array_equal(found[4], Y[4])


def test_a_walk_is_heuns():
    """One step down the grid against the sampler's own, to noise and to the end."""
    for i in (20, 59):
        r, s = GRID[i], GRID[i + 1]
        expected, _ = samplers._heun(
            lambda y, r: denoise(y, jnp.broadcast_to(r, B)), Y, r, s, None, None)
        found = jumps.walk(denoise, Y, GRID, jnp.full(B, i), jnp.ones(B, int), 1)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_walk_does_not_ask_at_noise_0():
    """A denoiser that knows no noise below the least one is never asked there."""
    def picky(y, r):
        return jnp.where((r >= GRID[-2])[..., None], denoise(y, r), jnp.nan)

    found = jumps.walk(picky, Y, GRID, jnp.full(B, 50), jnp.full(B, 10), 10)
    assert np.isfinite(found).all()


def test_pseudo_huber():
    """Squared near 0, with a gradient of 0 at 0; the distance far off."""
    zero = jnp.zeros((1, 4))
    assert jumps.pseudo_huber(zero, zero)[0] == 0
    np.testing.assert_array_equal(
        jax.grad(lambda x: jumps.pseudo_huber(x, zero)[0])(zero), zero)
    near = jumps.pseudo_huber(zero + 1e-3, zero, 0.1)[0]
    np.testing.assert_allclose(near, 1e-6 / 0.2, rtol=1e-2)
    np.testing.assert_allclose(jumps.pseudo_huber(zero + 50, zero, 0.1)[0], 49.9, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_samples_of_exact_jumps_have_the_law(gamma, steps):
    """Whatever noise is put back: mean 0 and the teacher's std, from a prior of the law at the
    most noise (N(0, 5²), of which it is not quite)."""
    grid = samplers.ratios(schedules.ve(0.01, 5.0), steps)
    found = jumps.sample(lambda y, r, s: exact(y, r, s), jax.random.key(steps),
                               (20_000, A), grid, gamma)
    np.testing.assert_allclose(found.std(), STD, rtol=0.02)
    np.testing.assert_allclose(found.mean(), 0.0, atol=0.01)


def test_jumps_of_a_sample():
    """The levels asked for: √(1 − γ²) of the next one, and the end at last."""
    asked = []

    def go(y, r, s):
        jax.debug.callback(lambda r, s: asked.append((float(r), float(s))), r, s, ordered=True)
        return y

    grid = jnp.array([4.0, 2.0, 1.0, 0.0])
    jumps.sample(go, jax.random.key(0), (A,), grid, 0.6)
    jax.effects_barrier()
    np.testing.assert_allclose(asked, [(4.0, 1.6), (2.0, 0.8), (1.0, 0.0)], rtol=1e-6)
