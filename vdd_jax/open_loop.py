"""How close a policy is to its teacher without a simulator, the same for every policy (METHOD 6).

Everything is in scaled actions, at held-out observations. For one key the teacher's samples are
the same whatever is measured, so that the numbers of several policies are paired; those of
`teacher_samples`, taken as a policy, are the floor.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from vdd_jax import teachers
from vdd_jax.core import calibration, distances, mixture, probability_flow
from vdd_jax.core.mixture import Mixture
from vdd_jax.core.schedules import Schedule
from vdd_jax.data import first
from vdd_jax.problem import Problem
from vdd_jax.types import Observation

STATES = 256  # held-out states
SAMPLES = 256  # actions at each
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of the highest-density regions
FISHER_SAMPLES = 16  # at each state and noise
FISHER_NOISES = 6
LEAST_NOISE = 0.01  # at which scores and densities are compared, or the teacher's least if larger
MOST_NOISE = 2.0  # at which scores are, or the teacher's most
FLOW_STATES, FLOW_SAMPLES = 128, 8  # of the probability-flow ODE
FLOW_STEPS = 20  # of four calls each: 0.001 nats for modes as narrow as the least noise
FLOW_NOISE = 5.0  # at which it starts, or the teacher's most


def measure(
    task: Problem, sample: Callable[[Observation, jax.Array, int], jax.Array], key: jax.Array,
    density: Callable[[Observation], Mixture] | None = None, teacher: jax.Array | None = None,
) -> dict:
    """A policy against its teacher, in plain numbers.

    Args:
      sample: (observations `[B]`, key, num) → the policy's actions `[num, B, A]`; jittable.
      key: of everything that is drawn.
      density: observations `[B]` → q `[B]`, where the policy has one.
      teacher: what `reference` gives for the same key; None: drawn here.

    Returns:
      See `of_samples`; with a density also `of_density` and, for a learned teacher that can be
      differentiated and actions of at most `probability_flow.MAX_DIM` numbers, `divergences`.
    """
    seen = _spread(task.held_out.observation, STATES)
    teacher = reference(task, key) if teacher is None else teacher
    keys = jax.random.split(jax.random.split(key)[1], 4)
    found = of_samples(_drawn(sample, seen, keys[0]), teacher, keys[1])
    if density is None:
        return found
    everything = jax.jit(density)(task.held_out.observation)
    q = _spread(everything, STATES)
    found |= of_density(task, seen, everything, q, teacher, keys[2])
    if (task.teacher.density is None and task.teacher.differentiable
            and teacher.shape[-1] <= probability_flow.MAX_DIM):
        found |= jax.tree.map(float, jax.jit(partial(divergences, task))(
            _spread(seen, FLOW_STATES), _spread(q, FLOW_STATES),
            _spread(jnp.swapaxes(teacher, 0, 1), FLOW_STATES), keys[3]))
    return found


def reference(task: Problem, key: jax.Array) -> jax.Array:
    """The teacher's samples `[V, B, A]` that policies are measured against."""
    observation = _spread(task.held_out, STATES).observation
    return _drawn(partial(teacher_samples, task), observation, jax.random.split(key)[0])


def teacher_samples(
    task: Problem, observation: Observation, key: jax.Array, num: int, num_steps: int = 0
) -> jax.Array:
    """The teacher's actions `[num, B, A]`, by its sampler where it is learned.

    `num_steps` in place of the sampler's own; 1 is the one-step teacher.
    """
    if task.teacher.density is not None:
        return mixture.sample(task.teacher.density(observation), key, (num,))
    states = len(jax.tree.leaves(observation)[0])
    return teachers.sample(task.teacher, task.teacher_config, observation, key, (num, states),
                           task.held_out.action.shape[-1], num_steps)


def of_samples(policy: jax.Array, teacher: jax.Array, key: jax.Array) -> dict:
    """Samples of a policy against those of its teacher, both `[V, B, A]`.

    Returns:
      `sliced_wasserstein`, mean over states, in scaled actions; `mmd`, the squared maximum mean
      discrepancy, mean over states, which may be slightly below 0; `mean_slope`, of the policy's
      mean action on the teacher's: 1 when they agree, below when actions shrink; `std_ratio`, of
      the policy's and the teacher's standard deviation, root mean square over states.
    """
    mean, teachers_mean = jnp.mean(policy, axis=0), jnp.mean(teacher, axis=0)
    spread, teachers_spread = (jnp.mean(jnp.var(v, axis=0)) for v in (policy, teacher))
    return {
        "sliced_wasserstein": float(jnp.mean(
            jax.jit(distances.sliced_wasserstein)(policy, teacher, key))),
        "mmd": float(jnp.mean(jax.jit(distances.mmd)(policy, teacher))),
        "mean_slope": float(jnp.sum(mean * teachers_mean) / jnp.sum(teachers_mean**2)),
        "std_ratio": float(jnp.sqrt(spread / teachers_spread)),
    }


