"""State-action pairs on the device: the scaler, and batches as a pure function of the step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdd_jax.types import Batch


class Scaler(NamedTuple):
    """x ↦ (x − mean)/std, for actions and observations; std is 1 where the data is constant."""

    action_mean: jax.Array  # `[A]`
    action_std: jax.Array  # `[A]`
    observation_mean: jax.Array  # `[O]`
    observation_std: jax.Array  # `[O]`

    def scale_action(self, action):
        return (action - self.action_mean) / self.action_std

    def unscale_action(self, action):
        return action * self.action_std + self.action_mean

    def scale_observation(self, observation):
        return (observation - self.observation_mean) / self.observation_std

    def unscale_observation(self, observation):
        return observation * self.observation_std + self.observation_mean


def fit_scaler(observation: jax.Array, action: jax.Array, kind: str = "standard") -> Scaler:
    """The scaler of `[N, O]` and `[N, A]` data; 'none' leaves the data as it is.

    Raises:
      ValueError: when the data holds NaN or infinity, naming where.
    """
    for name, values in (("observation", observation), ("action", action)):
        bad = ~jnp.isfinite(values).all(axis=-1)
        if bool(bad.any()):
            raise ValueError(
                f"{int(bad.sum())} of {len(values)} {name}s hold NaN or infinity "
                f"(the first is number {int(jnp.argmax(bad))})"
            )
    if kind == "none":
        a, o = action.shape[-1], observation.shape[-1]
        return Scaler(jnp.zeros(a), jnp.ones(a), jnp.zeros(o), jnp.ones(o))

    def spread(values):
        std = values.std(axis=0)
        # a constant column has a std of rounding errors, not of 0
        varies = values.max(axis=0) > values.min(axis=0)
        return jnp.where(varies & (std > 1e-8), std, 1.0)

    return Scaler(action.mean(0), spread(action), observation.mean(0), spread(observation))


def batch_at(data: Batch, key: jax.Array, step: jax.Array, batch_size: int) -> Batch:
    """The batch of an iteration: drawn with replacement by (key, step) alone.

    Args:
      data: everything, `[N, …]`, resident on the device.
      key: of the run; `step` is folded in, so no iterator needs to be saved.
    """
    index = jax.random.randint(
        jax.random.fold_in(key, step), (batch_size,), 0, data.action.shape[0]
    )
    return jax.tree.map(lambda values: values[index], data)
