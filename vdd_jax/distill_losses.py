"""The losses of distillation over a batch of which everything random has been drawn.

The experts' bounds, the gating, both in one pass of the student, the likelihood of the warm start.
Each is a mean over the batch, whose arrays all have it as their first axis, so that it can be
computed in slices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdd_jax.core import mixture, objectives
from vdd_jax.core.keys import for_dropout
from vdd_jax.core.objectives import Level
from vdd_jax.models.denoiser import window_actions
from vdd_jax.noise_levels import noise_level
from vdd_jax.types import Batch


class Drawn(NamedTuple):
    """A batch and its noise. Where all actions of a window are distilled, an action has axes
    `[B, T, A]`, otherwise `[B, A]`."""

    batch: Batch
    level: Level  # each `[B]`, of windows `[B, 1]`
    weight: jax.Array  # `[B]`, of windows `[B, T]`: of an action, 1 on average
    eps: jax.Array  # of the batch's own actions
    sample_noise: jax.Array  # ε and ε′ of the experts' samples, `[B, 2, V, …]`; V = 0: not needed


def actions(config: ConfigDict, batch: Batch) -> jax.Array:
    """What is distilled: `[B, A]`, or of windows `[B, T, A]`. `config` is `config.distill`."""
    return batch.action if config.window == "last" else window_actions(batch)


def draw(config: ConfigDict, schedule, step, batch: Batch, level_key, eps_key, sample_key=None):
    """The noise of an update, a `Drawn`; without `sample_key` none for the experts' samples."""
    level = noise_level(config.noise, schedule, step / config.num_iterations, level_key,
                        len(batch.action))
    action = actions(config, batch)
    weight = jnp.ones(action.shape[:-1])
    if config.window != "last":  # one level for a window; steps before the episode do not count
        level = jax.tree.map(lambda v: v[:, None], level)
        valid = batch.observation.valid
        weight = valid / jnp.mean(valid)
    size = 0 if sample_key is None else config.samples_per_state
    noise = (jnp.zeros((2, 0, *action.shape)) if sample_key is None else
             jax.random.normal(sample_key, (2, size, *action.shape)))
    return Drawn(batch, level, weight, jax.random.normal(eps_key, action.shape),
                 jnp.moveaxis(noise, 2, 0))


def make_losses(config: ConfigDict, model, teacher):
    """`bounds`, `likelihood`, `gating` and `both`, as below; `config` is `config.distill`."""
    diffused = config.bound == "diffused"
    model = model.clone(per_step=True) if config.window != "last" else model
    teacher_score = {"last": teacher.score, "all": teacher.each_score,
                     "joint": teacher.joint_score}[config.window]

    def student(params, observation, key):
        return model.apply({"params": params}, observation, train=True,
                           rngs={"dropout": for_dropout(key)})

    def noised(drawn: Drawn):
        level = drawn.level
        return (level.alpha[..., None] * actions(config, drawn.batch)
                + level.sigma[..., None] * drawn.eps)

    def negative_log_likelihood(q, drawn: Drawn):
        """E −log q_σ(α a + σ ε) over the batch's actions: the forward KL, but for a constant."""
        q = mixture.diffuse(q, drawn.level.alpha, drawn.level.sigma)
        return jnp.mean(-mixture.log_prob(q, noised(drawn)) * drawn.weight)

    def bounds_of(q, drawn: Drawn):
        """Σ_z U_z."""
        batch, level = drawn.batch, drawn.level
        old = objectives.e_step(q, level, diffused)
        # of all experts at once: the very operations of the E-step, which the compiler shares
        wide = mixture.diffuse(q, level.alpha, level.sigma) if diffused else q
        noise = jnp.moveaxis(drawn.sample_noise, 0, 2)

        @jax.custom_batching.custom_vmap
        def score(x, t):
            return teacher_score(x, batch.observation, t.reshape(len(batch.action)))

        @score.def_vmap
        def of_all_experts(_, batched, x, t):
            # The samples of all are more samples of the same states: `[Z, V, B, …]` is asked as
            # `[Z V, B, …]`, and what the teacher sees of a state is encoded once.
            assert batched == [True, False]
            return score(x.reshape(-1, *x.shape[2:]), t).reshape(x.shape), True

        def bound(index, mean, scale_tril, wide_tril):
            return objectives.expert_bound(
                index, mean, scale_tril, noise, old, score, level, wide_tril=wide_tril,
                bound=config.bound, entropy=config.entropy)

        axis = q.log_weights.ndim - 1  # of the experts
        each = jax.vmap(bound, in_axes=(0, axis, axis, axis), out_axes=axis)(
            jnp.arange(q.log_weights.shape[axis]), q.means, q.scale_tril,
            wide.scale_tril)  # `[B, Z]`
        weight = drawn.weight
        if config.weighting == "denoiser":
            weight = weight * jnp.square(level.sigma / level.alpha)
        each = each * weight[..., None]
        if config.weight_by_gating:
            each = each * jnp.exp(jax.lax.stop_gradient(q.log_weights))
        total = each.mean(axis=tuple(range(axis))).sum()
        if config.likelihood_weight:
            total += config.likelihood_weight * negative_log_likelihood(q, drawn)
        return total

    def gating_of(q, drawn: Drawn, smoothing):
        action, at = actions(config, drawn.batch), q
        if config.gating_diffused:
            action, at = noised(drawn), mixture.diffuse(q, drawn.level.alpha, drawn.level.sigma)
        responsibilities = mixture.log_responsibilities(jax.lax.stop_gradient(at), action)
        loss = objectives.gating(q.log_weights, responsibilities, smoothing)
        return jnp.mean(loss * drawn.weight)

    def bounds(experts, drawn: Drawn, key, params):
        """Of the experts' parameters; `params` are all of them, held."""
        return bounds_of(
            student({**params, "experts": experts}, drawn.batch.observation, key), drawn)

    def gating(weights, drawn: Drawn, key, params, smoothing):
        """Of the gating's parameters; `params` are all of them, held."""
        return gating_of(
            student({**params, "gating": weights}, drawn.batch.observation, key), drawn, smoothing)

    def both(params, drawn: Drawn, key, smoothing):
        """The sum and, aside, the gating's: the gradient of each in its own parameters."""
        q = student(params, drawn.batch.observation, key)
        value = gating_of(q, drawn, smoothing)
        held = q._replace(log_weights=jax.lax.stop_gradient(q.log_weights))
        return bounds_of(held, drawn) + value, value

    def likelihood(params, drawn: Drawn, key):
        """−log q_σ of actions of the teacher, for experts and gating together."""
        return negative_log_likelihood(student(params, drawn.batch.observation, key), drawn)

    return bounds, likelihood, gating, both
