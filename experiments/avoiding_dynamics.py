"""Identifies the tracking dynamics of the Avoiding task from the recorded demonstrations.

    python experiments/avoiding_dynamics.py --demonstrations=DIR [--output=coefficients.py]

DIR holds the 96 official D3IL pickles. The coefficients minimise the error of *free-running*
simulations, which are given the desired positions only (fitting one step ahead drifts). First the
honest number: fitted on every second demonstration, judged on the others; and fitted on one half
of the workspace, judged on the other. Then the fit to all, which is what `--output` writes and
what `vdd_jax/tasks/avoiding/coefficients.py` holds. About 6 minutes on one core.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from vdd_jax.tasks.avoiding import coefficients as fitted
from vdd_jax.tasks.avoiding import dynamics, geometry, reader

H = dynamics.NUM_HIDDEN
R, M, F = 2 + H, 8 + H, dynamics.NUM_FEATURES
# A first fit by hand: coefficients of desired' − tcp, v, Δdesired', Δdesired per axis.
FIRST_FIT = ((0.131, 0.609, 0.150, 0.167), (0.047, 0.860, 0.029, 0.084))
RIDGE = 1.0  # cm of error per unit of coefficient (position normalised); chosen on the split
AFTER_FINISH = 0.1  # weight of the frames past the finish line, where an episode is over
SETTLE = 0.2  # weight of the distance from the command at rest
DECAY = 1.0  # weight of the log of the largest eigenvalue at rest above this:
MAX_EIGENVALUE = 0.985
HEADER = '''"""Coefficients of `dynamics.py`, by `experiments/avoiding_dynamics.py`; do not edit.

{summary}
"""

'''


def load(directory: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Desired and tcp `[N, L, 2]`, weight and mask `[N, L]`; short episodes repeat their end."""
    episodes = [t.observations.astype(np.float64) for t in reader.read(directory)]
    longest = max(map(len, episodes))
    padded = np.stack([np.pad(e, ((0, longest - len(e)), (0, 0)), mode="edge") for e in episodes])
    mask = np.stack([np.arange(longest) < len(e) for e in episodes])
    finished = np.cumsum(padded[..., 3] > geometry.FINISH_Y + 0.005, 1) > 1
    return padded[..., :2], padded[..., 2:], np.where(finished, AFTER_FINISH, 1.0) * mask, mask


def at_rest(coefficients, desired) -> tuple[jax.Array, jax.Array]:
    """The step of (tcp − desired, s) while the command stands still: matrix and constant part."""
    phi = dynamics.features(jnp.asarray(desired))
    w = jnp.einsum("nf,frm->nrm", phi, coefficients.linear)
    inner = jnp.concatenate([-w[..., :2], w[..., 2 : 4 + H]], -1)
    constant = phi @ coefficients.offset
    matrix = jnp.concatenate([inner[:, :2] + jnp.eye(2, 4 + H), inner], 1)
    return matrix, jnp.concatenate([constant[:, :2], constant], 1)


def corridor(nx: int = 12, ny: int = 10) -> np.ndarray:
    """Desired positions all over the corridor, `[N, 2]`."""
    grid = np.meshgrid(np.linspace(*geometry.CORRIDOR_X, nx), np.linspace(-0.3, 0.36, ny))
    return np.stack(grid, -1).reshape(-1, 2)


def rest_residuals(coefficients):
    """What the demonstrations leave open, since they never stand still far from the start.

    A position controller settles, and within millimetres of where it is told to. Near the end of
    the arm's reach it does not get there (one demonstration ends 7 cm away), but settles too.
    """
    points = corridor()
    matrix, constant = at_rest(coefficients, points)
    power = matrix
    for _ in range(5):
        power = power @ power
    size = jnp.log(jnp.sqrt(jnp.sum(jnp.square(power), (1, 2)))) / 32  # ≈ log of the eigenvalue
    end = jnp.linalg.solve(jnp.eye(4 + H) - matrix, constant[..., None])[:, :2, 0]
    tolerance = np.where(np.linalg.norm(points, axis=1) < 0.76, 0.0, 0.05)[:, None]
    away = jnp.maximum(jnp.abs(end) - tolerance, 0.0)
    # The bound keeps the solve's pole, an eigenvalue that passes 1 on the way, from dominating.
    return jnp.concatenate(
        [
            DECAY * jnp.maximum(size - np.log(MAX_EIGENVALUE), 0.0),
            SETTLE * 0.1 * jnp.tanh(away / 0.1).ravel(),
        ]
    )


def pack(c: dynamics.Coefficients) -> np.ndarray:
    return np.concatenate([c.linear.ravel(), c.offset.ravel() * 100, c.initial * 100])


def unpack(theta) -> dynamics.Coefficients:
    linear, offset, initial = jnp.split(theta, [F * R * M, F * R * M + F * R])
    return dynamics.Coefficients(linear.reshape(F, R, M), offset.reshape(F, R) / 100, initial / 100)


def first_guess() -> dynamics.Coefficients:
    linear = np.zeros((F, R, M))
    for axis, (error, velocity, action, last) in enumerate(FIRST_FIT):
        linear[0, axis, [axis, 2 + axis, 4 + H + axis, 6 + H + axis]] = (
            error,
            velocity,
            action,
            last,
        )
    rng = np.random.default_rng(0)
    for h in range(H):  # hidden states start as low-passed errors; random inputs break symmetry
        linear[0, 2 + h, [4 + h, h]] = 0.85, 0.1
        linear[0, 2 + h, 4 + H :] = rng.normal(size=4) * 0.05
    return dynamics.Coefficients(linear, np.zeros((F, R)), np.zeros(R))


