"""The finished policy: stateless, in the task's own units, NumPy or JAX in, JAX out.

    policy = load("runs/toy")
    action = policy.act(observation, jax.random.key(0))
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vdd_jax import checkpoint, problem
from vdd_jax.checkpoint import CheckpointError, Checkpoints
from vdd_jax.core import mixture as mixtures
from vdd_jax.core.mixture import Mixture
from vdd_jax.data import Scaler


class History(NamedTuple):
    """What a policy with a window or a goal is given, in the task's units; NumPy or JAX."""

    observations: Any  # `[..., T, O]`, oldest first; before an episode's start the first repeated
    valid: Any = None  # `[..., T]` bool, which of them were made; None: all
    past_actions: Any = None  # `[..., T - 1, A]`; only some policies use them
    goal: Any = None  # `[..., G, O]`; None where the task has no goal


@functools.partial(struct.dataclass, repr=False)
class Policy:
    """q(a|s) of a distilled student.

    An observation is `[O]` or batched `[..., O]`; of a task with a window, the last T of them
    `[..., T, O]`, or a `History`. An action is `[..., A]`, or `[..., H, A]` when the policy gives
    H > 1 at once. Every method raises a ValueError for a wrong size, and for NaN or infinity in
    a NumPy observation.
    """

    params: Any
    scaler: Scaler
    apply: Callable = struct.field(pytree_node=False)
    observation_dim: int = struct.field(pytree_node=False)
    action_dim: int = struct.field(pytree_node=False)
    window: int = struct.field(pytree_node=False, default=0)  # T; 0: no windows
    chunk: int = struct.field(pytree_node=False, default=1)  # H
    goal_length: int = struct.field(pytree_node=False, default=0)  # G
    min_weight: float = struct.field(pytree_node=False, default=0.0)  # see core.mixture.act
    matmul: str = struct.field(pytree_node=False, default="highest")  # of products of float32
    # (params, scaled observation, index) → the mixture of one expert; None: all are computed
    apply_one: Callable | None = struct.field(pytree_node=False, default=None)

    def __repr__(self) -> str:  # not its arrays
        sizes = ", ".join(f"{name}={getattr(self, name)}" for name in (
            "observation_dim", "action_dim", "window", "chunk", "goal_length", "min_weight"))
        size = sum(np.size(v) for v in jax.tree.leaves(self.params))
        return f"Policy({sizes}, {size:,} parameters)"

    def mixture(self, observation) -> Mixture:
        """q(·|s) with batch axes `[...]`, over actions of A · H numbers."""
        return _mixture(self, self._checked(observation))

    def act(self, observation, key: jax.Array, how: str = "sampled_mean") -> jax.Array:
        """An action `[..., A]` or `[..., H, A]`; `how` as in `core.mixture.act`. Experts below
        the policy's `min_weight` are not drawn; every other method is of the whole q(a|s)."""
        return _act(self, self._checked(observation), key, how)

    def sample(self, observation, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Samples of q(a|s), `shape + [..., A]`, or `shape + [..., H, A]`."""
        return _sample(self, self._checked(observation), key, tuple(shape))

    def log_prob(self, observation, action) -> jax.Array:
        """Exact log q(a|s), `[...]`, in nats, of actions in the task's units."""
        observation = self._checked(observation)
        shape = (self.chunk, self.action_dim) if self.chunk > 1 else (self.action_dim,)
        _check(action, shape, "action")
        return _log_prob(self, observation, jnp.asarray(action, jnp.float32))

    def entropy(self, observation, key: jax.Array, num_samples: int = 1_000) -> jax.Array:
        """Monte-Carlo estimate of −E log q(a|s), `[...]`, in nats (there is no closed form)."""
        return _entropy(self, self._checked(observation), key, num_samples)

    def _checked(self, observation):
        """The observation as arrays, or ValueError."""
        if not self.window:
            _check(observation, (self.observation_dim,), "observation")
            return _as_array(observation, np.float32, np.shape(observation)[:-1], 1)
        given = observation if isinstance(observation, History) else History(observation)
        _check(given.observations, (self.window, self.observation_dim), "observation")
        if given.valid is not None:
            _check(given.valid, (self.window,), "observation's valid")
        if given.past_actions is not None:
            _check(given.past_actions, (self.window - 1, self.action_dim), "past_actions")
        if self.goal_length and given.goal is None:
            raise ValueError("this policy pursues a goal; give policy.History(observations, "
                             f"goal=…) with a goal of shape [..., {self.goal_length}, "
                             f"{self.observation_dim}]")
        if given.goal is not None:
            _check(given.goal, (self.goal_length, self.observation_dim), "goal")
        ranks = (2, 1, 2, 2)  # without batch axes
        batches = [np.shape(v)[: np.ndim(v) - r]
                   for v, r in zip(given, ranks, strict=True) if v is not None]
        try:
            batch = np.broadcast_shapes(*batches)
        except ValueError:
            raise ValueError(f"the batch axes of the history do not agree: {batches}") from None
        return History(*(
            None if v is None else _as_array(v, bool if i == 1 else np.float32, batch, ranks[i])
            for i, v in enumerate(given)
        ))


def _as_array(values, dtype, batch: tuple[int, ...], rank: int):
    """`[*batch, …]`, NumPy unless the values are JAX's: each call of JAX outside of a compiled
    program would cost a single action on a CPU a twentieth of its time."""
    library = jnp if isinstance(values, jax.Array) else np
    values = library.asarray(values, dtype)
    return library.broadcast_to(values, (*batch, *values.shape[values.ndim - rank:]))


def _check(values, sizes: tuple[int, ...], what: str) -> None:
    shape = np.shape(values)
    if shape[max(len(shape) - len(sizes), 0):] != sizes:
        wanted = ", ".join(map(str, sizes))
        raise ValueError(
            f"the {what} has shape {shape}; this policy takes {what}s of shape [..., {wanted}]"
        )
    if not isinstance(values, jax.Array) and not np.isfinite(values).all():
        raise ValueError(f"the {what} holds NaN or infinity")


@jax.jit
def _mixture(policy: Policy, observation, expert=None):
    """Of all experts, or of the one with index `expert` alone."""
    if policy.window:
        seen = policy.scaler.context(*observation)
    else:
        seen = policy.scaler.scale_observation(observation)
    with jax.default_matmul_precision(policy.matmul):
        if expert is None:
            scaled = policy.apply({"params": policy.params}, seen)
        else:
            scaled = policy.apply_one(policy.params, seen, expert)
    return mixtures.affine(scaled, policy.scaler.action_std, policy.scaler.action_mean)


def _as_chunk(policy: Policy, action):
    """`[..., H · A]` → `[..., H, A]`."""
    if policy.chunk == 1:
        return action
    return action.reshape(*action.shape[:-1], policy.chunk, policy.action_dim)


@functools.partial(jax.jit, static_argnames="how")
def _act(policy: Policy, observation, key, how):
    q = _mixture(policy, observation)
    alone = q.log_weights.size == q.log_weights.shape[-1]
    if alone and policy.apply_one and how == "sampled_mean":
        # who acts is drawn first, and nobody else's mean computed: the compiler drops the rest of
        # q, and runs once what both passes share
        expert = mixtures.draw(q.log_weights, key, policy.min_weight).reshape(())
        q, how = _mixture(policy, observation, expert), "most_likely_mean"
    return _as_chunk(policy, mixtures.act(q, key, how, policy.min_weight))


@functools.partial(jax.jit, static_argnames="shape")
def _sample(policy: Policy, observation, key, shape):
    return _as_chunk(policy, mixtures.sample(_mixture(policy, observation), key, shape))


@jax.jit
def _log_prob(policy: Policy, observation, action):
    if policy.chunk > 1:
        action = action.reshape(*action.shape[:-2], -1)
    return mixtures.log_prob(_mixture(policy, observation), action)


@functools.partial(jax.jit, static_argnames="num_samples")
def _entropy(policy: Policy, observation, key, num_samples):
    q = _mixture(policy, observation)
    return -jnp.mean(mixtures.log_prob(q, mixtures.sample(q, key, (num_samples,))), axis=0)


def directory_of(workdir: str | Path) -> Path | None:
    """Where the checkpoints of the student in `workdir` are; None without one."""
    found = (Path(workdir) / stage / "checkpoints" for stage in ("distill", "from_scratch"))
    return next((directory for directory in found if directory.is_dir()), None)


def load(workdir: str | Path) -> Policy:
    """The student that `vdd_jax.main` distilled into `workdir`, or learned there from scratch.

    Raises:
      CheckpointError: when there is none, or it is damaged or of something else.
    """
    directory = directory_of(workdir)
    if directory is None:
        raise CheckpointError(
            f"{workdir} holds no distilled student; run python -m vdd_jax.main with "
            f"--workdir={workdir} first"
        )
    with Checkpoints(directory, read_only=True) as checkpoints:
        scaler, settings = problem.scaler_and_config(checkpoints, "student")
        spec = problem.spec(settings)
        model = problem.student(settings)
        example = problem.example(settings).observation
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), example)["params"])
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        params = checkpoints.restore_params(checkpoint.abstract(shapes, place))
    sizes = {} if problem.is_analytic(settings) else {
        name: settings.task[name] for name in ("window", "chunk", "goal_length")}
    return Policy(params, scaler, model.apply, spec.observation_dim, spec.action_dim,
                  min_weight=settings.policy.min_weight,
                  matmul=problem.MATMUL[settings.precision],
                  apply_one=model.apply_one, **sizes)

