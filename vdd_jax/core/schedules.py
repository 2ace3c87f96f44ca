"""Noise schedules x_t = α(t) a + σ(t) ε and what a network may predict: the one home of time.

Every schedule counts time so that noise grows from `t_min` to `t_max`, except flows whose data
lies at t = 1. What tells noise levels of different families apart is the *ratio* σ/α, the noise
in units of the clean action: for a VE schedule the ratio is σ, and is the time.

Sources: VE, Karras et al. 2022; VP, Ho et al. 2020 (linear), Nichol & Dhariwal 2021 (cosine),
Song et al. 2021 (continuous linear); flow, Lipman et al. 2023.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Schedule(NamedTuple):
    """α(t), σ(t) and the inverse of σ/α; arrays of times in, arrays of the same shape out."""

    alpha: Callable
    sigma: Callable
    time: Callable  # ratio σ/α → t
    t_min: float  # the least noise the teacher knows
    t_max: float  # the most noise

    def ratio(self, t):
        """σ(t)/α(t): the noise in units of the clean action."""
        return self.sigma(t) / self.alpha(t)

    @property
    def ratio_min(self) -> float:
        with jax.ensure_compile_time_eval():  # a number, inside jit too
            return float(self.ratio(jnp.asarray(self.t_min, jnp.float32)))

    @property
    def ratio_max(self) -> float:
        with jax.ensure_compile_time_eval():
            return float(self.ratio(jnp.asarray(self.t_max, jnp.float32)))


def ve(sigma_min: float = 0.0, sigma_max: float = 80.0) -> Schedule:
    """Variance exploding: x = a + σ ε, t = σ.

    >>> schedule = ve(0.05, 5.0)
    >>> float(schedule.alpha(2.0)), float(schedule.sigma(2.0)), float(schedule.time(2.0))
    (1.0, 2.0, 2.0)
    """
    return Schedule(
        alpha=lambda t: jnp.ones_like(jnp.asarray(t, float)),
        sigma=lambda t: jnp.asarray(t, float),
        time=lambda ratio: jnp.asarray(ratio, float),
        t_min=sigma_min,
        t_max=sigma_max,
    )


def _angle(t, offset=0.008):
    return (t + offset) / (1.0 + offset) * (jnp.pi / 2)


def vp_cosine(t_min: float = 1e-3, t_max: float = 0.995) -> Schedule:
    """Continuous cosine: α = cos((t + .008)/1.008 · π/2), t in (0, 1)."""
    return Schedule(
        alpha=lambda t: jnp.cos(_angle(t)),
        sigma=lambda t: jnp.sin(_angle(t)),
        time=lambda ratio: jnp.arctan(ratio) / (jnp.pi / 2) * 1.008 - 0.008,
        t_min=t_min,
        t_max=t_max,
    )


def vp_linear(
    beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3, t_max: float = 1.0
) -> Schedule:
    """Continuous linear betas: log α = −¼ t² (β₁ − β₀) − ½ t β₀, t in (0, 1]."""
    slope = beta_max - beta_min

    def log_alpha(t):
        return -0.25 * jnp.square(t) * slope - 0.5 * t * beta_min

    def time(ratio):
        # log α² = −log(1 + ratio²) solved for t, in the form that does not cancel
        log_term = jnp.log1p(jnp.square(ratio))
        return 2.0 * log_term / (jnp.sqrt(beta_min**2 + 2.0 * slope * log_term) + beta_min)

    return Schedule(
        alpha=lambda t: jnp.exp(log_alpha(t)),
        sigma=lambda t: jnp.sqrt(-jnp.expm1(2.0 * log_alpha(t))),
        time=time,
        t_min=t_min,
        t_max=t_max,
    )


def cosine_betas(num_steps: int, max_beta: float = 0.999) -> np.ndarray:
    """β_i = 1 − ᾱ((i+1)/N)/ᾱ(i/N) with ᾱ = cos²(angle), at most `max_beta`; `[N]`."""
    steps = np.arange(num_steps + 1) / num_steps
    bar = np.cos((steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1.0 - bar[1:] / bar[:-1], max_beta)


def linear_betas(num_steps: int, beta_min: float = 1e-4, beta_max: float = 0.02) -> np.ndarray:
    """N betas evenly spaced, `[N]`."""
    return np.linspace(beta_min, beta_max, num_steps)


def vp_discrete(betas: np.ndarray) -> Schedule:
    """DDPM's chain: t = 0, 1, …, N−1 indexes ᾱ_t = Π_{i≤t} (1 − β_i), α = √ᾱ, σ = √(1 − ᾱ).

    Times between the steps interpolate log(σ/α), so that a teacher trained on the steps can be
    asked anywhere between them.

    Raises:
      ValueError: when the betas are not in (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError(f"betas must be a vector of numbers in (0, 1), not {betas}")
    bar = np.cumprod(1.0 - betas)
    # NumPy's: inside jit arrays of JAX would be tracers, and `ratio_min` not a number
    log_ratio = np.asarray(0.5 * (np.log1p(-bar) - np.log(bar)), np.float32)
    steps = np.arange(len(betas), dtype=np.float32)

    def at(t):
        return jnp.interp(jnp.asarray(t, jnp.float32), steps, log_ratio)

    return Schedule(
        alpha=lambda t: jnp.sqrt(jax.nn.sigmoid(-2.0 * at(t))),
        sigma=lambda t: jnp.sqrt(jax.nn.sigmoid(2.0 * at(t))),
        time=lambda ratio: jnp.interp(jnp.log(ratio), log_ratio, steps),
        t_min=0.0,
        t_max=float(len(betas) - 1),
    )


def flow(data_at_one: bool = False, eps: float = 1e-3) -> Schedule:
    """The linear path of flow matching, σ = 1 − α.

    With `data_at_one` α = t (Lipman et al. 2023, pi-zero); otherwise α = 1 − t (rectified flow).
    """
    if data_at_one:
        return Schedule(
            alpha=lambda t: jnp.asarray(t, float),
            sigma=lambda t: 1.0 - t,
            time=lambda ratio: 1.0 / (1.0 + ratio),
            t_min=1.0 - eps,
            t_max=eps,
        )
    return Schedule(
        alpha=lambda t: 1.0 - t,
        sigma=lambda t: jnp.asarray(t, float),
        time=lambda ratio: ratio / (1.0 + ratio),
        t_min=eps,
        t_max=1.0 - eps,
    )


PREDICTIONS = ("x0", "eps", "score", "velocity")


def convert(schedule: Schedule, value, source: str, target: str, x, t):
    """A prediction of one kind as one of another kind.

    With x = α a + σ ε: `x0` is E[a|x], `eps` E[ε|x], `score` ∇_x log p_t(x) = −eps/σ, and
    `velocity` E[dx/dt|x] = α̇ x0 + σ̇ eps.

    >>> x = jnp.array([3.0])  # of actions N(0, 1) at σ = 2 the score is −x/(1 + σ²)
    >>> print(f"{convert(ve(), -x / 5, 'score', 'x0', x, 2.0)[0]:.3f}")  # E[a|x] = x/(1 + σ²)
    0.600

    Args:
      schedule: gives α, σ and, for velocities, their derivatives in t.
      value: the prediction, `[..., A]`.
      source, target: one of `PREDICTIONS`.
      x: the noised action, `[..., A]`.
      t: time, broadcasts against `[...]`.

    Raises:
      ValueError: for an unknown kind.
    """
    for kind in (source, target):
        if kind not in PREDICTIONS:
            raise ValueError(f"unknown prediction {kind!r}; there are {', '.join(PREDICTIONS)}")
    if source == target:
        return value
    t = jnp.asarray(t, jnp.float32)
    alpha, sigma = schedule.alpha(t)[..., None], schedule.sigma(t)[..., None]
    if "velocity" in (source, target):
        one = jnp.ones_like(t)
        d_alpha = jax.jvp(schedule.alpha, (t,), (one,))[1][..., None]
        d_sigma = jax.jvp(schedule.sigma, (t,), (one,))[1][..., None]

    if source == "score":
        eps = -sigma * value
    elif source == "eps":
        eps = value
    elif source == "x0":
        eps = (x - alpha * value) / sigma
    else:  # α u − α̇ x = (α σ̇ − α̇ σ) ε
        eps = (alpha * value - d_alpha * x) / (alpha * d_sigma - d_alpha * sigma)

    if target == "eps":
        return eps
    if target == "score":
        return -eps / sigma
    x0 = value if source == "x0" else (x - sigma * eps) / alpha
    return x0 if target == "x0" else d_alpha * x0 + d_sigma * eps
