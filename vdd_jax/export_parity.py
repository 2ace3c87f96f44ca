"""How far an exported file is from the policy: what an export prints before it keeps a file."""

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdd_jax.core.mixture import ACTING
from vdd_jax.data import FURTHEST
from vdd_jax.export_function import OUTPUTS, Arrays, ExportError, function_of
from vdd_jax.policy import Policy

LIMITS = (1e-5, 1e-4)  # see `limit`
COMPARED = (*OUTPUTS, "weights", "covariances")  # what a file gives, and what that makes


class Found(NamedTuple):
    """What a comparison finds of one output: the largest differences, as in `differences`."""

    relative: float  # of the file from the policy
    absolute: float
    file: float  # relative, of the file from the policy in float64
    policy: float  # relative, of the policy in float32 from itself in float64


def limit(found: Found) -> float:
    """How much an output of a file may differ from the policy's: 1e-5, or five times as much as
    the policy itself differs from float64 where that is more; 1e-4 at most.

    A student with large weights makes much of the rounding within its products, and a file that
    adds in another order rounds otherwise: neither is nearer to what the student says.
    """
    least, most = LIMITS
    return float(np.clip(5 * found.policy, least, most))


def describe(found: dict[str, Found]) -> str:
    """A comparison, one line for each of COMPARED."""
    return "\n".join(
        f"  {name}: largest difference from the policy {v.relative:.1e} (absolute "
        f"{v.absolute:.1e}); from float64, the file's {v.file:.1e}, the policy's {v.policy:.1e}"
        for name, v in found.items())


def in_float64(policy: Policy) -> Callable[[Arrays], Arrays]:
    """The policy's function with everything computed in float64, outside of any trace."""
    parameters, scaler = jax.tree.map(
        lambda v: np.asarray(v, np.float64), (policy.params, policy.scaler))
    model = policy.apply.__self__.clone(dtype=jnp.float64)
    function = function_of(policy.replace(apply=model.apply, params=parameters, scaler=scaler))

    def call(given):
        wide = {k: v if v.dtype == bool else v.astype(np.float64) for k, v in given.items()}
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, jax.jit(function)(**wide))

    return call


def random_inputs(policy: Policy, batch: int, seed: int) -> Arrays:
    """Inputs as the policy may meet them: random walks with the steps of the demonstrations, some
    of them at an episode's start. Half a standard deviation from the mean: coordinates that go
    together in the demonstrations are independent here, and further out lies nothing."""
    rng = np.random.default_rng(seed)
    o, t = policy.observation_dim, policy.window
    mean, std, step = (np.asarray(getattr(policy.scaler, name))[:o] for name in (
        "observation_mean", "observation_std", "step_std"))
    start = mean + 0.5 * std * rng.standard_normal((batch, o))
    if not t:
        return {"observation": start.astype(np.float32)}
    moves = step * rng.standard_normal((batch, t, o))
    missing = rng.integers(0, t, (batch, 1)) * (rng.random((batch, 1)) < 0.5)
    valid = np.arange(t) >= missing
    walk = start[:, None] + np.cumsum(moves * (np.arange(t) > missing)[..., None], axis=1)
    given = {"observations": walk.astype(np.float32), "valid": valid}
    if policy.goal_length:
        goal = mean + 0.5 * std * rng.standard_normal((batch, policy.goal_length, o))
        given["goal"] = goal.astype(np.float32)
    if policy.images:
        given["images"] = rng.integers(0, 256, (batch, t, *policy.images)).astype(np.uint8)
    return given


