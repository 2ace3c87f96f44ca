"""The losses: denoising, E-step, the bound of one expert, gating (Zhou et al. 2024, METHOD 2, 5).

With q̃ the responsibilities of the old student, KL(q‖π) is bounded by
U = Σ_z q(z|s) [U_z + log q(z|s)], and each expert has a bound of its own,

    U_z = E_{a ~ q(a|s,z)} [log q(a|s,z) − log π(a|s) − log q̃(z|a,s)].

`expert_bound` is U_z of ONE expert; `jax.vmap` over its index gives all of them in parallel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdd_jax.core import gaussian, mixture
from vdd_jax.core.mixture import Mixture


class Level(NamedTuple):
    """The noise of one update: time of the teacher's schedule and its α, σ, each `[B]`."""

    t: jax.Array
    alpha: jax.Array
    sigma: jax.Array


def denoising(prediction: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """E weight · ‖prediction − target‖²/A over `[..., A]`, `weight` `[...]`; a scalar.

    Denoising score matching (Vincent 2011) when the target is x0, ε, or a velocity.
    """
    return jnp.mean(weight * jnp.mean(jnp.square(prediction - target), axis=-1))


def e_step(old: Mixture, level: Level, diffused: bool) -> Mixture:
    """The mixture whose responsibilities are q̃: the old student, diffused where the bound is.

    No gradient goes back into the old student.
    """
    old = jax.lax.stop_gradient(old)
    return mixture.diffuse(old, level.alpha, level.sigma) if diffused else old


def expert_bound(
    index: jax.Array,
    mean: jax.Array,
    scale_tril: jax.Array,
    noise: tuple[jax.Array, jax.Array],
    old: Mixture,
    score,
    level: Level,
    *,
    wide_tril: jax.Array | None = None,
    bound: str = "diffused",
    entropy: str = "path",
) -> jax.Array:
    """A surrogate of U_z(s) for expert z = `index`, `[B]`: its *gradient* is that of U_z.

    The term −log π enters as −stop_grad(f)·x with f the teacher's score at x, which has the
    gradient of −log π(x) without π. Bounds:

    * `published`: x = μ + L ε, teacher diffused to the level but asked at the undiffused x;
      the fixed point is widened to about √(s² + σ²) (kept for comparison).
    * `scaled`: as published but asked at α x with the gradient in x through α, so that a
      VP teacher does not shrink the action.
    * `diffused`: KL(q_σ‖π_σ) with x = α (μ + L ε) + σ ε′, the point where the teacher was
      trained, and the student's law diffused exactly. Zero iff q = π.

    Entropies, equal in expectation:

    * `closed`: −H in closed form.
    * `path`: +log q(x|s,z) through the sample only, parameters held ("sticking the landing",
      Roeder et al. 2017). With the responsibilities of the same student, the gradient at x is
      ∇ log q(x) − ∇ log π(x): it vanishes sample by sample where q = π.

    Args:
      index: scalar integer z.
      mean: `[B, A]`, of expert z; or with further batch axes, `[B, T, A]`, everywhere below.
      scale_tril: `[B, A, A]` or `[B, A]`, of expert z.
      noise: ε and ε′, each `[V, B, A]`.
      old: what `e_step` returns, Z experts.
      score: (x `[V, B, A]`, t `[B]`) → score of the teacher at x, `[V, B, A]`.
      level: the noise level of every state, `[B]`; broadcasts against the batch axes.
      wide_tril: the factor of the diffused expert, where it is known already.
      bound, entropy: see above.

    Raises:
      ValueError: for an unknown bound or entropy.
    """
    if bound not in BOUNDS or entropy not in ENTROPIES:
        raise ValueError(f"bound is one of {BOUNDS} and entropy one of {ENTROPIES}")
    alpha, sigma = level.alpha[..., None], level.sigma[..., None]
    x = gaussian.reparameterise(noise[0], mean, scale_tril)
    if bound == "diffused":
        x = alpha * x + sigma * noise[1]
    query = alpha * x if bound == "scaled" else x
    teacher = jax.lax.stop_gradient(score(jax.lax.stop_gradient(query), level.t))
    minus_log_teacher = -jnp.sum(teacher * query, axis=-1)
    minus_log_responsibility = -mixture.log_responsibilities(old, x)[..., index]
    if bound == "diffused":
        if wide_tril is None:
            wide_tril = gaussian.diffuse_tril(mean, scale_tril, level.alpha, level.sigma)
        mean, scale_tril = alpha * mean, wide_tril
    if entropy == "path":
        minus_entropy = gaussian.log_prob(x, *jax.lax.stop_gradient((mean, scale_tril)))
    else:
        minus_entropy = -gaussian.entropy(mean, scale_tril)
    return jnp.mean(minus_log_teacher + minus_log_responsibility + minus_entropy, axis=0)


BOUNDS = ("published", "scaled", "diffused")
ENTROPIES = ("closed", "path")


def gating(log_weights: jax.Array, log_responsibilities: jax.Array, smoothing=0.0) -> jax.Array:
    """Cross-entropy −Σ_z p(z) log q(z|s), `[...]`, both arguments `[..., Z]`, a ~ π.

    With `smoothing` ε = 0 the target p is q̃(z|a,s): the forward KL to the responsibilities,
    whose minimiser over actions of π is the weight with which π visits each expert. Otherwise
    p = (1 − ε) q̃ + ε/Z holds the weights near uniform, which keeps two experts from sharing one
    mode while they separate. No gradient goes into the responsibilities.
    """
    target = jnp.exp(jax.lax.stop_gradient(log_responsibilities))
    target = (1.0 - smoothing) * target + smoothing / target.shape[-1]
    return -jnp.sum(target * log_weights, axis=-1)
