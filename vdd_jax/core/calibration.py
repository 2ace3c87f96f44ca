"""Whether a density is as wide as the law it stands for."""

import jax
import jax.numpy as jnp


def hdr_coverage(log_q_own: jax.Array, log_q_other: jax.Array, levels) -> jax.Array:
    """Share of another law's samples in the highest-density regions of q, mean over states, `[K]`.

    The region of level p is {a: log q(a) ≥ f}, the smallest set of probability p under q; f is the
    (1 − p)-quantile of log q(a), a ~ q (Hyndman 1996). When q is the other law, the share is p at
    every p; when q is too narrow or elsewhere, below; when it is too wide, above.

    Args:
      log_q_own: log q of samples of q, `[V, ...]`.
      log_q_other: log q of samples of the other law, `[W, ...]`.
      levels: probabilities p in (0, 1), `[K]`.
    """
    num = len(log_q_own)
    # Below order statistic i of V lies i/(V + 1) on average: with i = (V + 1)(1 − p), here as a
    # position in 0…1 from the first to the last, the share has no bias however few the samples.
    position = ((num + 1) * (1.0 - jnp.asarray(levels)) - 1.0) / (num - 1)
    threshold = jnp.quantile(log_q_own, jnp.clip(position, 0.0, 1.0), axis=0)  # `[K, ...]`
    return jax.lax.map(lambda f: jnp.mean(log_q_other >= f), threshold)
