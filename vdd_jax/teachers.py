"""Teachers as score functions in scaled actions: anything with ∇ log π_t(a|s) can be distilled."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from vdd_jax.core import mixture, preconditioning, samplers, schedules
from vdd_jax.core.mixture import Mixture
from vdd_jax.core.schedules import Schedule
from vdd_jax.data import Scaler
from vdd_jax.models import denoiser
from vdd_jax.types import Observation, ScoreFn


class Teacher(NamedTuple):
    """A score and the schedule whose time it takes."""

    score: ScoreFn
    schedule: Schedule
    density: Callable[[jax.Array], Mixture] | None = None  # scaled observation → π, where known
    denoise: ScoreFn | None = None  # as `score`, returns E[a|x, s]; for samplers
    # of every action of a window, x `[V, B, T, A]`, t `[B]`:
    each_score: ScoreFn | None = None  # after the demonstrated actions before it
    joint_score: ScoreFn | None = None  # after those of x
    params: dict | None = None  # of a learned teacher's network
    with_params: Callable[[dict | None], "Teacher"] | None = None  # the same of other parameters
    scaler: Scaler | None = None  # of a given function, if it has one of its own
    description: str = ""  # of a given function, in a few words
    differentiable: bool = True  # in the action, by JAX

    def of(self, params: dict | None) -> "Teacher":
        """The teacher of these parameters in place of its own: where it is an argument of a
        compiled function, not a constant in it."""
        return self.with_params(params) if self.with_params else self


def analytic(density: Callable[[jax.Array], Mixture], scaler: Scaler) -> Teacher:
    """The teacher of a known mixture, diffused exactly by the VE schedule.

    Args:
      density: observation `[..., O]` in the task's units → π(a|s) in the task's units.
      scaler: to the units the student works in.
    """
    schedule = schedules.ve(0.0, 80.0)

    def scaled(observation: jax.Array) -> Mixture:
        raw = density(scaler.unscale_observation(observation))
        return mixture.affine(
            raw, 1.0 / scaler.action_std, -scaler.action_mean / scaler.action_std
        )

    def score(x, observation, t):
        diffused = mixture.diffuse(scaled(observation), schedule.alpha(t), schedule.sigma(t))
        return mixture.score(diffused, x)

    def denoise(x, observation, t):
        return schedules.convert(schedule, score(x, observation, t), "score", "x0", x, t)

    return Teacher(score, schedule, scaled, denoise)


def from_function(
    function: Callable, schedule: Schedule, predicts: str, *, params=None,
    scaler: Scaler | None = None, differentiable: bool = True, description: str = "",
) -> Teacher:
    """Any conditional diffusion or flow policy as a teacher (docs/teachers.md).

    Args:
      function: (x `[N, A]`, observation `[N, O]`, t `[N]`) → what it predicts, `[N, A]`; jittable.
        x = α(t) a + σ(t) ε is a noised action, and both are scaled by `scaler`. Of a task with a
        window, a chunk or a goal, A is chunk × action size and the observation `[N, T, O]`, or with
        a goal the whole `Context`. With `params` it is (params, x, observation, t).
      schedule: of `core.schedules`: whose time t is; of `ve` it is σ.
      predicts: 'score', 'eps', 'x0' or 'velocity'.
      params: parameters of the function, which are an argument of the compiled program then;
        without them what a function holds is a constant in it.
      scaler: from the task's units to those of the function; None: that of the run's
        `config.task.scaler`.
      differentiable: whether JAX can differentiate it (not a callback to other software): without,
        a report lacks the KLs to the teacher.
      description: for reports.

    Raises:
      ValueError: for an unknown prediction.
    """
    if predicts not in schedules.PREDICTIONS:
        raise ValueError(f"a teacher predicts one of {', '.join(schedules.PREDICTIONS)}, not "
                         f"{predicts!r}")

    def of(params) -> Teacher:
        def predict(x, observation, t):
            """`[V, B, A]`, B, times that broadcast against `[V, B]` → one batch and back."""
            if not differentiable:  # JAX is not to try, where it has no use for the gradient
                x, observation, t = jax.lax.stop_gradient((x, observation, t))
            batch, rank = x.shape[:-1], batch_rank(observation)
            rows = math.prod(batch)

            def flat(v):
                sizes = v.shape[rank:]
                return jnp.broadcast_to(v, (*batch, *sizes)).reshape(rows, *sizes)

            given = (x.reshape(rows, -1), jax.tree.map(flat, as_a_function_sees(observation)),
                     jnp.broadcast_to(t, batch).reshape(rows))
            out = function(*given) if params is None else function(params, *given)
            if out.shape != given[0].shape:
                raise ValueError(f"the teacher's function returns the shape {out.shape} for "
                                 f"noised actions {given[0].shape}, which it should be")
            return jnp.asarray(out, jnp.float32).reshape(x.shape)

        def converted(target):
            def call(x, observation, t):
                out = predict(x, observation, t)
                return schedules.convert(schedule, out, predicts, target, x, t)

            return call

        return Teacher(
            converted("score"), schedule, None, converted("x0"), params=params,
            with_params=None if params is None else of, scaler=scaler,
            description=description or f"a function that predicts {predicts}",
            differentiable=differentiable)

    return of(params)


def as_a_function_sees(observation: Observation):
    """A context as a plain array where it is no more than that: `[..., O]` of a window of one, the
    window `[..., T, O]`; the context itself with a goal."""
    if not hasattr(observation, "valid") or observation.goal.shape[-2]:
        return observation
    window = observation.observations
    return window[..., 0, :] if window.shape[-2] == 1 else window


def make_schedule(config: ConfigDict) -> Schedule:
    """The schedule that `config.teacher` names."""
    n = config.num_train_steps
    return {
        "ve": lambda: schedules.ve(config.sigma_min, config.sigma_max),
        "vp_cosine": schedules.vp_cosine,
        "vp_linear": schedules.vp_linear,
        "ddpm_cosine": lambda: schedules.vp_discrete(schedules.cosine_betas(n)),
        "ddpm_linear": lambda: schedules.vp_discrete(schedules.linear_betas(n)),
        "flow": schedules.flow,
    }[config.schedule]()


def from_network(
    config: ConfigDict, params, action_dim: int, dtype: DTypeLike = jnp.float32,
    fused: bool = False,
) -> Teacher:
    """The teacher of a trained denoiser.

    Args:
      config: the teacher's own `config.teacher`.
      params: of `denoiser.build(config, action_dim)`.
      dtype: that the network computes in; scores are float32.
      fused: it is asked by programs of one device alone.
    """
    model = denoiser.build(config, action_dim, dtype, fused)
    schedule = make_schedule(config)
    kind, sigma_data = config.prediction, config.sigma_data
    whole = denoiser.whole_window(config)

    def output(x, context, t):
        seen, noise = preconditioning.network_input(schedule, sigma_data, x, t)
        extra = {"past": noised_past(schedule, sigma_data, context, t)} if whole else {}
        return model.apply({"params": params}, seen, noise, context, **extra)

    def score(x, context, t):
        return preconditioning.to_score(
            kind, schedule, sigma_data, output(x, context, t), x, t)

    def denoise(x, context, t):
        return preconditioning.to_x0(kind, schedule, sigma_data, output(x, context, t), x, t)

    def of_window(method, x, context, t, **extra):
        t = t[..., None]  # one level for a window
        seen, noise = preconditioning.network_input(schedule, sigma_data, x, t)
        out = model.apply({"params": params}, seen, noise[..., 0], context, method=method, **extra)
        return preconditioning.to_score(kind, schedule, sigma_data, out, x, t)

    def each_score(x, context, t):
        return of_window(model.each_action, x, context, t,
                         past=noised_past(schedule, sigma_data, context, t))

    def joint_score(x, context, t):
        return of_window(model.all_actions, x, context, t)

    of_windows = (each_score, joint_score) if whole else (None, None)
    return Teacher(score, schedule, None, denoise, *of_windows, params,
                   lambda params: from_network(config, params, action_dim, dtype, fused))


def noised_past(schedule, sigma_data, context, t):
    """The past actions of the window at the level of the newest, as the teacher saw them when it
    was trained ("teacher forcing"), `[B, T - 1, A]`.

    The noise is a fixed function of the actions, so that the teacher stays a pure function of what
    it is asked; over a data set it is noise.
    """
    past = context.past_actions
    bits = jax.lax.bitcast_convert_type(past, jnp.uint32)
    seeds = jnp.sum(bits, axis=(-2, -1), dtype=jnp.uint32)  # of every window its own

    def noise(seed):
        return jax.random.normal(jax.random.key(seed), past.shape[-2:])

    eps = jax.vmap(noise)(seeds.reshape(-1)).reshape(past.shape)
    t = jnp.broadcast_to(t, past.shape[:-2])[..., None]
    x = schedule.alpha(t)[..., None] * past + schedule.sigma(t)[..., None] * eps
    return preconditioning.network_input(schedule, sigma_data, x, t)[0]


def sample(
    teacher: Teacher, config: ConfigDict, context: Observation, key: jax.Array,
    batch: tuple[int, ...], action_dim: int, num_steps: int = 0,
) -> jax.Array:
    """Scaled actions of a learned teacher by its sampler, `[*batch, A]`.

    Args:
      config: the teacher's own `config.teacher`; its `sampler` says how.
      batch: the last axes are those of `context`.
      num_steps: instead of the sampler's own; 1 is the one-step teacher.
    """
    how = config.sampler
    ends = batch[len(batch) - batch_rank(context):]

    def denoise(x, t):
        return teacher.denoise(x, context, jnp.broadcast_to(t, ends))

    return samplers.sample(
        denoise, key, (*batch, action_dim), teacher.schedule, num_steps or how.num_steps,
        how.kind, how.spacing, how.clip or None,
    )


def batch_rank(context) -> int:
    return context.valid.ndim - 1 if hasattr(context, "valid") else context.ndim - 1
