"""Jumps along the probability-flow ODE, in y = x/α with noise r = σ/α (see `samplers.py`).

A consistency model f(y, r) says where the ODE that goes through y at noise r ends (Song et al.
2023); a consistency trajectory model G(y, r, s) says where it passes noise s ≤ r (Kim et al. 2024,
eq. 4). Here f is G with s = 0, and both have the one form

    G(y, r, s) = s/r · y + (1 − s/r) · g(y, r, s),

an Euler step with a learned g in place of the denoiser: G(y, r, r) = y whatever g is, and where g
is preconditioned as by Karras et al. 2022, f(y, r) → y with r → 0 besides.
"""

import jax
import jax.numpy as jnp


def jump(g, y: jax.Array, r: jax.Array, s: jax.Array) -> jax.Array:
    """G(y, r, s) `[..., A]`.

    Args:
      g: what the network says, `[..., A]`; not looked at where r = 0, which is the end.
      y: `[..., A]`, at noise r.
      r, s: noises, broadcast against `[...]`; s ≤ r.
    """
    share = jnp.where(r > 0, s / jnp.where(r > 0, r, 1.0), 1.0)[..., None]
    return share * y + (1.0 - share) * jnp.where(share < 1.0, g, y)


def walk(denoise, y: jax.Array, grid: jax.Array, index: jax.Array, num: jax.Array, most: int):
    """The teacher's ODE from noise `grid[index]`, `num` steps down the grid: Heun's steps, and
    Euler's one to noise 0 (Karras et al. 2022, algorithm 1), `[B, A]`.

    Args:
      denoise: (y `[B, A]`, r `[B]`) → E[a|y] `[B, A]`, asked at noises above 0 alone.
      y: `[B, A]`.
      grid: noises from the largest to 0, `[N + 1]`.
      index, num: `[B]` integers; index + num ≤ N.
      most: no `num` is larger.
    """
    least = grid[-2]

    def step(y, done):
        at = jnp.minimum(index + done, len(grid) - 2)
        r, s = grid[at], grid[at + 1]
        slope = (y - denoise(y, r)) / r[..., None]
        predicted = y + (s - r)[..., None] * slope
        above = jnp.maximum(s, least)  # at 0 there is no corrector
        corrected = y + (s - r)[..., None] * 0.5 * (
            slope + (predicted - denoise(predicted, above)) / above[..., None])
        moved = jnp.where((s > 0)[..., None], corrected, predicted)
        return jnp.where((done < num)[..., None], moved, y), None

    return jax.lax.scan(step, y, jnp.arange(most))[0]


def pseudo_huber(x: jax.Array, y: jax.Array, width: float = 0.03) -> jax.Array:
    """√(‖x − y‖²/A + c²) − c, `[...]`: squared near 0, so that it has a gradient of 0 there, and
    the distance far off (Song & Dhariwal 2024)."""
    return jnp.sqrt(jnp.mean(jnp.square(x - y), axis=-1) + width**2) - width


def sample(go, key: jax.Array, shape: tuple[int, ...], grid: jax.Array, gamma: float) -> jax.Array:
    """Actions `shape` = `[..., A]` by jumps down the grid, from its largest noise.

    A step to noise s jumps to √(1 − γ²) s and puts noise γ s back (Kim et al. 2024, algorithm 3).
    γ = 1 is the sampler of consistency models, who can only jump to the end; γ = 0 keeps to the
    ODE. With one step all are the same.

    Args:
      go: (y `[..., A]`, scalar r, scalar s) → G(y, r, s).
      grid: `[N + 1]`, the last one 0; N is the number of network calls.
    """
    prior_key, noise_key = jax.random.split(key)
    y = grid[0] * jax.random.normal(prior_key, shape)

    def step(y, given):
        r, s, key = given
        noise = gamma * s * jax.random.normal(key, shape)
        return go(y, r, jnp.sqrt(1.0 - gamma**2) * s) + noise, None

    keys = jax.random.split(noise_key, len(grid) - 1)
    return jax.lax.scan(step, y, (grid[:-1], grid[1:], keys))[0]
