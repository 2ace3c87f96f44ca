"""The noise levels at which a student is compared with its teacher (METHOD 2, 5)."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdd_jax import config as config_lib
from vdd_jax.core.objectives import Level
from vdd_jax.core.schedules import Schedule


def noise_level(
    noise: ConfigDict, schedule: Schedule, progress: jax.Array, key: jax.Array, batch_size: int
) -> Level:
    """The noise levels of one update, one for each state.

    Args:
      noise: `config.distill.noise`.
      schedule: the teacher's.
      progress: fraction of the iterations done, a scalar.
    """
    if noise.kind == "discrete":
        t = jax.random.choice(key, jnp.asarray(noise.steps, jnp.float32), (batch_size,))
        return Level(t, schedule.alpha(t), schedule.sigma(t))
    low, high = noise.low, noise.high
    if noise.kind == "fixed":
        ratio = jnp.full((batch_size,), high)
    elif noise.kind == "uniform":
        ratio = jax.random.uniform(key, (batch_size,), minval=low, maxval=high)
    else:
        u = jnp.clip(progress / noise.anneal_end, 0.0, 1.0)
        path = high * (low / high) ** u if noise.anneal_shape == "geometric" else (
            high + (low - high) * u
        )
        broad_key, share_key = jax.random.split(key)
        broad = jax.random.uniform(share_key, (batch_size,)) < noise.anneal_broad
        up = jnp.where(broad, jax.random.uniform(broad_key, (batch_size,)), 0.0)
        ratio = path * (high / path) ** up
    t = schedule.time(ratio)
    return Level(t, schedule.alpha(t), schedule.sigma(t))


def check_noise(noise: ConfigDict, teacher) -> None:
    """The levels are ones that the teacher was trained at.

    Raises:
      ConfigError: when they are not.
    """
    low, high = teacher.schedule.ratio_min, teacher.schedule.ratio_max
    asked = [("low", noise.low), ("high", noise.high)]
    if noise.kind == "discrete":
        asked = []
        if not all(teacher.schedule.t_min <= t <= teacher.schedule.t_max for t in noise.steps):
            raise config_lib.ConfigError(
                f"config.distill.noise.steps is {tuple(noise.steps)}; the teacher knows the times "
                f"{teacher.schedule.t_min:g} to {teacher.schedule.t_max:g}")
    for name, value in asked:
        if not low * (1 - 1e-4) <= value <= high * (1 + 1e-4):
            raise config_lib.ConfigError(
                f"config.distill.noise.{name} is {value:g}; the teacher was trained at noise "
                f"levels from {low:.4g} to {high:.4g}")
