"""What a denoising network is given and what it is to predict, for every schedule alike.

The network F sees c_in x and log(r)/4, with r = σ/α, and predicts one of

* `karras`: (a − c_skip y)/c_out with y = x/α, c_skip = σ_d²/(r² + σ_d²),
  c_out = r σ_d/√(r² + σ_d²), which has unit variance at every noise (Karras et al. 2022, table 1,
  whose weight λ = 1/c_out² makes the loss a plain squared error of F);
* `x0`: a;  `eps`: ε (Ho et al. 2020);  `velocity`: α̇ a + σ̇ ε (Lipman et al. 2023).

c_in = 1/√(α² σ_d² + σ²), σ_d the spread of the clean actions (1 when they are scaled).
"""

import jax
import jax.numpy as jnp

from vdd_jax.core import schedules
from vdd_jax.core.schedules import Schedule

Array = jax.Array

PREDICTIONS = ("karras", "x0", "eps", "velocity")


def network_input(schedule: Schedule, sigma_data: float, x: Array, t: Array):
    """(c_in x `[..., A]`, log(r)/4 of the shape of t); `t` broadcasts against x's `[...]`."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    c_in = 1.0 / jnp.sqrt(jnp.square(alpha * sigma_data) + jnp.square(sigma))
    return c_in[..., None] * x, 0.25 * jnp.log(sigma / alpha)


def _skip_and_out(schedule: Schedule, sigma_data: float, t: Array):
    r = schedule.ratio(t)[..., None]
    total = jnp.square(r) + sigma_data**2
    return sigma_data**2 / total, r * sigma_data / jnp.sqrt(total)


def target(kind: str, schedule: Schedule, sigma_data: float, action, eps, t) -> Array:
    """What F should say at x = α a + σ ε, `[..., A]`."""
    if kind == "karras":
        skip, out = _skip_and_out(schedule, sigma_data, t)
        y = action + schedule.ratio(t)[..., None] * eps
        return (action - skip * y) / out
    if kind == "x0":
        return action
    alpha, sigma = schedule.alpha(t)[..., None], schedule.sigma(t)[..., None]
    return schedules.convert(schedule, eps, "eps", kind, alpha * action + sigma * eps, t)


def to_x0(kind: str, schedule: Schedule, sigma_data: float, output, x, t) -> Array:
    """E[a|x] `[..., A]` from what F said at x."""
    if kind == "karras":
        skip, out = _skip_and_out(schedule, sigma_data, t)
        return skip * x / schedule.alpha(t)[..., None] + out * output
    return schedules.convert(schedule, output, kind, "x0", x, t)


def to_score(kind: str, schedule: Schedule, sigma_data: float, output, x, t) -> Array:
    """∇_x log p_t(x) `[..., A]` from what F said at x."""
    if kind == "karras":
        x0 = to_x0(kind, schedule, sigma_data, output, x, t)
        return schedules.convert(schedule, x0, "x0", "score", x, t)
    return schedules.convert(schedule, output, kind, "score", x, t)
