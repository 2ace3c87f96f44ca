"""Learned teachers and their students in closed loop, and beside it what needs no simulator.

A report holds the same numbers for every actor (teacher, teacher with fewer steps, student in each
of its ways of acting), from episodes with the same starts: success, entropy, network calls per
action, latency; and, without the simulator, what `open_loop.measure` says.
"""

import inspect
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdd_jax import closed_loop, open_loop, policy, problem, teachers
from vdd_jax.core import mixture, samplers
from vdd_jax.metrics import table
from vdd_jax.sampled_policy import SampledPolicy
from vdd_jax.tasks import TASKS

TIMED_CALLS = 300
EVERY = "_of_every_expert"  # the policy's own way, without config.policy.min_weight


RATES = (("one box placed", "success_1"), ("entropy, one box", "entropy_1"),
         ("two boxes placed", "success_2"), ("entropy, two boxes", "entropy_2"),
         ("boxes delivered", "delivered"), ("sub-tasks solved", "subtasks"),
         ("sub-tasks of the goal", "subtasks_of_goal"), ("goal reached", "goal_reached"),
         ("collisions", "collision"), ("time-outs", "time_out"),
         ("left the corridor", "left_corridor"))  # those that a task has


class Way(NamedTuple):
    """A way in which a policy acts."""

    act: Callable  # (scaled context, key) → scaled actions `[N, H · A]`
    network_calls: int


def evaluate(
    config: ConfigDict, workdir: Path, given: teachers.Teacher | None = None
) -> tuple[dict, dict]:
    """The report's `teacher`, `few_step_teachers` and `student`, and the episodes for figures.

    The starts of the episodes come from `config.seed`, by a key of their own: no other stage
    sees them. `given` is the teacher where `config.teacher.given`.
    """
    task = problem.build(config, workdir, given)
    student = student_of(config, workdir)
    simulator = TASKS[config.task.name]
    episode_key, sample_key = jax.random.split(problem.stage_key(config, "evaluate"))
    goals = problem.goals(config)
    simulated = hasattr(simulator, "rollout")
    steps, shown = problem.example(config).observation.observations.shape[1:]
    window = steps, shown - len(problem.relative(config))  # as the simulator gives it
    episodes, reference = {}, open_loop.reference(task, sample_key)

    def drive(name: str, way: Way, timed: bool) -> dict:
        actor = closed_loop.actor_of(config, task.scaler, way.act, goals)
        found = {"network_calls": way.network_calls}
        if simulated:
            print(f"[evaluate] {name}: {config.evaluate.num_episodes} episodes", flush=True)
            ran, seconds = closed_loop.run(
                config, actor, episode_key, config.evaluate.num_episodes, task.scaler.encode)
            episodes[name] = ran
            found |= {**scored(simulator, ran, goals), "seconds_of_episodes": round(seconds, 3)}
        if timed:
            found["latency_ms"] = latency(actor, window, task.spec.images, task.scaler.encode)
        return found

    def of_teacher(num_steps: int = 0) -> dict:
        """With its own samples measured against others of its own: the floor of distances."""
        name = teacher_name(num_steps)
        sample = partial(open_loop.teacher_samples, task, num_steps=num_steps)
        return {**drive(name, teachers_way(task, num_steps), True),
                **open_loop.measure(task, sample, sample_key, teacher=reference)}

    settings = task.teacher_config
    teacher = {
        "kind": "learned", "description": task.teacher.description or describe(settings),
        "sampler": settings.sampler.kind, "demonstrations": task.about,
        "simulator": closed_loop.simulator(config),
        **of_teacher(),
    }
    few = {str(n): of_teacher(n) for n in config.evaluate.teacher_steps}
    ways = ways_of(config, student)
    main = next(iter(ways))
    found = {name: drive(name, way, name == main) for name, way in ways.items()}
    result = {"acting": main, **found.pop(main), "other_ways_of_acting": found,
              **described(config, student),
              **open_loop.measure(task, sampler_of(student), sample_key, density_of(student),
                                  reference)}
    return {"teacher": teacher, "few_step_teachers": few, "student": result}, episodes


def scored(simulator, episodes, goals) -> dict:
    """What the task says of episodes; `goals` `[M, G, O]`, raw, where they were pursued."""
    if goals is not None and "goals" in inspect.signature(simulator.score).parameters:
        return simulator.score(episodes, goals)
    return simulator.score(episodes)


def student_of(config: ConfigDict, workdir: Path) -> policy.Policy | SampledPolicy:
    """The student of a run; of a consistency model the number of steps is that of `config`."""
    student = policy.load(workdir)
    if isinstance(student, SampledPolicy):
        return student.replace(num_steps=config.evaluate.student_steps[0])
    return student


def teacher_name(num_steps: int) -> str:
    """The actor's name among the episodes; 0: of the sampler's own number of steps."""
    return f"teacher_{num_steps}_steps" if num_steps else "teacher"


def teachers_way(task, num_steps: int = 0) -> Way:
    """A learned teacher by its sampler; `num_steps` in place of the sampler's own."""
    settings = task.teacher_config

    def act(context, key):
        return teachers.sample(task.teacher, settings, context, key, context.valid.shape[:1],
                               task.held_out.action.shape[-1], num_steps)

    return Way(act, samplers.network_calls(
        settings.sampler.kind, num_steps or settings.sampler.num_steps))


