"""What a policy is given, checked: every kind of policy takes the same."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class History(NamedTuple):
    """What a policy with a window or a goal is given, in the task's units; NumPy or JAX."""

    observations: Any  # `[..., T, O]`, oldest first; before an episode's start the first repeated
    valid: Any = None  # `[..., T]` bool, which of them were made; None: all
    past_actions: Any = None  # `[..., T - 1, A]`; only some policies use them
    goal: Any = None  # `[..., G, O]`; None where the task has no goal
    images: Any = None  # `[..., T, C, S, S, 3]` uint8; None where the task has none

DTYPES = (np.float32, bool, np.float32, np.float32, np.uint8)  # of the fields


def checked(policy, observation):
    """The observation as arrays `[*batch, …]`, one batch for all parts of a History.

    Args:
      policy: has `observation_dim`, `action_dim`, `window`, `goal_length`, `images`.

    Raises:
      ValueError: for a wrong size, and for NaN or infinity in NumPy's arrays.
    """
    if not policy.window:
        check(observation, (policy.observation_dim,), "observation")
        return _as_array(observation, np.float32, np.shape(observation)[:-1], 1)
    given = observation if isinstance(observation, History) else History(observation)
    check(given.observations, (policy.window, policy.observation_dim), "observation")
    if given.valid is not None:
        check(given.valid, (policy.window,), "observation's valid")
    if given.past_actions is not None:
        check(given.past_actions, (policy.window - 1, policy.action_dim), "past_actions")
    if policy.goal_length and given.goal is None:
        raise ValueError("this policy pursues a goal; give policy.History(observations, "
                         f"goal=…) with a goal of shape [..., {policy.goal_length}, "
                         f"{policy.observation_dim}]")
    if given.goal is not None:
        check(given.goal, (policy.goal_length, policy.observation_dim), "goal")
    if policy.images and given.images is None:
        raise ValueError("this policy sees; give policy.History(observations, images=…) with "
                         f"uint8 images of shape {_shape((policy.window, *policy.images))}")
    if given.images is not None:
        check(given.images, (policy.window, *policy.images), "image", np.uint8)
    ranks = (2, 1, 2, 2, 5)  # without batch axes
    batches = [np.shape(v)[: np.ndim(v) - r]
               for v, r in zip(given, ranks, strict=True) if v is not None]
    try:
        batch = np.broadcast_shapes(*batches)
    except ValueError:
        raise ValueError(f"the batch axes of the history do not agree: {batches}") from None
    return History(*(
        None if v is None else _as_array(v, dtype, batch, rank)
        for v, dtype, rank in zip(given, DTYPES, ranks, strict=True)
    ))


def _as_array(values, dtype, batch: tuple[int, ...], rank: int):
    """`[*batch, …]`, NumPy unless the values are JAX's: each call of JAX outside of a compiled
    program would cost a single action on a CPU a twentieth of its time."""
    library = jnp if isinstance(values, jax.Array) else np
    values = library.asarray(values, dtype)
    return library.broadcast_to(values, (*batch, *values.shape[values.ndim - rank:]))


def check(values, sizes: tuple[int, ...], what: str, dtype=None) -> None:
    """Sizes, what NumPy's arrays hold, and, if it is given, the type.

    Raises:
      ValueError: naming `what`.
    """
    shape = np.shape(values)
    if shape[max(len(shape) - len(sizes), 0):] != sizes:
        raise ValueError(f"the {what} has shape {shape}; this policy takes {what}s of shape "
                         f"{_shape(sizes)}")
    if dtype and getattr(values, "dtype", None) != dtype:
        raise ValueError(f"the {what} should be of {np.dtype(dtype)}, not "
                         f"{getattr(values, 'dtype', type(values).__name__)}")
    if not isinstance(values, jax.Array) and not np.isfinite(values).all():
        raise ValueError(f"the {what} holds NaN or infinity")


def _shape(sizes: tuple[int, ...]) -> str:
    return f"[..., {', '.join(map(str, sizes))}]"


def scaled(policy, observation):
    """What the policy's network sees of a checked observation."""
    if policy.window:
        return policy.scaler.context(*observation)
    return policy.scaler.scale_observation(observation)


def as_chunk(policy, action):
    """`[..., H · A]` → `[..., H, A]`, where the policy gives H > 1 actions at once."""
    if policy.chunk == 1:
        return action
    return action.reshape(*action.shape[:-1], policy.chunk, policy.action_dim)
