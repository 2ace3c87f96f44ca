"""How often a denoiser is trained at which noise: densities of r = σ/α, or of time.

`log_uniform`, `log_normal` (Karras et al. 2022) and `log_logistic` (as BESO) are laws of log r,
cut to the schedule's range by inverting the distribution function; `time` is uniform over the
schedule's time, `steps` over the integer steps of a DDPM chain.
"""

import jax
import jax.numpy as jnp

from vdd_jax.core.schedules import Schedule

DENSITIES = ("log_uniform", "log_normal", "log_logistic", "time", "steps")


def sample_time(
    kind: str, schedule: Schedule, key: jax.Array, shape: tuple[int, ...],
    mean: float = 0.0, scale: float = 1.0,
) -> jax.Array:
    """Times of the schedule, `shape`.

    Args:
      kind: one of `DENSITIES`.
      mean, scale: location and scale of log r for `log_normal` and `log_logistic`.

    Raises:
      ValueError: for an unknown kind.
    """
    u = jax.random.uniform(key, shape)
    if kind == "time":
        return schedule.t_min + u * (schedule.t_max - schedule.t_min)
    if kind == "steps":
        return jnp.floor(schedule.t_min + u * (schedule.t_max - schedule.t_min + 1.0))
    low, high = jnp.log(schedule.ratio_min), jnp.log(schedule.ratio_max)
    if kind == "log_uniform":
        return schedule.time(jnp.exp(low + u * (high - low)))
    if kind == "log_normal":
        cdf, inverse = jax.scipy.stats.norm.cdf, jax.scipy.stats.norm.ppf
    elif kind == "log_logistic":
        cdf, inverse = jax.nn.sigmoid, jax.scipy.special.logit
    else:
        raise ValueError(f"unknown density {kind!r}; there are {', '.join(DENSITIES)}")
    first, last = cdf((low - mean) / scale), cdf((high - mean) / scale)
    log_ratio = mean + scale * inverse(first + u * (last - first))
    # the inverse is ±infinity where a tail rounds to 0 or 1
    return schedule.time(jnp.exp(jnp.clip(log_ratio, low, high)))
