"""The policy q(a|s) = Σ_z q(z|s) N(a; μ_z(s), L_z L_zᵀ) as a pytree, and what can be asked of it.

Everything goes by log-sum-exp: the published `exp(·) + 1e-8` breaks in a dozen dimensions
(METHOD: flaw 4 of the published code; see tests/core/test_mixture.py).

Two experts in one dimension, at a point next to the second:

>>> import jax, jax.numpy as jnp
>>> q = uniform(jnp.array([[-1.0], [1.0]]), jnp.array([[0.5], [0.5]]))
>>> x = jnp.array([0.9])
>>> print(f"{log_prob(q, x):.3f} nats")
-0.938 nats
>>> print([f"{r:.3f}" for r in jnp.exp(log_responsibilities(q, x))])
['0.001', '0.999']
>>> act(q, jax.random.key(0), "most_likely_mean").shape, sample(q, jax.random.key(0), (7,)).shape
((1,), (7, 1))

Noised by x ↦ α x + σ ε it is a mixture again:

>>> noised = diffuse(q, 0.6, 0.4)
>>> print(f"{noised.means[1, 0]:.2f} ± {noised.scale_tril[1, 0]:.2f}")  # √(.6² .5² + .4²)
0.60 ± 0.50
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdd_jax.core import gaussian


class Mixture(NamedTuple):
    """A batch of Gaussian mixtures."""

    log_weights: jax.Array  # `[..., Z]`, log q(z|s), normalised
    means: jax.Array  # `[..., Z, A]`
    scale_tril: jax.Array  # `[..., Z, A, A]`, or `[..., Z, A]` when diagonal


def uniform(means: jax.Array, scale_tril: jax.Array) -> Mixture:
    """The mixture of equal weights."""
    weights = jnp.full(means.shape[:-1], -jnp.log(float(means.shape[-2])), means.dtype)
    return Mixture(weights, means, scale_tril)


def component_log_prob(mixture: Mixture, x: jax.Array) -> jax.Array:
    """log q(a|s,z) of every expert, `[..., Z]`, for x `[..., A]`; leading axes broadcast."""
    return gaussian.log_prob(x[..., None, :], mixture.means, mixture.scale_tril)


def _joint(mixture: Mixture, x: jax.Array) -> jax.Array:
    _check_action(mixture, x)
    return mixture.log_weights + component_log_prob(mixture, x)


def log_prob(mixture: Mixture, x: jax.Array) -> jax.Array:
    """log q(a|s), `[...]`, in nats, for x `[..., A]`.

    Raises:
      ValueError: when the action size of `x` is not the mixture's.
    """
    return jax.nn.logsumexp(_joint(mixture, x), axis=-1)


def log_responsibilities(mixture: Mixture, x: jax.Array) -> jax.Array:
    """log q(z|a,s) = log-softmax over z of log q(z|s) + log q(a|s,z), `[..., Z]` (E-step)."""
    return jax.nn.log_softmax(_joint(mixture, x), axis=-1)


def sample(mixture: Mixture, key: jax.Array, shape=()) -> jax.Array:
    """Samples of q(a|s), `shape + [..., A]`."""
    expert_key, noise_key = jax.random.split(key)
    batch = (*shape, *mixture.log_weights.shape[:-1])
    expert = jax.random.categorical(expert_key, mixture.log_weights, shape=batch)
    means, scale_tril = select(mixture, expert)
    noise = jax.random.normal(noise_key, means.shape, means.dtype)
    return gaussian.reparameterise(noise, means, scale_tril)


def select(mixture: Mixture, expert: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean `shape + [..., A]` and factor of the experts with index `expert`, `shape + [...]`."""

    def take(values, event_rank):
        values = jnp.broadcast_to(
            values, (*expert.shape[: expert.ndim - mixture.log_weights.ndim + 1], *values.shape)
        )
        index = expert.reshape(*expert.shape, *(1,) * (event_rank + 1))
        return jnp.take_along_axis(values, index, axis=expert.ndim).squeeze(expert.ndim)

    full = not gaussian.is_diagonal(mixture.means, mixture.scale_tril)
    return take(mixture.means, 1), take(mixture.scale_tril, 2 if full else 1)


def diffuse(mixture: Mixture, alpha, sigma) -> Mixture:
    """The law of α a + σ ε, ε ~ N(0, I): Σ_z q(z|s) N(α μ_z, α² L_z L_zᵀ + σ² I).

    `alpha` and `sigma` are scalars or broadcast against the batch axes `[...]`.
    """
    alpha, sigma = (v[..., None] for v in jnp.broadcast_arrays(alpha, sigma))
    scale_tril = gaussian.diffuse_tril(mixture.means, mixture.scale_tril, alpha, sigma)
    means = alpha[..., None] * mixture.means
    return Mixture(
        jnp.broadcast_to(mixture.log_weights, means.shape[:-1]), means, scale_tril
    )


