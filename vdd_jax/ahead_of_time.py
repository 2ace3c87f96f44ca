"""A policy's `act` compiled ahead of time, for a control loop."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vdd_jax.models import products
from vdd_jax.policy_input import History, checked

MANY = 1_000_000  # parameters that no core's own cache holds


def compiled(policy, observation, key: jax.Array, **how) -> Callable[[Any, jax.Array], jax.Array]:
    """(observation, key) → `policy.act(observation, key, **how)`, see `Policy.compiled`."""
    given = checked(policy, observation)
    if jax.default_backend() == "cpu" and isinstance(policy.params, dict) and MANY < sum(
            np.size(v) for v in jax.tree.leaves(policy.params)):
        policy = policy.replace(params=products.in_strips(policy.params))
    program = jax.jit(lambda observation, key: policy.act(observation, key, **how)).lower(
        given, key).compile()
    expected = _shapes(given)

    def act(observation, key: jax.Array) -> jax.Array:
        seen = checked(policy, observation)
        if (found := _shapes(seen)) != expected:
            raise ValueError(f"this program was compiled for the shapes {expected}, not {found}; "
                             "compile another for these, or use policy.act")
        return program(seen, key)

    return act


def _shapes(seen) -> dict[str, tuple[int, ...]]:
    """By name, of what an observation consists of."""
    parts = seen._asdict() if isinstance(seen, History) else {"observation": seen}
    return {name: np.shape(v) for name, v in parts.items() if v is not None}
