"""Does the policy's own density tell, while it acts, that an episode will fail?

    python experiments/likelihood_monitor.py --workdir=runs/a --workdir=runs/b --workdir=runs/c \
        --out=experiments/results/likelihood_monitor

Finished runs of configs/avoiding.py. Students are driven through episodes of which most are
disturbed (a shifted start, pushes, a noisy sensor). At every step the mixture that the policy acts
by, one network call, gives the monitors below. At a few LANDMARKS, steps of the episode, each is
summarised over the steps before, and asked which of the episodes that go on for LEAD steps more
will fail: all have run equally long (a summary over whole episodes would look good for telling
short ones, which fail, from long ones), and what is told as the rod touches a cylinder is no
warning. Which monitor, which summary and which thresholds is chosen on the first run (on the even
episodes of a single one) and judged on the others (the odd ones). A teacher has no density; what it
could offer, the spread of several of its samples at a state, is judged beside it, with the network
calls that it costs.

Writes OUT.json and OUT.png (the plot extra): ROC curves for failure, AUC with bootstrap intervals.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from vdd_jax import policy as policy_lib
from vdd_jax.checkpoint import write_json
from vdd_jax.core import mixture as mixtures
from vdd_jax.policy import History
from vdd_jax.tasks.avoiding import geometry, simulator

LANDMARKS = (10, 30, 50)  # control steps of 35 ms; the rows are passed at about 20, 40 and 60
LEAD = 10  # steps, 0.35 s
LAST = 10  # steps of the summary 'last'
FALSE_ALARMS = 0.05  # share of successful episodes with an alarm, by which thresholds are set
KINDS = ("undisturbed", "shifted start", "push", "noisy sensor")
MONITORS = {  # all rise where the policy is less sure
    "gating entropy": "−Σ q(z|s) log q(z|s)",
    "entropy, upper bound": "of q(·|s), by pairwise KL",
    "entropy, lower bound": "of q(·|s), by Bhattacharyya distances",
    "−log q(action)": "of the action taken",
    "−log q(previous action)": "of the action before, by the density of now",
    "surprise": "by how much that is more than it was by the density of then",
}
SUMMARIES = ("mean", "max", "last", "spread")  # the last is the standard deviation
TEACHER = "teacher's spread"
TEACHER_SAMPLES = 8
TEACHER_EVERY = 4  # steps from one state at which the teacher is asked to the next


class Disturbance(NamedTuple):
    """What happens to N episodes."""

    kind: jax.Array  # `[N]`, index into KINDS
    shift: jax.Array  # `[N, 2]` metres, of the start
    push: jax.Array  # `[N, 2]` metres a step, for 10 steps
    push_at: jax.Array  # `[N]`, first of them
    noise: jax.Array  # `[N]` metres, standard deviation of the measured position
    strength: jax.Array  # `[N]`, of it, as a share of the greatest


class Driven(NamedTuple):
    """N finished episodes of at most L steps."""

    kind: np.ndarray  # `[N]`
    strength: np.ndarray  # `[N]`
    success: np.ndarray  # `[N]` bool
    collided: np.ndarray  # `[N]` bool
    steps: np.ndarray  # `[N]`
    monitors: dict[str, np.ndarray]  # name → `[N, L]`, NaN where there is none
    histories: np.ndarray  # `[N, L, T, 4]`, what the policy saw
    valid: np.ndarray  # `[N, L, T]`


def disturbances(key: jax.Array, num: int) -> Disturbance:
    """A quarter of the episodes of each kind, in turn; strengths uniform up to the greatest."""
    keys = jax.random.split(key, 4)
    kind = jnp.arange(num) % len(KINDS)
    angle = jax.random.uniform(keys[0], (num,), maxval=2 * jnp.pi)
    direction = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    strength = jax.random.uniform(keys[1], (num,))

    def only(index, values):
        return jnp.where((kind == index).reshape(-1, *[1] * (values.ndim - 1)), values, 0.0)

    return Disturbance(
        kind,
        only(1, direction * strength[:, None] * jnp.array([0.2, 0.08])),
        only(2, direction * strength[:, None] * 0.012),
        jax.random.randint(keys[2], (num,), 5, 60),
        only(3, 0.012 * strength),
        jnp.where(kind == 0, 0.0, strength),
    )


def monitors_of(q: mixtures.Mixture, action, previous, log_q_then) -> dict[str, jax.Array]:
    """All of MONITORS, `[N]` each, of a step; the `previous` action `[N, 2]` and its log q `[N]`
    are NaN before the first."""
    lower, upper = mixtures.entropy_bounds(q)
    log_q_now = mixtures.log_prob(q, previous)
    values = (mixtures.gating_entropy(q), upper, lower, -mixtures.log_prob(q, action), -log_q_now,
              log_q_then - log_q_now)
    return dict(zip(MONITORS, values, strict=True))


@partial(jax.jit, static_argnames=("num", "limit"))
def _drive(policy, key, num: int, limit: int):
    disturbance_key, start_key, act_key = jax.random.split(key, 3)
    d = disturbances(disturbance_key, num)
    noise = simulator.START_NOISE * jax.random.normal(start_key, (num, 2))
    states = jax.vmap(simulator.begin)(geometry.START + d.shift + noise)
    window = policy.window

    def measured(states, key):
        error = d.noise[:, None] * jax.random.normal(key, (num, 2))
        return jax.vmap(simulator.observe)(states).at[:, 2:].add(error)

    first = measured(states, jax.random.fold_in(act_key, limit))
    carry = (states, jnp.repeat(first[:, None], window, 1),
             jnp.broadcast_to(jnp.arange(window) == window - 1, (num, window)),
             jnp.full((num, 2), jnp.nan), jnp.full(num, jnp.nan))

    def step(carry, t):
        states, history, valid, *before = carry
        running = ~jax.vmap(simulator.finished)(states)
        draw_key, noise_key = jax.random.split(jax.random.fold_in(act_key, t))
        q = policy.mixture(History(history, valid))
        action = mixtures.act(q, draw_key, policy.acting, policy.min_weight)
        found = monitors_of(q, action, *before)
        record = (found, history, valid, running)
        pushed = jnp.where(((t >= d.push_at) & (t < d.push_at + 10))[:, None], d.push, 0.0)
        track = states.track._replace(
            tcp=states.track.tcp + jnp.where(running[:, None], pushed, 0.0))
        states = jax.vmap(simulator.step)(states._replace(track=track), action)
        seen = measured(states, noise_key)
        history = jnp.concatenate([history[:, 1:], seen[:, None]], 1)
        valid = jnp.concatenate([valid[:, 1:], jnp.ones((num, 1), bool)], 1)
        return (states, history, valid, action, -found["−log q(action)"]), record

    (states, *_), (found, histories, valid, running) = jax.lax.scan(
        step, carry, jnp.arange(limit))
    in_turn = jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1), (found, histories, valid, running))
    return d, states, in_turn


def drive(policy, key: jax.Array, num: int, limit: int = simulator.EPISODE_LIMIT) -> Driven:
    """Episodes of a student under disturbances."""
    d, states, (found, histories, valid, running) = _drive(policy, key, num, limit)
    running = np.asarray(running)
    return Driven(
        *map(np.asarray, (d.kind, d.strength, states.success, states.collided)),
        running.sum(1), {k: np.where(running, v, np.nan) for k, v in found.items()},
        np.asarray(histories), np.asarray(valid))


def teachers_spread(teacher, driven: Driven, key: jax.Array) -> np.ndarray:
    """½ log det of the covariance of TEACHER_SAMPLES samples at the states of every
    TEACHER_EVERY-th step, `[N, L]`; NaN elsewhere."""
    length = driven.histories.shape[1]
    asked = np.zeros(driven.valid.shape[:2], bool)
    asked[:, ::TEACHER_EVERY] = np.arange(0, length, TEACHER_EVERY) < driven.steps[:, None]
    result, rows = np.full(asked.shape, np.nan), np.argwhere(asked)
    chunk = 2_048  # one compiled program
    for start in range(0, len(rows), chunk):
        i, j = np.resize(rows[start:start + chunk], (chunk, 2)).T
        drawn = np.asarray(teacher.sample(
            History(driven.histories[i, j], driven.valid[i, j]),
            jax.random.fold_in(key, start), (TEACHER_SAMPLES,)), np.float64)
        apart = drawn - drawn.mean(0)
        covariance = np.einsum("vni,vnj->nij", apart, apart) / (TEACHER_SAMPLES - 1)
        n = len(rows[start:start + chunk])
        result[i[:n], j[:n]] = 0.5 * np.linalg.slogdet(covariance)[1][:n]
    return result


def summarise(values: np.ndarray, landmark: int, how: str) -> np.ndarray:
    """One number an episode, `[N]`, of a monitor `[N, L]` in the steps before a landmark."""
    seen = values[:, max(landmark - LAST, 0) if how == "last" else 0:landmark]
    of = {"max": np.nanmax, "spread": np.nanstd}.get(how, np.nanmean)
    return of(seen, axis=1)


def at_risk(driven: Driven, landmark: int) -> np.ndarray:
    """Which episodes are asked about at a landmark, `[N]` bool."""
    return driven.steps >= landmark + LEAD


# ---- judging

def wins(failed: np.ndarray, succeeded: np.ndarray) -> np.ndarray:
    """Whether a failure's score is above a success's, ½ where they are equal: `[F, S]`. Its mean
    is the area under the ROC curve (Mann & Whitney 1947)."""
    return (failed[:, None] > succeeded) + 0.5 * (failed[:, None] == succeeded)


def auc(score: np.ndarray, failure: np.ndarray, resamples: int = 1_000) -> dict:
    """Area under the ROC curve, with the 95 % interval of a bootstrap over episodes; None where
    all episodes have one outcome."""
    if failure.all() or not failure.any():
        return {"auc": None, "low": None, "high": None}
    table = wins(score[failure], score[~failure])
    rng, (f, s) = np.random.default_rng(0), table.shape
    drawn = [np.full(n, 1 / n) for n in (f, s)]
    many = [rng.multinomial(n, p, resamples) / n for n, p in zip((f, s), drawn, strict=True)]
    areas = np.einsum("rf,fs,rs->r", many[0], table, many[1], optimize=True)
    low, high = np.percentile(areas, [2.5, 97.5])
    return {"auc": round(float(table.mean()), 4), "low": round(float(low), 4),
            "high": round(float(high), 4)}


def roc(score: np.ndarray, failure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true alarm rates at every threshold, from none to all."""
    thresholds = np.r_[np.inf, np.unique(score)[::-1]]
    alarm = score >= thresholds[:, None]
    return alarm[:, ~failure].mean(1), alarm[:, failure].mean(1)