def visited_inputs(policy: Policy, file: Path, batch: int, seed: int) -> Arrays | None:
    """Windows that the policy was given in the episodes of its run's report, drawn from `file`
    (`episodes.npz`); None where there are none, or none that tell all that it sees.

    Not those in which a number is further than `FURTHEST` standard deviations from the
    demonstrations' mean: an episode that is lost may end anywhere, at NaN, too.
    """
    if not policy.window or policy.goal_length or policy.images or not file.exists():
        return None
    try:
        with np.load(file) as stored:
            way = next((w for w in (policy.acting, *ACTING) if f"{w}.observations" in stored), None)
            if way is None:
                return None
            observations, made = stored[f"{way}.observations"], stored[f"{way}.mask"]
    except (ValueError, zipfile.BadZipFile):  # damaged; no reason not to export
        return None
    if observations.shape[-1] != policy.observation_dim:
        return None
    mean, std = (np.asarray(v) for v in (
        policy.scaler.observation_mean, policy.scaler.observation_std))
    near = (np.abs(policy.scaler.shown(observations) - mean) <= FURTHEST * std).all(-1)
    before = np.arange(1 - policy.window, 1)
    rows = np.argwhere(made)
    rows = rows[near[rows[:, :1], np.maximum(rows[:, 1:] + before, 0)].all(-1)]
    if not len(rows):
        return None
    episode, step = np.random.default_rng(seed).choice(rows, batch).T[..., None]
    index = step + before
    return {"observations": observations[episode, np.maximum(index, 0)].astype(np.float32),
            "valid": index >= 0}


def compare(policy: Policy, call: Callable[[Arrays], Arrays],
            inputs: Iterable[Arrays]) -> dict[str, Found]:
    """What is found of all that is COMPARED of `call`, over all of `inputs`."""
    function, exact = jax.jit(function_of(policy)), in_float64(policy)
    worst = dict.fromkeys(COMPARED, Found(0.0, 0.0, 0.0, 0.0))
    for given in inputs:
        ours, found, reference = function(**given), call(given), exact(given)
        between, of_file, of_policy = (differences(policy, *pair) for pair in (
            (ours, found), (reference, found), (reference, ours)))
        for name in COMPARED:
            new = (*between[name], of_file[name][0], of_policy[name][0])
            worst[name] = Found(*map(float, np.maximum(worst[name], new)))
    return worst


def differences(policy: Policy, expected: Arrays, found: Arrays) -> dict:
    """Of what is COMPARED: (relative, absolute) difference, NaN where it cannot be told.

    Relative is, of log weights and weights, to their size or 1; of means, in standard deviations
    of the demonstrated actions, to their size or 1; of a factor, to the standard deviation that its
    row makes; of covariances, to the two standard deviations, those of the demonstrated actions
    where they are larger.
    """
    mean, std = np.asarray(policy.scaler.action_mean), np.asarray(policy.scaler.action_std)
    for name in OUTPUTS:
        want, got = np.shape(expected[name]), np.shape(found[name])
        if want != got:
            raise ExportError(f"{name} of the file has shape {got}, not {want}; nothing was "
                              "written")
    want, got = _with_moments(expected), _with_moments(found)
    own = np.linalg.norm(want["scale_tril"], axis=-1)
    wide = np.maximum(own, std)
    sizes = {
        "log_weights": np.maximum(np.abs(want["log_weights"]), 1),
        "means": np.maximum(np.abs(want["means"] - mean), std),
        "scale_tril": own[..., None],
        "weights": 1.0,
        "covariances": wide[..., :, None] * wide[..., None, :],
    }
    gaps = {name: np.abs(got[name] - want[name]) for name in COMPARED}
    return {name: (np.max(gap / sizes[name]), np.max(gap)) for name, gap in gaps.items()}


def _with_moments(q: Arrays) -> Arrays:
    """The outputs with the weights and covariances that they make, these in float64: what
    rounding the making adds is not of the file."""
    log_weights, tril = (np.asarray(q[k], np.float64) for k in ("log_weights", "scale_tril"))
    return {**{k: np.asarray(q[k]) for k in OUTPUTS}, "weights": np.exp(log_weights),
            "covariances": tril @ np.swapaxes(tril, -1, -2)}
