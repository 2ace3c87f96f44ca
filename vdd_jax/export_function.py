"""A student as a function of arrays, to be traced: what every exported file computes.

    observation `[B, O]` or observations `[B, T, O]`, valid `[B, T]`, goal `[B, G, O]`, images
    → log_weights `[B, Z]`, means `[B, Z, A]`, scale_tril `[B, Z, A, A]` (see export.py)
"""

import jax
import jax.numpy as jnp
import numpy as np

from vdd_jax.core import mixture as mixtures
from vdd_jax.policy import History, Policy
from vdd_jax.policy_input import scaled

OUTPUTS = ("log_weights", "means", "scale_tril")

Arrays = dict[str, np.ndarray]


class ExportError(RuntimeError):
    """What cannot be exported; the text is for the user."""


def inputs_of(policy: Policy) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape without the batch axis and type of every input, by name."""
    o = policy.observation_dim
    if not policy.window:
        return {"observation": ((o,), np.float32)}
    goal = {"goal": ((policy.goal_length, o), np.float32)} if policy.goal_length else {}
    seen = {"images": ((policy.window, *policy.images), np.uint8)} if policy.images else {}
    return {"observations": ((policy.window, o), np.float32),
            "valid": ((policy.window,), bool), **goal, **seen}


def function_of(policy: Policy):
    """`function(**inputs) → outputs`, by those names, in the units of the demonstrations."""

    def function(**given):
        seen = given["observation"] if not policy.window else History(
            given["observations"], given["valid"], goal=given.get("goal"),
            images=given.get("images"))
        with jax.default_matmul_precision(policy.matmul):
            q = policy.apply({"params": policy.params}, scaled(policy, seen))
        q = mixtures.affine(q, policy.scaler.action_std, policy.scaler.action_mean)
        tril = q.scale_tril
        if tril.ndim == q.means.ndim:
            tril = tril[..., None] * jnp.eye(tril.shape[-1])
        return dict(zip(OUTPUTS, (q.log_weights, q.means, tril), strict=True))

    return function
