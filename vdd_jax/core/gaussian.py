"""The multivariate normal N(x; μ, L Lᵀ), by its Cholesky factor, full or diagonal.

`scale_tril` is either the full lower-triangular factor `[..., A, A]` or only its diagonal
`[..., A]`; which of the two follows from its rank: a diagonal has the rank of `mean`.
Nothing here ever forms L Lᵀ, so that float32 holds for standard deviations of 1e-3 beside 1e3.

>>> mean, tril = jnp.zeros(2), jnp.array([[1.0, 0.0], [0.5, 2.0]])
>>> print(f"{log_prob(mean, mean, tril):.3f}")  # −log 2π − log |L|
-2.531
>>> bool(log_prob(mean, mean, jnp.ones(2)) == log_prob(mean, mean, jnp.eye(2)))  # diagonal, full
True
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
    # Substitution over the axes of the action, vectorised over everything else: for the small
    # matrices of actions, many times faster than a batched LAPACK or cuBLAS call. Its derivatives
    # are those of a linear system, again two substitutions, not those of single operations.
    lower = jnp.broadcast_to(jnp.tril(scale_tril), (*batch, a, a))
    return jax.lax.custom_linear_solve(
        lambda z: jnp.einsum("...ij,...j->...i", lower, z), delta,
        solve=lambda _, b: _substitute(lower, b, range(a)),
        transpose_solve=lambda _, b: _substitute(
            jnp.swapaxes(lower, -1, -2), b, reversed(range(a))))


def _substitute(triangular: jax.Array, right: jax.Array, order) -> jax.Array:
    """T⁻¹ b `[..., A]` of triangular T `[..., A, A]`, its rows in the order of substitution."""
    solved = {}
    for i in order:
        rest = right[..., i]
        for j, known in solved.items():
            rest = rest - triangular[..., i, j] * known
        solved[i] = rest / triangular[..., i, i]
    return jnp.stack([solved[i] for i in range(len(solved))], axis=-1)


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


@jax.custom_vjp
def _upper_factor(matrix: jax.Array) -> jax.Array:
    """R `[..., A, A]` of the QR decomposition of `[..., M, A]`, with a positive diagonal.

    Its derivative is written down, since R of RᵀR = MᵀM =: S is the factor of a Cholesky
    decomposition (Murray 2016, equations 9 and 10): with P = R̄Rᵀ, of which the upper triangle
    counts with half its diagonal, S̄ = R⁻¹ sym(P) R⁻ᵀ and M̄ = 2 M S̄. That of the elimination
    would be many times as many operations.
    """
    a = matrix.shape[-1]
    r = triangularise(matrix) if a <= _UNROLL else jnp.linalg.qr(matrix, mode="r")
    return r * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., :, None]


def _upper_forward(matrix):
    r = _upper_factor(matrix)
    return r, (matrix, r)


def _upper_backward(kept, cotangent):
    matrix, r = kept
    product = jnp.einsum("...ij,...kj->...ik", jnp.triu(cotangent), r)
    upper = jnp.triu(product) - 0.5 * product * jnp.eye(r.shape[-1])
    half = _solve_upper(r, 0.5 * (upper + jnp.swapaxes(upper, -1, -2)))
    of_gram = _solve_upper(r, jnp.swapaxes(half, -1, -2))
    return (2.0 * jnp.einsum("...mi,...ij->...mj", matrix, of_gram),)


_upper_factor.defvjp(_upper_forward, _upper_backward)


def _solve_upper(r: jax.Array, right: jax.Array) -> jax.Array:
    """R⁻¹ B for upper triangular R and B, each `[..., A, A]`."""
    a = r.shape[-1]
    if a > _UNROLL:
        return jax.scipy.linalg.solve_triangular(r, right, lower=False)
    columns = jnp.swapaxes(right, -1, -2)
    solved = _substitute(r[..., None, :, :], columns, reversed(range(a)))
    return jnp.swapaxes(solved, -1, -2)


def triangularise(matrix: jax.Array) -> jax.Array:
    """R `[..., A, A]` of the QR decomposition of `[..., M, A]`, by modified Gram-Schmidt.

    Written out over the A columns and vectorised over the batch, like `whiten`. Only R is
    needed, and R of modified Gram-Schmidt is as accurate as Householder's (Björck 1967).
    """
    a = matrix.shape[-1]
    columns = [matrix[..., i] for i in range(a)]
    rows = []
    for i in range(a):
        norm = jnp.sqrt(jnp.sum(columns[i] ** 2, axis=-1, keepdims=True))
        unit = columns[i] / norm
        row = [jnp.zeros_like(norm[..., 0])] * i + [norm[..., 0]]
        for j in range(i + 1, a):
            r = jnp.sum(unit * columns[j], axis=-1)
            columns[j] = columns[j] - r[..., None] * unit
            row.append(r)
        rows.append(jnp.stack(row, axis=-1))
    return jnp.stack(rows, axis=-2)