def scores_of(driven: Driven, landmark: int) -> dict[str, np.ndarray]:
    """Every summary of every monitor, by 'monitor, summary', of the episodes at risk."""
    risk = at_risk(driven, landmark)
    return {f"{name}, {how}": summarise(values[risk], landmark, how)
            for name, values in driven.monitors.items() for how in SUMMARIES}


def failures(driven: Driven, landmark: int) -> np.ndarray:
    """Which of the episodes at risk fail."""
    return ~driven.success[at_risk(driven, landmark)]


def report_of(driven: Driven, chosen: str, thresholds: dict[int, float]) -> dict:
    """What the record says of one run."""
    failure = ~driven.success
    found = {
        "episodes": len(failure), "failures": int(failure.sum()),
        "collisions": int(driven.collided.sum()),
        "by_kind": {kind: {"episodes": int((driven.kind == i).sum()),
                           "failures": int(failure[driven.kind == i].sum()),
                           "auc_of_its_strength": auc(driven.strength[driven.kind == i],
                                                      failure[driven.kind == i])}
                    for i, kind in enumerate(KINDS)},
        "whole_episodes": whole_episodes(driven), "landmarks": {}}
    for landmark in LANDMARKS:
        fails, kind = failures(driven, landmark), driven.kind[at_risk(driven, landmark)]
        scores = scores_of(driven, landmark)
        alarm = scores[chosen] >= thresholds[landmark]
        found["landmarks"][str(landmark)] = {
            "at_risk": len(fails), "failures": int(fails.sum()),
            "auc": {name: auc(values, fails) for name, values in scores.items()},
            "auc_of_chosen_by_kind": {
                name: auc(scores[chosen][kind == i], fails[kind == i])
                for i, name in enumerate(KINDS)},
            "mean_of_chosen_by_kind": {
                name: round(float(scores[chosen][kind == i].mean()), 3) if any(kind == i) else None
                for i, name in enumerate(KINDS)},
            "false_alarms": _share(alarm, ~fails), "failures_foretold": _share(alarm, fails)}
    return found