def ways_of(config: ConfigDict, student: policy.Policy | SampledPolicy) -> dict[str, Way]:
    """The ways in which a student acts, by name, the main one first."""
    if isinstance(student, SampledPolicy):
        def jumping(context, key, num_steps):
            shape = (*context.valid.shape[:1], student.action_dim * student.chunk)
            return student.draw(student.params, context, key, shape, num_steps)

        return {f"{n}_steps": Way(partial(jumping, num_steps=n), student.calls_of(n))
                for n in config.evaluate.student_steps}

    def act(context, key, how, min_weight):
        q = student.apply({"params": student.params}, context)
        return mixture.act(q, key, how, min_weight)

    main = student.acting
    hows = sorted(mixture.ACTING, key=lambda how: how != main)
    ways = {how: Way(partial(act, how=how, min_weight=student.min_weight), 1) for how in hows}
    if student.min_weight:
        ways[main + EVERY] = Way(partial(act, how=main, min_weight=0.0), 1)
    return ways


def described(config: ConfigDict, student) -> dict:
    """What a report says of a student beside its numbers."""
    if isinstance(student, SampledPolicy):
        return {"kind": config.consistency.method}
    kind = config.from_scratch.method if "from_scratch" in config.stages else "vdd"
    return {"kind": kind, "num_experts": config.student.num_experts,
            "min_weight": student.min_weight}


def sampler_of(student):
    """`sample(scaled observation, key, num) → [num, B, A]` of a student."""
    if isinstance(student, SampledPolicy):
        def sample(observation, key, num):
            states = len(jax.tree.leaves(observation)[0])
            shape = (num, states, student.action_dim * student.chunk)
            return student.draw(student.params, observation, key, shape, student.num_steps)

        return sample
    density = density_of(student)
    return lambda observation, key, num: mixture.sample(density(observation), key, (num,))


def density_of(student):
    """Scaled observation → q of a student; None where it has no density."""
    if isinstance(student, SampledPolicy):
        return None
    return lambda observation: student.apply({"params": student.params}, observation)


def describe(settings: ConfigDict) -> str:
    """A learned teacher in a few words; `settings` is its `config.teacher`."""
    return (f"{settings.schedule}, {settings.prediction} prediction, {settings.backbone} "
            f"{settings.width}×{settings.depth}")


def latency(actor, window: tuple[int, int], images: tuple[int, ...] = (), encode=None) -> dict:
    """Milliseconds of one action of a batch of 1, after warm-up: median and 99th percentile.

    Args:
      window: T, O, features of images among the numbers.
      images: (C, S, S, 3), of which the newest are encoded with each action.
    """
    frames = jnp.zeros((1, *images), jnp.uint8)

    def acting(history, valid, key):
        if encode is not None:
            features = encode(frames)
            history = history.at[:, -1, -features.shape[-1]:].set(features)
        return actor(history, valid, key)

    program = jax.jit(acting)
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
    s = report["student"]
    columns = [report["teacher"], *report["few_step_teachers"].values(), s]
    names = ["teacher", *(f"{n}-step teacher" if n != "1" else "one-step teacher"
                          for n in report["few_step_teachers"]),
             "student" if s["kind"] == "vdd" else s["kind"].upper()]
    other = s["other_ways_of_acting"]

    def row(name, of):
        return (name, *map(of, columns))

    def of_student(name, value):
        return (name, *["–"] * (len(columns) - 1), value)

    in_simulator = "success" in s
    rows = [
        row("success", lambda v: f"{v['success']:.3f} [{v['success_low']:.3f}, "
                                 f"{v['success_high']:.3f}]"),
        row("entropy", lambda v: f"{v['entropy']:.3f}"),
        row("modes found", lambda v: f"{v['modes_found']} of "
                                     f"{v.get('num_modes', len(v['mode_histogram']))}"),
    ] if in_simulator else []
    rows += [
        *(row(name, lambda v, key=key: f"{v[key]:.3f}") for name, key in RATES if key in s),
        row("network calls per action", lambda v: str(v["network_calls"])),
        row("latency p50 / p99 (ms)", lambda v: f"{v['latency_ms']['p50']:.2f} / "
                                                f"{v['latency_ms']['p99']:.2f}"),
        row("sliced Wasserstein to teacher", lambda v: f"{v['sliced_wasserstein']:.4f}"
            + " (floor)" * (v is report["teacher"])),
        row("MMD² to teacher", lambda v: f"{v['mmd']:.4f}"),
        row("std / teacher's", lambda v: f"{v['std_ratio']:.3f}"),
    ]
    if "nll_held_out" in s:
        rows.append(of_student("NLL of held-out actions", f"{s['nll_held_out']:.3f} nats"))
    if "kl_student_teacher" in s:
        rows.append(of_student("KL(student‖teacher)", f"{s['kl_student_teacher']:.3f} nats"))
        rows.append(of_student("KL(teacher‖student)", f"{s['kl_teacher_student']:.3f} nats"))
    if "hdr_coverage" in s:
        rows += [of_student(f"teacher's samples in the {float(p):.0%} region", f"{v:.3f}")
                 for p, v in s["hdr_coverage"].items() if p in ("0.5", "0.95")]
    rows += [] if not in_simulator else [
             (f"success, entropy: {name}", *[""] * (len(columns) - 1),
              f"{v['success']:.3f}, {v['entropy']:.3f}")
             for name, v in ((w.replace("_", " "), v) for w, v in other.items())]
    about = report["teacher"]
    episodes = [f"{s['episodes']} episodes each; 95 % Wilson intervals"] if in_simulator else []
    notes = [*episodes,
             f"simulator       {about['simulator']}",
             f"demonstrations  {about['demonstrations']['demonstrations']}"]
    head = (f"{report['task']}, seed {report['seed']}", *names)
    return table(rows, head) + "\n" + "\n".join(notes)
