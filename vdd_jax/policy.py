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
from ml_collections import ConfigDict

from vdd_jax import ahead_of_time, checkpoint, problem, teachers
from vdd_jax import config as config_lib
from vdd_jax.baselines import consistency
from vdd_jax.checkpoint import CheckpointError, Checkpoints
from vdd_jax.config_keys import STUDENTS
from vdd_jax.core import mixture as mixtures
from vdd_jax.core import samplers
from vdd_jax.core.mixture import Mixture
from vdd_jax.data import Scaler
from vdd_jax.models import denoiser
from vdd_jax.policy_input import History, as_chunk, check, checked, scaled
from vdd_jax.sampled_policy import SampledPolicy
from vdd_jax.teachers import Teacher

__all__ = ["History", "Policy", "SampledPolicy", "load", "load_teacher"]


@functools.partial(struct.dataclass, repr=False)
class Policy:
    """q(a|s) of a distilled student.

    An observation is `[O]` or batched `[..., O]`; of a task with a window, the last T of them
    `[..., T, O]`, or a `History`, which has what cameras saw, too. An action is `[..., A]`, or
    `[..., H, A]` when the policy gives H > 1 at once. Every method raises a ValueError for a wrong
    size, and for NaN or infinity in a NumPy observation.

    `load` makes one of a run. By hand, with experts that know one thing:

    >>> from vdd_jax.data import fit_scaler
    >>> scaler = fit_scaler(jnp.zeros((1, 3)), jnp.zeros((1, 2)), "none")
    >>> q = mixtures.uniform(jnp.array([[-1.0, 0.0], [1.0, 0.0]]), jnp.full((2, 2), 0.1))
    >>> policy = Policy({}, scaler, lambda params, seen: q, observation_dim=3, action_dim=2)
    >>> policy.act(np.zeros(3), jax.random.key(0)).tolist() in ([-1.0, 0.0], [1.0, 0.0])
    True
    >>> policy.act(np.zeros(4), jax.random.key(0))
    Traceback (most recent call last):
    ValueError: the observation has shape (4,); this policy takes observations of shape [..., 3]
    """

    params: Any
    scaler: Scaler
    apply: Callable = struct.field(pytree_node=False)
    observation_dim: int = struct.field(pytree_node=False)
    action_dim: int = struct.field(pytree_node=False)
    window: int = struct.field(pytree_node=False, default=0)  # T; 0: no windows
    chunk: int = struct.field(pytree_node=False, default=1)  # H
    goal_length: int = struct.field(pytree_node=False, default=0)  # G
    images: tuple[int, ...] = struct.field(pytree_node=False, default=())  # (C, S, S, 3)
    min_weight: float = struct.field(pytree_node=False, default=0.0)  # see core.mixture.act
    acting: str = struct.field(pytree_node=False, default="sampled_mean")  # its own way to act
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
        return _mixture(self, checked(self, observation))

    def act(self, observation, key: jax.Array, how: str | None = None) -> jax.Array:
        """An action `[..., A]` or `[..., H, A]`; `how` as in `core.mixture.act`, None: as the
        policy's `acting` says. Experts below the policy's `min_weight` are not drawn, and the
        action is within the range of the demonstrated ones (see `config.task.clip_actions`); every
        other method is of the whole q(a|s)."""
        return _act(self, checked(self, observation), key, how or self.acting)

    def compiled(self, observation, key: jax.Array, how: str | None = None) -> Callable:
        """`act` as a program for observations of this one's shape alone, (observation, key) →
        action: compiled now, which takes seconds, with the parameters as they are now in it. For a
        control loop; actions are those of `act` but for rounding.

        Where parameters are many and the device is a CPU, they lie in it so that products of few
        rows read them in one piece (`models.products.in_strips`).
        """
        return ahead_of_time.compiled(self, observation, key, how=how)

    def sample(self, observation, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Samples of q(a|s), `shape + [..., A]`, or `shape + [..., H, A]`."""
        return _sample(self, checked(self, observation), key, tuple(shape))

    def log_prob(self, observation, action) -> jax.Array:
        """Exact log q(a|s), `[...]`, in nats, of actions in the task's units."""
        observation = checked(self, observation)
        shape = (self.chunk, self.action_dim) if self.chunk > 1 else (self.action_dim,)
        check(action, shape, "action")
        return _log_prob(self, observation, jnp.asarray(action, jnp.float32))

    def entropy(self, observation, key: jax.Array, num_samples: int = 1_000) -> jax.Array:
        """Monte-Carlo estimate of −E log q(a|s), `[...]`, in nats (there is no closed form)."""
        return _entropy(self, checked(self, observation), key, num_samples)

    def entropy_bounds(self, observation) -> tuple[jax.Array, jax.Array]:
        """Lower and upper bound of the entropy, `[...]`, in nats: cheap enough for every step."""
        return _entropy_bounds(self, checked(self, observation))

    def gating_entropy(self, observation) -> jax.Array:
        """−Σ_z q(z|s) log q(z|s), `[...]`, in nats, exact: how undecided the choice of an expert
        is."""
        return _gating_entropy(self, checked(self, observation))


@jax.jit
def _mixture(policy: Policy, observation, expert=None):
    """Of all experts, or of the one with index `expert` alone."""
    seen = scaled(policy, observation)
    with jax.default_matmul_precision(policy.matmul):
        if expert is None:
            q = policy.apply({"params": policy.params}, seen)
        else:
            q = policy.apply_one(policy.params, seen, expert)
    return mixtures.affine(q, policy.scaler.action_std, policy.scaler.action_mean)


@functools.partial(jax.jit, static_argnames="how")
def _act(policy: Policy, observation, key, how):
    q = _mixture(policy, observation)
    alone = q.log_weights.size == q.log_weights.shape[-1]
    if alone and policy.apply_one and how == "sampled_mean":
        # who acts is drawn first, and nobody else's mean computed: the compiler drops the rest of
        # q, and runs once what both passes share
        expert = mixtures.draw(q.log_weights, key, policy.min_weight).reshape(())
        q, how = _mixture(policy, observation, expert), "most_likely_mean"
    action = mixtures.act(q, key, how, policy.min_weight)
    return as_chunk(policy, policy.scaler.within_range(action))


@functools.partial(jax.jit, static_argnames="shape")
def _sample(policy: Policy, observation, key, shape):
    return as_chunk(policy, mixtures.sample(_mixture(policy, observation), key, shape))


@jax.jit
def _log_prob(policy: Policy, observation, action):
    if policy.chunk > 1:
        action = action.reshape(*action.shape[:-2], -1)
    return mixtures.log_prob(_mixture(policy, observation), action)


@functools.partial(jax.jit, static_argnames="num_samples")
def _entropy(policy: Policy, observation, key, num_samples):
    q = _mixture(policy, observation)
    return -jnp.mean(mixtures.log_prob(q, mixtures.sample(q, key, (num_samples,))), axis=0)


@jax.jit
def _entropy_bounds(policy: Policy, observation):
    return mixtures.entropy_bounds(_mixture(policy, observation))


@jax.jit
def _gating_entropy(policy: Policy, observation):
    return mixtures.gating_entropy(_mixture(policy, observation))


def directory_of(workdir: str | Path) -> Path | None:
    """Where the checkpoints of the student in `workdir` are; None without one."""
    found = (Path(workdir) / stage / "checkpoints" for stage in STUDENTS)
    return next((directory for directory in found if directory.is_dir()), None)


def load(workdir: str | Path) -> Policy | SampledPolicy:
    """The student that `vdd_jax.main` made in `workdir`: a mixture of experts, distilled or from
    scratch, or a consistency model.

    Raises:
      CheckpointError: when there is none, or it is damaged or of something else.
    """
    directory = directory_of(workdir)
    if directory is None:
        raise CheckpointError(_no_student(Path(workdir)))
    with Checkpoints(directory, read_only=True) as checkpoints:
        scaler, settings = problem.scaler_and_config(checkpoints, "student")
        example = problem.example(settings)
        if directory.parent.name == consistency.NAME:
            ours = settings.consistency
            net = consistency.network(ours, settings.teacher, example, problem.dtype(settings))
            shapes = jax.eval_shape(lambda: dict.fromkeys(
                ("ema", "params", "target"), net.init(jax.random.key(0))))
            params = _restore(checkpoints, shapes)["ema"]
            return SampledPolicy(
                params, scaler, consistency.sampler(ours, net), lambda num_steps: num_steps,
                f"consistency model ({ours.method})", num_steps=settings.evaluate.student_steps[0],
                sees_past_actions=denoiser.whole_window(settings.teacher), **_sizes(settings))
        model = problem.student(settings)
        params = _restore(checkpoints, jax.eval_shape(
            lambda: model.init(jax.random.key(0), example.observation)["params"]))
    return Policy(params, scaler, model.apply, min_weight=settings.policy.min_weight,
                  acting=settings.policy.acting, apply_one=model.apply_one, **_sizes(settings))


def _no_student(workdir: Path) -> str:
    if not workdir.is_dir():
        return f"{workdir} holds no student: there is no such directory"
    if (workdir / "checkpoints").is_dir():
        return (f"{workdir} holds no student: it is the directory of one stage; give that of the "
                f"run, {workdir.absolute().parent}")
    if (workdir / "teacher" / "checkpoints").is_dir():
        return (f"{workdir} holds no student, a teacher alone; run python -m vdd_jax.main with "
                f"--workdir={workdir} and 'distill' among config.stages")
    return f"{workdir} holds no student; run python -m vdd_jax.main with --workdir={workdir} first"


def load_teacher(workdir: str | Path, num_steps: int = 0) -> SampledPolicy:
    """The learned teacher that a run in `workdir` trained or used, as a policy.

    Args:
      num_steps: of its sampler, in place of its own number; 1 is the one-step teacher.

    Raises:
      CheckpointError: when there is none, or it is damaged or of something else.
    """
    file = Path(workdir) / "config.json"
    try:
        config = config_lib.from_json(file.read_text())
    except (OSError, config_lib.ConfigError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{workdir} is not the directory of a run: {error}") from error
    if problem.is_analytic(config):
        raise CheckpointError(f"the teacher of {workdir} is the exact density of "
                              f"{config.task.name}; there is no network to load")
    teacher, scaler, own = problem.load_teacher(config, Path(workdir))
    return of_teacher(config, teacher, scaler, own.teacher, num_steps)


def of_teacher(config: ConfigDict, teacher: Teacher, scaler: Scaler, settings: ConfigDict,
               num_steps: int = 0) -> SampledPolicy:
    """A learned teacher as a policy; `config` is of the run, `settings` the teacher's own
    `config.teacher`."""

    def draw(params, observation, key, shape, num_steps):
        return teachers.sample(teacher.of(params), settings, observation, key, shape[:-1],
                               shape[-1], num_steps)

    return SampledPolicy(
        teacher.params, scaler, draw,
        functools.partial(samplers.network_calls, settings.sampler.kind), "diffusion teacher",
        num_steps=num_steps or settings.sampler.num_steps,
        sees_past_actions=denoiser.whole_window(settings), **_sizes(config))


def _restore(checkpoints: Checkpoints, shapes):
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return checkpoints.restore_params(checkpoint.abstract(shapes, place))


def _sizes(config: ConfigDict) -> dict:
    """What every policy of a run of `config` has in common."""
    spec = problem.spec(config)
    of_windows = {} if problem.is_analytic(config) else {
        name: config.task[name] for name in ("window", "chunk", "goal_length")}
    return {"observation_dim": spec.observation_dim, "action_dim": spec.action_dim,
            "images": spec.images, "matmul": problem.MATMUL[config.precision], **of_windows}