def whole_episodes(driven: Driven) -> dict:
    """What looks good and is not: areas of means over whole episodes but their last LEAD steps,
    beside that of having been short."""
    before = np.arange(driven.valid.shape[1]) < np.maximum(driven.steps - LEAD, 2)[:, None]
    found = {name: np.nanmean(np.where(before, values, np.nan), axis=1)
             for name, values in driven.monitors.items()}
    return {name: auc(values, ~driven.success)
            for name, values in {**found, "few steps": -driven.steps}.items()}


def _share(alarm, among):
    return round(float(alarm[among].mean()), 4) if among.any() else None


def choose(driven: Driven) -> tuple[str, dict[int, float]]:
    """The summary of a student's monitor with the greatest area, on average over the landmarks,
    and its thresholds with FALSE_ALARMS at each of them."""
    scores = {landmark: scores_of(driven, landmark) for landmark in LANDMARKS}
    names = [f"{name}, {how}" for name in MONITORS for how in SUMMARIES]
    fails = {landmark: failures(driven, landmark) for landmark in LANDMARKS}

    def mean_area(name):
        return sum(auc(scores[t][name], fails[t], 1)["auc"] or 0.0 for t in LANDMARKS)

    best = max(names, key=mean_area)
    calm = {t: scores[t][best][~fails[t]] for t in LANDMARKS}
    return best, {t: float(np.quantile(v, 1 - FALSE_ALARMS)) if len(v) else float("inf")
                  for t, v in calm.items()}


