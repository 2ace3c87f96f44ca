"""The multivariate normal N(x; μ, L Lᵀ), by its Cholesky factor, full or diagonal.

`scale_tril` is either the full lower-triangular factor `[..., A, A]` or only its diagonal
`[..., A]`; which of the two follows from its rank: a diagonal has the rank of `mean`.
Nothing here ever forms L Lᵀ, so that float32 holds for standard deviations of 1e-3 beside 1e3.
"""

import math

import chex
import jax
import jax.numpy as jnp

LOG_2PI = math.log(2.0 * math.pi)


def is_diagonal(mean: jax.Array, scale_tril: jax.Array) -> bool:
    """Whether `scale_tril` is the diagonal `[..., A]` rather than the factor `[..., A, A]`.

    Raises:
      ValueError: when the shape of `scale_tril` is neither.
    """
    a = mean.shape[-1]
    if scale_tril.ndim == mean.ndim and scale_tril.shape[-1] == a:
        return True
    if scale_tril.ndim == mean.ndim + 1 and scale_tril.shape[-2:] == (a, a):
        return False
    raise ValueError(
        f"scale_tril has shape {scale_tril.shape}; for a mean of shape {mean.shape} it should be "
        f"the diagonal [..., {a}] or the Cholesky factor [..., {a}, {a}], with equal batch rank"
    )


def diagonal(mean: jax.Array, scale_tril: jax.Array) -> jax.Array:
    """The diagonal of the factor, `[..., A]`."""
    if is_diagonal(mean, scale_tril):
        return scale_tril
    return jnp.diagonal(scale_tril, axis1=-2, axis2=-1)


def whiten(x: jax.Array, mean: jax.Array, scale_tril: jax.Array) -> jax.Array:
    """L⁻¹ (x − μ), `[..., A]`; leading axes broadcast."""
    delta = x - mean
    if is_diagonal(mean, scale_tril):
        return delta / scale_tril
    a = delta.shape[-1]
    batch = jnp.broadcast_shapes(delta.shape[:-1], scale_tril.shape[:-2])
    delta = jnp.broadcast_to(delta, (*batch, a))
    if a > _UNROLL:
        factor = jnp.broadcast_to(scale_tril, (*batch, a, a))
        return jax.scipy.linalg.solve_triangular(factor, delta[..., None], lower=True)[..., 0]
    # Forward substitution over the axes of the action, vectorised over everything else: for the
    # small matrices of actions, many times faster than a batched LAPACK or cuBLAS call.
    solved = []
    for i in range(a):
        rest = delta[..., i]
        for j in range(i):
            rest = rest - scale_tril[..., i, j] * solved[j]
        solved.append(rest / scale_tril[..., i, i])
    return jnp.stack(solved, axis=-1)


_UNROLL = 16  # largest action for which substitution is written out; past it compilation is slow


def log_prob(x: jax.Array, mean: jax.Array, scale_tril: jax.Array) -> jax.Array:
    """log N(x; μ, L Lᵀ), `[...]`, in nats.

    Args:
      x: `[..., A]`.
      mean: `[..., A]`.
      scale_tril: `[..., A, A]`, or `[..., A]` when diagonal.
    """
    z = whiten(x, mean, scale_tril)
    constant = 0.5 * mean.shape[-1] * LOG_2PI
    return -0.5 * jnp.sum(z * z, axis=-1) - _log_det(mean, scale_tril) - constant


def entropy(mean: jax.Array, scale_tril: jax.Array) -> jax.Array:
    """H = ½ A (1 + log 2π) + log |L|, `[...]`, in nats (closed form)."""
    return _log_det(mean, scale_tril) + 0.5 * mean.shape[-1] * (1.0 + LOG_2PI)


def kl(mean: jax.Array, scale_tril: jax.Array, to_mean: jax.Array, to_tril: jax.Array) -> jax.Array:
    """KL(N(μ, L Lᵀ) ‖ N(μ', L' L'ᵀ)), `[...]`, in nats (closed form); leading axes broadcast."""
    if is_diagonal(mean, scale_tril):
        spread = scale_tril / to_tril
    else:
        columns = jnp.swapaxes(scale_tril, -1, -2)
        spread = whiten(columns, jnp.zeros_like(mean)[..., None, :], to_tril[..., None, :, :])
        spread = spread.reshape(*spread.shape[:-2], -1)
    apart = whiten(mean, to_mean, to_tril)
    ratio = _log_det(to_mean, to_tril) - _log_det(mean, scale_tril)
    return ratio + 0.5 * (
        jnp.sum(spread * spread, -1) + jnp.sum(apart * apart, -1) - mean.shape[-1])