def of_density(
    task: Problem, observation: Observation, everything: Mixture, q: Mixture,
    teacher: jax.Array, key: jax.Array,
) -> dict:
    """A policy's density against samples and scores of its teacher, and held-out actions.

    Args:
      observation, q, teacher: of B states, the policy's density there and samples `[V, B, A]`
        of the teacher.
      everything: the policy's density at all held-out observations.

    Returns:
      `nll_held_out`, −log q of all held-out actions, and `nll_teacher_samples`, of the teacher's,
      in nats; `gating_entropy` in nats; `experts_used`, of weight above 1 % on average;
      `fisher_by_noise`, by noise ratio, see `fisher`; `hdr_coverage`, by level, see
      `calibration.hdr_coverage`.
    """
    fisher_key, own_key = jax.random.split(key)
    used = jnp.mean(jnp.exp(everything.log_weights), axis=0)
    log_q = jax.jit(mixture.log_prob)
    of_teacher = log_q(q, teacher)
    own = log_q(q, mixture.sample(q, own_key, (SAMPLES,)))
    most = min(task.teacher.schedule.ratio_max, MOST_NOISE)
    noises = jnp.geomspace(_least(task.teacher.schedule), most, FISHER_NOISES)
    gaps = jax.jit(partial(fisher, task))(observation, q, noises, fisher_key)
    coverage = calibration.hdr_coverage(own, of_teacher, LEVELS)
    return {
        "nll_held_out": float(-jnp.mean(log_q(everything, task.held_out.action))),
        "nll_teacher_samples": float(-jnp.mean(of_teacher)),
        "gating_entropy": float(jnp.mean(mixture.gating_entropy(everything))),
        "experts_used": int(jnp.sum(used > 0.01)),
        "fisher_by_noise": {f"{r:.3g}": float(v) for r, v in zip(noises, gaps, strict=True)},
        "hdr_coverage": {str(p): float(v) for p, v in zip(LEVELS, coverage, strict=True)},
    }


def fisher(task: Problem, observation, q: Mixture, noises: jax.Array, key) -> jax.Array:
    """E σ²‖∇log q_σ − f‖²/A at samples of q_σ, for each noise ratio σ/α of `[K]`, `[K]`.

    q_σ is the diffused policy and f the teacher's score; 0 iff they agree. Without unit.
    """
    schedule = task.teacher.schedule

    def at(ratio):
        t = jnp.broadcast_to(schedule.time(ratio), q.log_weights.shape[:-1])
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        diffused = mixture.diffuse(q, alpha, sigma)
        x = mixture.sample(diffused, key, (FISHER_SAMPLES,))
        gap = mixture.score(diffused, x) - task.teacher.score(x, observation, t)
        return jnp.mean(jnp.square(sigma[:, None] * gap))

    return jax.lax.map(at, noises)


def divergences(task: Problem, observation, q: Mixture, teacher: jax.Array, key) -> dict:
    """KL between policy and learned teacher, both diffused to the teacher's least noise, in nats.

    The teacher's density there is that of its probability flow. The flow starts from its samples
    `[B, V, A]` diffused to `FLOW_NOISE`, a mixture of V Gaussians: the error of N(0, r²), whence
    samplers start, would count as the policy's.

    Returns:
      `kl_student_teacher` KL(q‖π), `kl_teacher_student` KL(π‖q); each with its `…_stderr`.
    """
    schedule = task.teacher.schedule
    low, high = _least(schedule), min(schedule.ratio_max, FLOW_NOISE)
    states = q.log_weights.shape[:-1]
    law = mixture.diffuse(q, 1.0, low)
    prior = mixture.uniform(teacher, jnp.full(teacher.shape, high))

    def denoise(y, r):
        t = jnp.broadcast_to(schedule.time(r), states)
        return task.teacher.denoise(schedule.alpha(t)[:, None] * y, observation, t)

    policy_key, teacher_key = jax.random.split(key)
    mine = mixture.sample(law, policy_key, (FLOW_SAMPLES,))
    log_p_mine = probability_flow.log_prob(denoise, mine, low, high, prior, FLOW_STEPS)
    theirs, log_p_theirs = probability_flow.sample_and_log_prob(
        denoise, teacher_key, mine.shape, low, high, prior, FLOW_STEPS)
    kls = {"kl_student_teacher": mixture.log_prob(law, mine) - log_p_mine,
           "kl_teacher_student": log_p_theirs - mixture.log_prob(law, theirs)}
    found = {}
    for name, gap in kls.items():
        of_state = jnp.mean(gap, axis=0)  # samples of one state share its error
        found[name] = jnp.mean(of_state)
        found[name + "_stderr"] = jnp.std(of_state, ddof=1) / jnp.sqrt(len(of_state))
    return found


def _least(schedule: Schedule) -> float:
    return max(schedule.ratio_min, LEAST_NOISE)


def _drawn(sample, observation, key):
    return jax.jit(sample, static_argnums=2)(observation, key, SAMPLES)


def _spread(tree, num: int):
    """At most `num` rows of every array of a tree, evenly spaced: episodes lie in order."""
    stride = max(len(jax.tree.leaves(tree)[0]) // num, 1)
    return first(jax.tree.map(lambda v: v[::stride], tree), num)