def part(driven: Driven, which) -> Driven:
    """Some of the episodes."""
    return jax.tree.map(lambda v: v[which], driven)


def draw(runs: dict[str, Driven], chosen: str, file: Path) -> None:
    """ROC curves of the chosen monitor and of the teacher's spread at every landmark, one panel a
    run."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(runs), figsize=(4.2 * len(runs), 4), squeeze=False)
    for axis, (name, driven) in zip(axes[0], runs.items(), strict=True):
        for i, landmark in enumerate(LANDMARKS):
            scores, fails = scores_of(driven, landmark), failures(driven, landmark)
            how = chosen.rpartition(", ")[2]
            teachers = [n for n in scores if n.startswith(TEACHER) and n.endswith(how)]
            for style, score in zip(("-", "--"), (chosen, *teachers), strict=False):
                area = auc(scores[score], fails)
                if area["auc"] is not None:
                    who = "student" if score == chosen else "teacher"
                    axis.plot(*roc(scores[score], fails), style, color=f"C{i}", label=(
                        f"{who}, step {landmark}: " + "{auc:.2f} [{low:.2f}, {high:.2f}]".format(
                            **area)))
        axis.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
        failed = int((~driven.success).sum())
        axis.set(title=f"{name}: {failed} of {len(driven.success)} failed",
                 xlabel="false alarms (of successful episodes)",
                 ylabel="failures foretold" if axis is axes[0, 0] else "", aspect="equal")
        if len(axis.lines) > 1:
            axis.legend(loc="lower right", fontsize=6.5, frameon=False, title="AUC",
                        title_fontsize=7)
    figure.suptitle(f"student: {chosen}; teacher: spread of {TEACHER_SAMPLES} samples",
                    fontsize=9)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def run(workdirs: list[Path], out: Path, num: int, with_teacher: bool = True,
        limit: int = simulator.EPISODE_LIMIT) -> dict:
    """Drives, chooses on the first run, judges on the others; writes and returns the record."""
    runs = {}
    for i, workdir in enumerate(workdirs):
        key = jax.random.fold_in(jax.random.key(0), i)
        driven = drive(policy_lib.load(workdir), key, num, limit)
        if with_teacher:
            teacher = policy_lib.load_teacher(workdir)
            calls = teacher.network_calls * TEACHER_SAMPLES
            spread = teachers_spread(teacher, driven, jax.random.fold_in(key, 1))
            driven.monitors[f"{TEACHER} ({calls} calls)"] = spread
        runs[workdir.name] = driven
    if len(runs) == 1:
        (name, driven), = runs.items()
        runs = {f"{name}, even": part(driven, np.s_[::2]), f"{name}, odd": part(driven,
                                                                               np.s_[1::2])}
    chosen, thresholds = choose(next(iter(runs.values())))
    record = {"chosen": chosen, "thresholds": thresholds, "chosen_on": next(iter(runs)),
              "lead_steps": LEAD, "false_alarms_at_choice": FALSE_ALARMS,
              "runs": {name: report_of(driven, chosen, thresholds)
                       for name, driven in runs.items()}}
    write_json(out.with_suffix(".json"), record)
    draw(runs, chosen, out.with_suffix(".png"))
    return record


def table(record: dict) -> str:
    """Areas of all monitors, one line each, a column a run and landmark."""
    lines = [f"chosen on {record['chosen_on']}: {record['chosen']}"]
    columns = [(name, landmark, found) for name, run in record["runs"].items()
               for landmark, found in run["landmarks"].items()]
    lines.append("AUC | " + " | ".join(f"{name}, step {t}" for name, t, _ in columns))
    for name in columns[0][2]["auc"]:
        cells = ("–" if (a := found["auc"][name])["auc"] is None else
                 "{auc:.2f} [{low:.2f}, {high:.2f}]".format(**a) for *_, found in columns)
        lines.append(f"{name} | " + " | ".join(cells))
    for name, run in record["runs"].items():
        areas = ", ".join(f"{k} {v['auc']}" for k, v in run["whole_episodes"].items())
        lines.append(f"{name}, whole episodes: {areas}")
    for key in ("failures", "at_risk", "false_alarms", "failures_foretold"):
        lines.append(f"{key} | " + " | ".join(str(found[key]) for *_, found in columns))
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", action="append", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="without ending")
    parser.add_argument("--episodes", type=int, default=960, help="of each run")
    arguments = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # orbax tells every file it touches
    print(table(run(arguments.workdir, arguments.out, arguments.episodes)))


if __name__ == "__main__":
    main()
