"""A policy that can be sampled but has no density: a diffusion teacher, a consistency model."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import struct

from vdd_jax import ahead_of_time
from vdd_jax.data import Scaler
from vdd_jax.policy_input import as_chunk, checked, scaled


@functools.partial(struct.dataclass, repr=False)
class SampledPolicy:
    """π(a|s) of which actions can be drawn, in `network_calls` passes of a network each.

    Observations and actions are those of `policy.Policy`, and so are the errors. It has no
    `log_prob`, `entropy` or `mixture`: asking for one raises a TypeError that says so.
    `policy.replace(num_steps=4)` is the same policy with another number of steps.
    """

    params: Any
    scaler: Scaler
    # (params, scaled observation, key, shape `[..., H · A]`, number of steps) → scaled actions
    draw: Callable = struct.field(pytree_node=False)
    calls_of: Callable = struct.field(pytree_node=False)  # number of steps → network calls
    kind: str = struct.field(pytree_node=False)  # in a few words
    observation_dim: int = struct.field(pytree_node=False)
    action_dim: int = struct.field(pytree_node=False)
    num_steps: int = struct.field(pytree_node=False)
    window: int = struct.field(pytree_node=False, default=0)  # T; 0: no windows
    chunk: int = struct.field(pytree_node=False, default=1)  # H
    goal_length: int = struct.field(pytree_node=False, default=0)  # G
    images: tuple[int, ...] = struct.field(pytree_node=False, default=())  # (C, S, S, 3)
    matmul: str = struct.field(pytree_node=False, default="highest")  # of products of float32
    sees_past_actions: bool = struct.field(pytree_node=False, default=False)

    @property
    def network_calls(self) -> int:
        """Passes of the network for one action."""
        return self.calls_of(self.num_steps)

    def __repr__(self) -> str:  # not its arrays
        size = sum(np.size(v) for v in jax.tree.leaves(self.params))
        return (f"SampledPolicy({self.kind}, {self.network_calls} network calls, "
                f"observation_dim={self.observation_dim}, action_dim={self.action_dim}, "
                f"window={self.window}, chunk={self.chunk}, {size:,} parameters)")

    def act(self, observation, key: jax.Array) -> jax.Array:
        """An action `[..., A]` or `[..., H, A]`: a sample, within the range of the demonstrated
        actions (see `config.task.clip_actions`)."""
        action = self.sample(observation, key)
        flat = action.reshape(*action.shape[:-2], -1) if self.chunk > 1 else action
        return self.scaler.within_range(flat).reshape(action.shape)

    def compiled(self, observation, key: jax.Array) -> Callable:
        """`act` as a program for observations of this one's shape alone; as `Policy.compiled`."""
        return ahead_of_time.compiled(self, observation, key)

    def sample(self, observation, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Actions, `shape + [..., A]`, or `shape + [..., H, A]`."""
        seen = checked(self, observation)
        if self.sees_past_actions and seen.past_actions is None:
            raise ValueError(
                "this policy sees the actions before its own; give policy.History(observations, "
                f"past_actions=…) of shape [..., {self.window - 1}, {self.action_dim}]")
        return _sample(self, seen, key, tuple(shape))

    def log_prob(self, observation, action):
        """Raises TypeError: there is none."""
        raise TypeError(f"{self.kind}: a policy without a density, so without log_prob, entropy "
                        "and mixture; a student of the stage 'distill' or 'from_scratch' has them")

    def entropy(self, observation, key, num_samples: int = 1_000):
        """Raises TypeError: there is none."""
        self.log_prob(observation, None)

    def mixture(self, observation):
        """Raises TypeError: there is none."""
        self.log_prob(observation, None)


@functools.partial(jax.jit, static_argnames="shape")
def _sample(policy: SampledPolicy, observation, key, shape):
    seen = scaled(policy, observation)
    batch = (seen.valid if policy.window else seen).shape[:-1]
    size = policy.action_dim * policy.chunk
    with jax.default_matmul_precision(policy.matmul):
        action = policy.draw(policy.params, seen, key, (*shape, *batch, size), policy.num_steps)
    return as_chunk(policy, policy.scaler.unscale_action(action))
