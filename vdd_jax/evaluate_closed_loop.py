"""Learned teachers and their students in the task's simulator, in the same conditions.

Three actors drive `config.evaluate.num_episodes` episodes with the same starts: the teacher, the
teacher with one network call, and the student (in several ways of acting). Beside that, without the
simulator: likelihood of held-out actions, distance of the action samples from the teacher's
against the distance of two sets of the teacher's own, and the latency of one action.
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdd_jax import closed_loop, policy, problem, teachers
from vdd_jax.core import distances, mixture, samplers
from vdd_jax.data import first
from vdd_jax.metrics import table
from vdd_jax.tasks import TASKS

STATES = 256  # held-out states behind the distances
SAMPLES = 256  # actions at each
TIMED_CALLS = 300
MAIN = "sampled_mean"  # the way of acting that a report puts first (the paper's)
EVERY = "sampled_mean_of_every_expert"  # without config.policy.min_weight


def evaluate(config: ConfigDict, workdir: Path) -> tuple[dict, dict, dict]:
    """The report's `teacher`, `one_step_teacher` and `student`, and the episodes for figures.

    The starts of the episodes come from `config.seed`, by a key of their own: no other stage
    sees them.
    """
    task = problem.build(config, workdir)
    student = policy.load(workdir)
    simulator = TASKS[config.task.name]
    settings = task.teacher_config
    how = settings.sampler
    episode_key, sample_key = jax.random.split(
        jax.random.fold_in(jax.random.key(config.seed), 2))
    goals = goals_of(task)
    common = dict(config=config, teacher=task.teacher, settings=settings, scaler=task.scaler,
                  goals=goals)
    actors = {
        "teacher": closed_loop.of_teacher(**common),
        "one_step_teacher": closed_loop.of_teacher(**common, num_steps=1),
    }
    ways = {way: (way, student.min_weight) for way in mixture.ACTING}
    if student.min_weight:
        ways[EVERY] = (MAIN, 0.0)
    for name, (way, min_weight) in ways.items():
        actors[name] = closed_loop.of_student(
            config, student.apply, student.params, student.scaler, way, goals, min_weight)
    window = (config.task.window, task.spec.observation_dim)
    found, episodes = {}, {}
    for name, actor in actors.items():
        print(f"[evaluate] {name}: {config.evaluate.num_episodes} episodes", flush=True)
        ran, seconds = closed_loop.run(config, actor, episode_key, config.evaluate.num_episodes)
        episodes[name] = ran
        found[name] = {**simulator.score(ran), "seconds_of_episodes": round(seconds, 3)}
        if name in ("teacher", "one_step_teacher", MAIN):
            found[name]["latency_ms"] = latency(actor, window)
    for name in ("teacher", "one_step_teacher"):
        steps = how.num_steps if name == "teacher" else 1
        found[name]["network_calls"] = samplers.network_calls(how.kind, steps)
    about = {
        "kind": "learned", "description": describe(settings), "sampler": how.kind,
        "demonstrations": task.about, "simulator": simulator.SIMULATOR,
    }
    students = {way: found.pop(way) for way in ways}
    result = {
        "acting": MAIN, "min_weight": student.min_weight, **students[MAIN], "network_calls": 1,
        "other_ways_of_acting": {w: students[w] for w in ways if w != MAIN},
        "num_experts": config.student.num_experts,
        **against_samples(config, task, student, sample_key),
    }
    return {"teacher": {**about, **found["teacher"]}, "one_step_teacher":
            found["one_step_teacher"], "student": result}, episodes


def goals_of(task):
    """Raw goals for episodes: those of the training episodes' windows; None without goals."""
    goal = task.data.observation.goal
    if not goal.shape[-2]:
        return None
    chosen = np.linspace(0, len(goal) - 1, 64).astype(int)
    return task.scaler.unscale_observation(goal[chosen])


def describe(settings: ConfigDict) -> str:
    """A learned teacher in a few words; `settings` is its `config.teacher`."""
    return (f"{settings.schedule}, {settings.prediction} prediction, {settings.backbone} "
            f"{settings.width}×{settings.depth}")


