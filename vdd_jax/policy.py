"""The finished policy: stateless, in the task's own units, NumPy or JAX in, JAX out.

    policy = load("runs/toy")
    action = policy.act(observation, jax.random.key(0))
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vdd_jax import checkpoint, config, problem
from vdd_jax.checkpoint import CheckpointError, Checkpoints
from vdd_jax.core import mixture as mixtures
from vdd_jax.core.mixture import Mixture
from vdd_jax.data import Scaler
from vdd_jax.tasks import TASKS

ACTING = ("sampled_mean", "most_likely_mean", "sample")


@struct.dataclass
class Policy:
    """q(a|s) of a distilled student.

    Observations are `[O]` or batched `[..., O]`, actions `[A]` or `[..., A]`. Every method
    raises a ValueError for a wrong size, and for NaN or infinity in a NumPy observation.
    """

    params: Any
    scaler: Scaler
    apply: Callable = struct.field(pytree_node=False)
    observation_dim: int = struct.field(pytree_node=False)
    action_dim: int = struct.field(pytree_node=False)

    def mixture(self, observation) -> Mixture:
        """q(·|s) with batch axes `[...]`."""
        self._check(observation, self.observation_dim, "observation")
        return _mixture(self, jnp.asarray(observation, jnp.float32))

    def act(self, observation, key: jax.Array, how: str = "sampled_mean") -> jax.Array:
        """An action `[..., A]`.

        `how`: 'sampled_mean', the mean of an expert drawn from the gating (as in the paper);
        'most_likely_mean', that of the likeliest expert; 'sample', a sample of q(a|s).
        """
        if how not in ACTING:
            raise ValueError(f"how is one of {', '.join(ACTING)}, not {how!r}")
        self._check(observation, self.observation_dim, "observation")
        return _act(self, jnp.asarray(observation, jnp.float32), key, how)

    def sample(self, observation, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Samples of q(a|s), `shape + [..., A]`."""
        self._check(observation, self.observation_dim, "observation")
        return _sample(self, jnp.asarray(observation, jnp.float32), key, tuple(shape))

    def log_prob(self, observation, action) -> jax.Array:
        """Exact log q(a|s), `[...]`, in nats, of actions in the task's units."""
        self._check(observation, self.observation_dim, "observation")
        self._check(action, self.action_dim, "action")
        return _log_prob(
            self, jnp.asarray(observation, jnp.float32), jnp.asarray(action, jnp.float32)
        )

    def entropy(self, observation, key: jax.Array, num_samples: int = 1_000) -> jax.Array:
        """Monte-Carlo estimate of −E log q(a|s), `[...]`, in nats (there is no closed form)."""
        self._check(observation, self.observation_dim, "observation")
        return _entropy(self, jnp.asarray(observation, jnp.float32), key, num_samples)

    def _check(self, values, size: int, what: str) -> None:
        shape = np.shape(values)
        if not shape or shape[-1] != size:
            raise ValueError(
                f"the {what} has shape {shape}; this policy takes {what}s of shape "
                f"[..., {size}]"
            )
        if not isinstance(values, jax.Array) and not np.isfinite(values).all():
            raise ValueError(f"the {what} holds NaN or infinity")


@jax.jit
def _mixture(policy: Policy, observation):
    scaled = policy.apply(
        {"params": policy.params}, policy.scaler.scale_observation(observation)
    )
    return mixtures.affine(scaled, policy.scaler.action_std, policy.scaler.action_mean)


@functools.partial(jax.jit, static_argnames="how")
def _act(policy: Policy, observation, key, how):
    q = _mixture(policy, observation)
    if how == "sampled_mean":
        return mixtures.mean_of_sampled(q, key)
    return mixtures.mean_of_most_likely(q) if how == "most_likely_mean" else mixtures.sample(q, key)


@functools.partial(jax.jit, static_argnames="shape")
def _sample(policy: Policy, observation, key, shape):
    return mixtures.sample(_mixture(policy, observation), key, shape)


@jax.jit
def _log_prob(policy: Policy, observation, action):
    return mixtures.log_prob(_mixture(policy, observation), action)


@functools.partial(jax.jit, static_argnames="num_samples")
def _entropy(policy: Policy, observation, key, num_samples):
    q = _mixture(policy, observation)
    return -jnp.mean(mixtures.log_prob(q, mixtures.sample(q, key, (num_samples,))), axis=0)


def load(workdir: str | Path) -> Policy:
    """The student that `vdd_jax.main` distilled into `workdir`.

    Raises:
      CheckpointError: when there is none, or it is damaged or of something else.
    """
    directory = Path(workdir) / "distill" / "checkpoints"
    if not directory.is_dir():
        raise CheckpointError(
            f"{workdir} holds no distilled student; run python -m vdd_jax.main with "
            f"--workdir={workdir} first"
        )
    with Checkpoints(directory, read_only=True) as checkpoints:
        scaler, stored = checkpoints.restore_scaler_and_config()
        try:
            settings = config.from_json(stored["config"])
        except (KeyError, config.ConfigError) as error:
            raise CheckpointError(
                f"the checkpoint in {directory} is not of a student this version knows: {error}"
            ) from error
        spec = TASKS[settings.task.name].spec(settings.task)
        model = problem.student(settings, spec.action_dim)
        shapes = jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.zeros((1, spec.observation_dim)))["params"]
        )
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        params = checkpoints.restore_params(checkpoint.abstract(shapes, place))
    return Policy(params, scaler, model.apply, spec.observation_dim, spec.action_dim)