def bhattacharyya(mean: jax.Array, scale_tril: jax.Array, to_mean: jax.Array,
                  to_tril: jax.Array) -> jax.Array:
    """−log ∫ √(N N'), `[...]`, of two normals (closed form); leading axes broadcast."""
    if is_diagonal(mean, scale_tril):
        middle = jnp.hypot(scale_tril, to_tril) / math.sqrt(2.0)
    else:  # the factor of the mean covariance, as in `diffuse_tril`
        pair = jnp.broadcast_arrays(*(jnp.swapaxes(v, -1, -2) for v in (scale_tril, to_tril)))
        r = _upper_factor(jnp.concatenate(pair, axis=-2) / math.sqrt(2.0))
        middle = jnp.swapaxes(r, -1, -2)
    apart = whiten(mean, to_mean, middle)
    ratio = _log_det(apart, middle) - 0.5 * (
        _log_det(mean, scale_tril) + _log_det(to_mean, to_tril))
    return ratio + 0.125 * jnp.sum(apart * apart, -1)


def _log_det(mean, scale_tril):
    return jnp.sum(jnp.log(jnp.abs(diagonal(mean, scale_tril))), axis=-1)


def reparameterise(noise: jax.Array, mean: jax.Array, scale_tril: jax.Array) -> jax.Array:
    """μ + L ε, `[..., A]`, differentiable in μ and L; `noise` ε `[..., A]` broadcasts."""
    chex.assert_equal(noise.shape[-1], mean.shape[-1])
    if is_diagonal(mean, scale_tril):
        return mean + scale_tril * noise
    return mean + jnp.einsum("...ij,...j->...i", scale_tril, noise)


def sample(key: jax.Array, mean: jax.Array, scale_tril: jax.Array, shape=()) -> jax.Array:
    """Reparameterised samples, `shape + [..., A]`."""
    noise = jax.random.normal(key, (*shape, *mean.shape), mean.dtype)
    return reparameterise(noise, mean, scale_tril)


def diffuse_tril(mean: jax.Array, scale_tril: jax.Array, alpha, sigma) -> jax.Array:
    """The factor of α² L Lᵀ + σ² I, of the shape of `scale_tril`.

    `alpha` and `sigma` broadcast against the batch axes. The full factor is the R of the QR
    decomposition of [α Lᵀ; σ I], which needs no covariance: squaring would lose the small
    eigenvalues in float32.
    """
    alpha, sigma = jnp.asarray(alpha)[..., None], jnp.asarray(sigma)[..., None]
    if is_diagonal(mean, scale_tril):
        return jnp.hypot(alpha * scale_tril, sigma)
    a = mean.shape[-1]
    upper = alpha[..., None] * jnp.swapaxes(scale_tril, -1, -2)
    noise = sigma[..., None] * jnp.eye(a, dtype=scale_tril.dtype)
    batch = jnp.broadcast_shapes(upper.shape[:-2], noise.shape[:-2])
    stacked = jnp.concatenate(
        [jnp.broadcast_to(upper, (*batch, a, a)), jnp.broadcast_to(noise, (*batch, a, a))], axis=-2
    )
    return jnp.swapaxes(_upper_factor(stacked), -1, -2)


def _upper_factor(matrix: jax.Array) -> jax.Array:
    """R `[..., A, A]` of the QR decomposition of `[..., M, A]`, its diagonal positive."""
    if matrix.shape[-1] <= _UNROLL:
        return triangularise(matrix)
    r = jnp.linalg.qr(matrix, mode="r")
    return r * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., :, None]


def triangularise(matrix: jax.Array) -> jax.Array:
    """R `[..., A, A]` of the QR decomposition of `[..., M, A]`, by modified Gram-Schmidt.

    Written out over the A columns and vectorised over the batch, like `whiten`. Only R is
    needed, and R of modified Gram-Schmidt is as accurate as Householder's (Björck 1967).
    """
    a = matrix.shape[-1]
    columns = [matrix[..., i] for i in range(a)]
    rows = []
    for i in range(a):
        # scaled before squaring, so that neither 1e-3 nor 1e3 meets the end of float32
        scale = jnp.max(jnp.abs(jax.lax.stop_gradient(columns[i])), axis=-1, keepdims=True)
        scale = jnp.where(scale == 0, 1.0, scale)
        norm = scale * jnp.sqrt(jnp.sum((columns[i] / scale) ** 2, axis=-1, keepdims=True))
        unit = columns[i] / norm
        row = [jnp.zeros_like(norm[..., 0])] * i + [norm[..., 0]]
        for j in range(i + 1, a):
            r = jnp.sum(unit * columns[j], axis=-1)
            columns[j] = columns[j] - r[..., None] * unit
            row.append(r)
        rows.append(jnp.stack(row, axis=-1))
    return jnp.stack(rows, axis=-2)