def against_samples(config: ConfigDict, task, student, key: jax.Array) -> dict:
    """The student's mixture against samples of the teacher and held-out demonstrations.

    Returns:
      `sliced_wasserstein` between samples of student and teacher, mean over held-out states, in
      scaled actions; `sliced_wasserstein_floor`, of two sets of the teacher's; `..._one_step`, of
      the one-step teacher; `mean_slope`, of the student's mean action on the teacher's, both
      scaled: 1 when they agree, below when actions shrink; `std_ratio`, of the student's and the
      teacher's standard deviation, root mean square over states; `nll_held_out`, −log q in nats of
      scaled held-out actions; `nll_teacher_samples`, of the teacher's;
      `gating_entropy` in nats; `experts_used`, of responsibility above 1 % on average.
    """
    data = task.held_out
    stride = max(len(data.action) // STATES, 1)
    batch = first(jax.tree.map(lambda v: v[::stride], data), STATES)
    keys = jax.random.split(key, 6)
    shape = (SAMPLES, *batch.action.shape[:1])

    def of_teacher(key, num_steps=0):
        return jax.jit(lambda key: teachers.sample(
            task.teacher, task.teacher_config, batch.observation, key, shape,
            batch.action.shape[-1], num_steps))(key)

    q = jax.jit(student.apply)({"params": student.params}, batch.observation)
    teacher = of_teacher(keys[0])
    distance = jax.jit(distances.sliced_wasserstein)
    everything = jax.jit(student.apply)({"params": student.params}, data.observation)
    used = jnp.mean(jnp.exp(everything.log_weights), axis=0)
    mean, spread = moments(mixture.sample(q, keys[5], (SAMPLES,)))
    teachers_mean, teachers_spread = moments(teacher)
    return {
        "mean_slope": float(jnp.sum(mean * teachers_mean) / jnp.sum(teachers_mean**2)),
        "std_ratio": float(jnp.sqrt(spread / teachers_spread)),
        "sliced_wasserstein": float(jnp.mean(
            distance(teacher, mixture.sample(q, keys[1], (SAMPLES,)), keys[4]))),
        "sliced_wasserstein_floor": float(jnp.mean(
            distance(teacher, of_teacher(keys[2]), keys[4]))),
        "sliced_wasserstein_one_step": float(jnp.mean(
            distance(teacher, of_teacher(keys[3], 1), keys[4]))),
        "nll_held_out": float(-jnp.mean(mixture.log_prob(everything, data.action))),
        "nll_teacher_samples": float(-jnp.mean(mixture.log_prob(q, teacher))),
        "gating_entropy": float(jnp.mean(mixture.gating_entropy(everything))),
        "experts_used": int(jnp.sum(used > 0.01)),
    }


def moments(samples: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Means `[B, A]` and the mean variance, a scalar, of actions `[N, B, A]`."""
    return jnp.mean(samples, axis=0), jnp.mean(jnp.var(samples, axis=0))


def latency(actor, window: tuple[int, int]) -> dict:
    """Milliseconds of one action of a batch of 1, after warm-up: median and 99th percentile."""
    program = jax.jit(actor)
    history, valid = jnp.zeros((1, *window)), jnp.ones((1, window[0]), bool)
    keys = list(jax.random.split(jax.random.key(0), TIMED_CALLS + 10))
    times = []
    for key in keys:
        start = time.perf_counter()
        jax.block_until_ready(program(history, valid, key))
        times.append(1e3 * (time.perf_counter() - start))
    p50, p99 = np.percentile(times[10:], [50, 99])
    return {"p50": round(float(p50), 4), "p99": round(float(p99), 4)}


def summary(report: dict) -> str:
    """The report as the table that ends a run."""
    columns = [("teacher", report["teacher"]), ("one-step teacher", report["one_step_teacher"]),
               ("student", report["student"])]
    s = report["student"]
    other = s["other_ways_of_acting"]

    def row(name, of):
        return (name, *(of(values) for _, values in columns))

    rows = [
        row("success", lambda v: f"{v['success']:.3f} [{v['success_low']:.3f}, "
                                 f"{v['success_high']:.3f}]"),
        row("entropy", lambda v: f"{v['entropy']:.3f}"),
        row("modes found", lambda v: f"{v['modes_found']} of {len(v['mode_histogram'])}"),
        row("collisions", lambda v: f"{v['collision']:.3f}"),
        row("time-outs", lambda v: f"{v['time_out']:.3f}"),
        row("left the corridor", lambda v: f"{v['left_corridor']:.3f}"),
        row("network calls per action", lambda v: str(v["network_calls"])),
        row("latency p50 / p99 (ms)", lambda v: f"{v['latency_ms']['p50']:.2f} / "
                                                f"{v['latency_ms']['p99']:.2f}"),
        ("sliced Wasserstein to teacher", f"{s['sliced_wasserstein_floor']:.4f} (floor)",
         f"{s['sliced_wasserstein_one_step']:.4f}", f"{s['sliced_wasserstein']:.4f}"),
        ("NLL of held-out actions", "–", "–", f"{s['nll_held_out']:.3f} nats"),
        *((f"success, entropy: {name}", "", "", f"{v['success']:.3f}, {v['entropy']:.3f}")
          for name, v in ((w.replace("_", " "), v) for w, v in other.items())),
    ]
    head = (f"{report['task']}, seed {report['seed']}", *(name for name, _ in columns))
    about = report["teacher"]
    notes = [f"{report['student']['episodes']} episodes each; 95 % Wilson intervals",
             f"simulator       {about['simulator']}",
             f"demonstrations  {about['demonstrations']['demonstrations']}"]
    return table(rows, head) + "\n" + "\n".join(notes)
