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
    # Both laws are symmetric about their mean. In float32 a lower tail is exact and an upper one is
    # 1: a range above the mean is mirrored.
    above = low > mean
    start, end = jnp.where(above, mean - high, low - mean), jnp.where(
        above, mean - low, high - mean)
    first, last = cdf(start / scale), cdf(end / scale)
    from_mean = scale * inverse(first + u * (last - first))
    from_mean = jnp.clip(from_mean, start, end)  # ±infinity where a tail rounds to 0 or 1
    return schedule.time(jnp.exp(jnp.clip(mean + jnp.where(above, -1, 1) * from_mean, low, high)))
