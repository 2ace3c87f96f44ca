"""Moves a redundant expert to where one is missing: what no gradient of a reverse KL can do.

Two faults of a mixture are stable under the reverse KL: a mode that no expert covers (nothing is
sampled there), and one expert stretched over two modes (the pulls balance). Both are seen by
comparing the student with the data and with the teacher's score, and both are mended by
splitting an expert into itself and one that can be spared.
"""

import jax
import jax.numpy as jnp

from vdd_jax.core import gaussian, mixture
from vdd_jax.core.mixture import Mixture
from vdd_jax.core.objectives import Level
from vdd_jax.models.moe import split_expert
from vdd_jax.types import Batch

SPARE = 0.75  # an expert with less responsibility than this for its own samples can be spared
TENSION = 1.0  # squared force, over an expert's own spread, past which it is to be split
GAP = 5.0  # nats by which data must be unlikelier than the student's own samples to be uncovered


def diagnose(q: Mixture, teacher_score, batch: Batch, level: Level, key: jax.Array) -> dict:
    """How each expert does, on the states of `batch`.

    Args:
      q: the student at the B states.
      teacher_score: (x `[V, B, A]`, t `[B]`) → score.
      batch: B pairs of the data.
      level: noise at which both are compared.

    Returns:
      `own` `[Z]`: E_{x~q_z} q(z|x). `tension` `[Z]`: E ‖L_zᵀ (∇log q_σ − ∇log π_σ)‖²/A under
      q_σ(x|z), 0 where student and teacher agree, dimensionless. `weight` `[Z]`: E q(z|s).
      `surprise` `[B]`: nats by which the noised action of the data is less likely under q_σ
      than the unlikeliest of the student's own samples.
    """
    num_experts = q.log_weights.shape[-1]
    eps_key, data_key, own_key = jax.random.split(key, 3)
    diffused = mixture.diffuse(q, level.alpha, level.sigma)
    eps = jax.random.normal(eps_key, (16, *batch.action.shape))

    def one(index):
        mean, tril = diffused.means[:, index], diffused.scale_tril[:, index]
        x = gaussian.reparameterise(eps, mean, tril)
        force = mixture.score(diffused, x) - teacher_score(x, level.t)
        if gaussian.is_diagonal(mean, tril):
            force = tril * force
        else:
            force = jnp.einsum("...ji,...j->...i", tril, force)
        own = jnp.mean(jnp.exp(mixture.log_responsibilities(diffused, x)[..., index]))
        return own, jnp.mean(jnp.square(force))

    own, tension = jax.vmap(one)(jnp.arange(num_experts))
    noise = jax.random.normal(data_key, batch.action.shape)
    noised = level.alpha[:, None] * batch.action + level.sigma[:, None] * noise
    usual = mixture.log_prob(diffused, mixture.sample(diffused, own_key, (64,)))
    return {
        "own": own,
        "tension": tension,
        "weight": jnp.mean(jnp.exp(q.log_weights), axis=0),
        "surprise": jnp.min(usual) - mixture.log_prob(diffused, noised),
    }


def reallocate(params: dict, q: Mixture, teacher_score, batch: Batch, level: Level, key):
    """Splits one expert if that is called for; returns (params, whether it was).

    The expert that is spared is the one whose removal costs least, w_z · −log(1 − own_z). An
    uncovered action of the data comes first: the expert nearest to it is copied onto it.
    Otherwise the expert with the largest weighted tension is split along its longest axis.
    """
    found = diagnose(q, teacher_score, batch, level, key)
    cost = -found["weight"] * jnp.log1p(-jnp.minimum(found["own"], 1.0 - 1e-6))
    worst = jnp.argmax(found["surprise"])
    uncovered = found["surprise"][worst] > GAP
    at_worst = jax.tree.map(lambda v: v[worst], q)
    nearest = jnp.argmax(mixture.log_responsibilities(at_worst, batch.action[worst]))
    tense = jnp.argmax(found["weight"] * found["tension"])
    source = jnp.where(uncovered, nearest, tense)

    cost = cost.at[source].set(jnp.inf)
    target = jnp.argmin(cost)
    called_for = uncovered | (found["tension"][tense] > TENSION)
    called_for &= found["own"][target] < SPARE

    tril = q.scale_tril[:, source]
    if gaussian.is_diagonal(q.means[:, 0], tril):
        tril = jax.vmap(jnp.diag)(tril)
    covariance = jnp.mean(jnp.einsum("bij,bkj->bik", tril, tril), axis=0)
    values, vectors = jnp.linalg.eigh(covariance)
    along = jnp.sqrt(values[-1]) * vectors[:, -1]
    onto = batch.action[worst] - at_worst.means[source]
    shift_source = jnp.where(uncovered, 0.0, -along)
    shift_target = jnp.where(uncovered, onto, along)
    new = split_expert(params, source, target, shift_source, shift_target)
    return jax.tree.map(lambda n, o: jnp.where(called_for, n, o), new, params), called_for