def fit(desired, tcp, weight, evaluations: int) -> dynamics.Coefficients:
    def residuals(theta):
        coefficients = unpack(theta)
        error = (dynamics.follow(desired, coefficients) - tcp) * weight[..., None]
        parts = [error.ravel(), RIDGE / 100 * theta, rest_residuals(coefficients)]
        return 100 * jnp.concatenate(parts)

    value, jacobian = jax.jit(residuals), jax.jit(jax.jacfwd(residuals))
    found = least_squares(
        lambda x: np.asarray(value(x)),
        pack(first_guess()),
        jac=lambda x: np.asarray(jacobian(x)),
        max_nfev=evaluations,
    )
    return jax.tree.map(np.asarray, unpack(found.x))


def judge(coefficients, desired, tcp, weight, mask) -> str:
    simulated = dynamics.follow(desired, coefficients)
    before = weight == 1.0
    squared = np.sum(np.square(np.asarray(simulated) - tcp), -1)
    success, _, _ = outcome(simulated, mask)
    return (
        f"free-running RMS {100 * np.sqrt(squared[before].mean()):.3f} cm up to the finish line "
        f"({100 * np.sqrt(squared[mask].mean()):.3f} whole, largest "
        f"{100 * np.sqrt(squared[before].max()):.2f}), replay {success.sum()}/{len(success)}"
    )


def outcome(tcp, mask) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Success, mode and smallest clearance in metres (each `[N]`) of ways `[N, L, 2]`.

    Only frames of the mask `[N, L]` and up to the finish line count.
    """
    arrived = np.asarray(geometry.reached(tcp)) & mask
    running = (np.cumsum(arrived, 1) - arrived == 0) & mask
    free = np.asarray(geometry.clearance(tcp[:, :-1], tcp[:, 1:]))
    free = np.where(running[:, 1:], free, np.inf).min(1)
    gone = np.asarray(geometry.outside(tcp)) & running
    success = arrived.any(1) & (free > 0) & ~gone.any(1)
    return success, np.asarray(geometry.mode_of_path(jnp.asarray(tcp))), free


def stability(coefficients) -> str:
    """Largest eigenvalue, and the distance at rest, with a still command all over the corridor."""
    points = corridor(30, 30)
    matrix, constant = map(np.asarray, at_rest(coefficients, points))
    radius = np.abs(np.linalg.eigvals(matrix)).max(-1)
    end = np.linalg.solve(np.eye(4 + H) - matrix, constant[..., None])[:, :2, 0]
    distance = 100 * np.linalg.norm(end, axis=1)[np.linalg.norm(points, axis=1) < 0.76]
    return (
        f"largest eigenvalue at rest: median {np.median(radius):.3f}, maximum {radius.max():.3f}; "
        f"distance at rest within reach: median {np.median(distance):.2f} cm, "
        f"maximum {distance.max():.2f}"
    )


def write(path: str, c: dynamics.Coefficients, summary: str) -> None:
    def rows(a) -> str:
        if np.ndim(a) == 1:
            return "[" + ", ".join(f"{x:.4g}" for x in a) + "]"
        return "[\n" + "".join(rows(x) + ",\n" for x in a) + "]"

    with open(path, "w") as file:
        file.write(HEADER.format(summary=summary))
        file.write("# fmt: off\n")
        for name in ("linear", "offset", "initial"):
            file.write(f"{name.upper()} = {rows(getattr(c, name))}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demonstrations", required=True, help="directory of official pickles")
    parser.add_argument("--output", help="where to write the coefficients (a Python file)")
    parser.add_argument("--evaluations", type=int, default=120, help="budget of each fit")
    parser.add_argument("--no-validation", action="store_true", help="only the fit to all")
    flags = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    data = load(flags.demonstrations)
    index = np.arange(len(data[0]))
    now = dynamics.Coefficients(*map(np.asarray, (fitted.LINEAR, fitted.OFFSET, fitted.INITIAL)))
    if now.linear.shape == (F, R, M):
        print("committed coefficients:", judge(now, *data), "|", stability(now))
    big_x = np.array([t[np.argmax(t[:, 1] > 0.08), 0] > 0.5 for t in data[1]])
    splits = {"even → odd": index % 2 == 0, "odd → even": index % 2 == 1, "x > 0.5 → rest": big_x}
    for name, chosen in {} if flags.no_validation else splits.items():
        begin = time.time()
        found = fit(*(a[chosen] for a in data[:3]), flags.evaluations)
        print(f"{name} ({time.time() - begin:.0f} s)")
        print("  fitted on:", judge(found, *(a[chosen] for a in data)))
        print("  held out: ", judge(found, *(a[~chosen] for a in data)), flush=True)
    found = fit(*data[:3], flags.evaluations)
    summary = f"{len(index)} demonstrations: {judge(found, *data)}."
    print(f"all: {summary}\n{stability(found)}")
    for name in ("linear", "offset", "initial"):
        print(name, np.array2string(getattr(found, name), precision=4, suppress_small=True))
    if flags.output:
        write(flags.output, found, summary.replace(" (", "\n(", 1))
        print("wrote", flags.output)


if __name__ == "__main__":
    main()