def affine(mixture: Mixture, scale: jax.Array, shift: jax.Array) -> Mixture:
    """The law of scale ⊙ a + shift, for `scale` and `shift` `[A]`, scale > 0."""
    full = not gaussian.is_diagonal(mixture.means, mixture.scale_tril)
    factor = scale[:, None] if full else scale
    return Mixture(
        mixture.log_weights, mixture.means * scale + shift, mixture.scale_tril * factor
    )


def score(mixture: Mixture, x: jax.Array) -> jax.Array:
    """∇_x log q(x|s) = −Σ_z q(z|x,s) Σ_z⁻¹ (x − μ_z), `[..., A]`."""
    return jax.grad(lambda x: jnp.sum(log_prob(mixture, x)))(x)


def gating_entropy(mixture: Mixture) -> jax.Array:
    """−Σ_z q(z|s) log q(z|s), `[...]`, in nats."""
    log_w = mixture.log_weights
    dead = jnp.isneginf(log_w)  # 0 log 0 = 0, in the gradient too
    return -jnp.sum(jnp.exp(log_w) * jnp.where(dead, 0.0, log_w), axis=-1)


def entropy_bounds(mixture: Mixture) -> tuple[jax.Array, jax.Array]:
    """Lower and upper bound `[...]` of the entropy −E log q(a|s), in nats; there is no closed form.

    Σ_z w_z H(N_z) − Σ_z w_z log Σ_k w_k exp(−D(N_z, N_k)) with D the Bhattacharyya
    distance for the lower bound and the KL divergence for the upper one (Kolchinsky & Tracey 2017,
    "Estimating mixture entropy with pairwise distances"). Both are exact where
    experts are all alike, or all far apart.
    """
    log_w, means, tril = mixture
    full = not gaussian.is_diagonal(means, tril)
    pairs = (means[..., :, None, :], tril[..., :, None, :, :] if full else tril[..., :, None, :],
             means[..., None, :, :], tril[..., None, :, :, :] if full else tril[..., None, :, :])
    weights = jnp.exp(log_w)
    within = jnp.sum(weights * gaussian.entropy(means, tril), axis=-1)

    def bound(distance):
        among = jax.nn.logsumexp(log_w[..., None, :] - distance, axis=-1)
        return within - jnp.sum(weights * jnp.where(weights > 0, among, 0.0), axis=-1)

    return bound(gaussian.bhattacharyya(*pairs)), bound(gaussian.kl(*pairs))


def mean_of_most_likely(mixture: Mixture) -> jax.Array:
    """The mean of the expert of highest gating probability, `[..., A]`."""
    return select(mixture, jnp.argmax(mixture.log_weights, axis=-1))[0]


ACTING = ("sampled_mean", "most_likely_mean", "sample")


def act(mixture: Mixture, key: jax.Array, how: str, min_weight: float = 0.0) -> jax.Array:
    """An action `[..., A]`, as a policy gives it.

    Args:
      how: 'sampled_mean', the mean of an expert drawn from the gating (as in the paper);
        'most_likely_mean', that of the likeliest expert; 'sample', a sample.
      min_weight: below 1/Z; experts of less weight are not drawn: ε-sampling (Hewitt et al.
        2022). Rare experts are those whose means were learned from the fewest actions.

    Raises:
      ValueError: for an unknown `how`.
    """
    if how not in ACTING:
        raise ValueError(f"how is one of {', '.join(ACTING)}, not {how!r}")
    if how == "most_likely_mean":
        return mean_of_most_likely(mixture)
    if how == "sampled_mean":
        return select(mixture, draw(mixture.log_weights, key, min_weight))[0]
    kept = mixture._replace(log_weights=_kept(mixture.log_weights, min_weight))
    return sample(kept, _after(mixture.log_weights, key))


def draw(log_weights: jax.Array, key: jax.Array, min_weight: float = 0.0) -> jax.Array:
    """Indices `[...]` of experts drawn from the gating `[..., Z]`, as `act` draws them."""
    return jax.random.categorical(_after(log_weights, key), _kept(log_weights, min_weight))


def _kept(log_weights, min_weight: float):
    if not min_weight:
        return log_weights  # which need not sum to 1 for drawing
    return jnp.where(log_weights >= jnp.log(min_weight), log_weights, -jnp.inf)


def _after(values: jax.Array, key: jax.Array) -> jax.Array:
    """The same key, but for the compiler one that is known only after `values`.

    On a CPU the generator is a loop, which XLA runs beside the network, on other threads where it
    can: the handing over costs a single action a third of its latency.
    """
    broken = jnp.any(jnp.isnan(values.reshape(-1)[:1]))  # then the draw means nothing anyway
    data = jax.random.key_data(key)
    return jax.random.wrap_key_data(data + broken.astype(data.dtype),
                                    impl=jax.random.key_impl(key))


def _check_action(mixture: Mixture, x: jax.Array) -> None:
    if x.shape[-1] != mixture.means.shape[-1]:
        raise ValueError(
            f"the action has {x.shape[-1]} numbers (shape {x.shape}), "
            f"but the mixture is over actions of {mixture.means.shape[-1]}"
        )
