"""Samplers of a diffusion or flow teacher: Euler, Heun, Euler-ancestral, DPM-Solver++(2M).

All work on y = x/α, whose noise is r = σ/α: there every schedule is a VE schedule, with the
probability-flow ODE dy/dr = (y − D(y, r))/r (Karras et al. 2022), D = E[a|x] the denoiser. So
DDIM is `euler` and DDPM with the posterior variance is `euler_ancestral` (tests compare both
with the textbook formulas), and each equation stands once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vdd_jax.core.schedules import Schedule


def _euler(denoise, y, r, r_next, noise, carry, eta):
    """Deterministic for eta = 0, DDPM's posterior for eta = 1; between, DDIM with that η."""
    x0 = denoise(y, r)
    # noise put back: r_up² = η² r_next² (r² − r_next²)/r²; r_down² + r_up² = r_next²
    r_up = eta * r_next * jnp.sqrt(jnp.maximum(1.0 - (r_next / r) ** 2, 0.0))
    r_down = jnp.sqrt(jnp.maximum(r_next**2 - r_up**2, 0.0))
    return x0 + (r_down / r) * (y - x0) + r_up * noise, carry


def _heun(denoise, y, r, r_next, noise, carry):
    """Trapezoidal corrector (Karras et al. 2022, algorithm 1); the last step is Euler's."""
    slope = (y - denoise(y, r)) / r
    predicted = y + (r_next - r) * slope

    def corrected():
        slope_next = (predicted - denoise(predicted, r_next)) / r_next
        return y + (r_next - r) * 0.5 * (slope + slope_next)

    return jax.lax.cond(r_next > 0, corrected, lambda: predicted), carry


def _dpmpp_2m(denoise, y, r, r_next, noise, carry):
    """DPM-Solver++(2M), data prediction (Lu et al. 2022, algorithm 2), in λ = −log r."""
    x0 = denoise(y, r)
    x0_last, h_last, has_last = carry
    h = jnp.log(r) - jnp.log(jnp.where(r_next > 0, r_next, 1.0))
    extrapolate = has_last & (r_next > 0)
    ratio = jnp.where(extrapolate, h_last / jnp.where(h == 0, 1.0, h), 1.0)
    d = jnp.where(extrapolate, (1 + 0.5 / ratio) * x0 - 0.5 / ratio * x0_last, x0)
    shrink = r_next / r
    return shrink * y + (1.0 - shrink) * d, (x0, h, jnp.asarray(True))


SAMPLERS = ("euler", "ddim", "euler_ancestral", "ddpm", "heun", "dpmpp_2m")


def network_calls(sampler: str, num_steps: int) -> int:
    """How often a sampler asks the network for one action."""
    return 2 * num_steps - 1 if sampler == "heun" else num_steps


def ratios(schedule: Schedule, num_steps: int, spacing: str = "karras", rho: float = 7.0):
    """The noise ratios of a run, from the largest to 0, `[num_steps + 1]`.

    `karras`: evenly spaced in r^(1/ρ); `time`: evenly spaced in the schedule's time; `log`:
    geometric.

    Raises:
      ValueError: for an unknown spacing, no steps, or a schedule that reaches noise 0 itself.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    low, high = schedule.ratio_min, schedule.ratio_max
    if num_steps > 1 and not low > 0:
        raise ValueError("several steps need a schedule whose least noise is above 0")
    u = jnp.linspace(0.0, 1.0, num_steps) if num_steps > 1 else jnp.zeros(1)
    if spacing == "karras":
        r = (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    elif spacing == "log":
        r = high * (low / high) ** u
    elif spacing == "time":
        r = schedule.ratio((1.0 - u) * schedule.t_max + u * schedule.t_min)
    else:
        raise ValueError(f"unknown spacing {spacing!r}; there are karras, log, time")
    return jnp.append(r, 0.0)


def sample(
    denoise: Callable,
    key: jax.Array,
    shape: tuple[int, ...],
    schedule: Schedule,
    num_steps: int,
    sampler: str = "euler_ancestral",
    spacing: str = "karras",
    clip: float | None = None,
) -> jax.Array:
    """Actions of the teacher, `shape` = `[..., A]`.

    Args:
      denoise: (noised action x `[..., A]`, scalar time t) → E[a|x] `[..., A]`.
      key: random key; the deterministic samplers use it for the prior only.
      shape: of the result.
      schedule: the teacher's.
      num_steps: steps from the prior to noise 0; 1 is a one-step teacher.
      sampler: one of `SAMPLERS`.
      spacing: see `ratios`.
      clip: bound on |E[a|x]|, as DDPM policies use; None for none.

    Raises:
      ValueError: for an unknown sampler or spacing.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
    grid = ratios(schedule, num_steps, spacing)

    def in_ve_space(y, r):
        t = schedule.time(r)
        x0 = denoise(schedule.alpha(t) * y, t)
        return x0 if clip is None else jnp.clip(x0, -clip, clip)

    prior_key, noise_key = jax.random.split(key)
    y = grid[0] * jax.random.normal(prior_key, shape)
    carry = (jnp.zeros(shape), jnp.asarray(1.0), jnp.asarray(False))

    def step(state, inputs):
        y, carry = state
        r, r_next, key = inputs
        if sampler in ("euler", "ddim", "euler_ancestral", "ddpm"):
            eta = 1.0 if sampler in ("euler_ancestral", "ddpm") else 0.0
            noise = jax.random.normal(key, shape)
            return _euler(in_ve_space, y, r, r_next, noise, carry, eta), None
        method = _heun if sampler == "heun" else _dpmpp_2m
        return method(in_ve_space, y, r, r_next, None, carry), None

    keys = jax.random.split(noise_key, num_steps)
    (y, _), _ = jax.lax.scan(step, (y, carry), (grid[:-1], grid[1:], keys))
    return y
