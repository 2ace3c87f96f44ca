"""How good is the student? Writes `report.json`, prints a table, draws figures.

For analytic teachers everything is known: KL both ways, modes, likelihood (METHOD 6). For learned
ones see `evaluate_closed_loop.py`.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdd_jax import config as config_lib
from vdd_jax import evaluate_closed_loop, open_loop, problem, sharding
from vdd_jax.checkpoint import write_json
from vdd_jax.core import mixture
from vdd_jax.core.mixture import Mixture
from vdd_jax.metrics import table
from vdd_jax.sampled_policy import SampledPolicy
from vdd_jax.teachers import Teacher

FORMAT = 2  # of report.json
FOUND = 0.1  # a mode counts as found with this share of its own weight


def against_density(teacher: Mixture, student: Mixture, key: jax.Array, num_samples: int) -> dict:
    """A student against the exact density it was distilled from, averaged over observations.

    Args:
      teacher, student: π and q at the same N observations, batch axes `[N]`.
      num_samples: samples at each observation.

    Returns:
      `kl_teacher_student` KL(π‖q) and `kl_student_teacher` KL(q‖π) in nats by Monte-Carlo, each
      with its standard error; `nll_teacher_samples` −E_π log q; `modes_found` at the worst
      observation, a mode being found when the student's samples give it at least a tenth of its
      weight; `gating_entropy`, nats.
    """
    teacher_key, student_key = jax.random.split(key)
    of_teacher = mixture.sample(teacher, teacher_key, (num_samples,))
    of_student = mixture.sample(student, student_key, (num_samples,))
    nll = -mixture.log_prob(student, of_teacher)
    forward = mixture.log_prob(teacher, of_teacher) + nll
    reverse = mixture.log_prob(student, of_student) - mixture.log_prob(teacher, of_student)
    return {
        "kl_teacher_student": jnp.mean(forward),
        "kl_teacher_student_stderr": jnp.std(forward) / np.sqrt(forward.size),
        "kl_student_teacher": jnp.mean(reverse),
        "kl_student_teacher_stderr": jnp.std(reverse) / np.sqrt(reverse.size),
        "nll_teacher_samples": jnp.mean(nll),
        "modes_found": jnp.min(modes_found(teacher, of_student)),
        "gating_entropy": jnp.mean(mixture.gating_entropy(student)),
    }


def modes_found(teacher: Mixture, samples: jax.Array) -> jax.Array:
    """How many of the teacher's Gaussians samples `[V, N, A]` visit at each observation, `[N]`."""
    share = jnp.mean(jnp.exp(mixture.log_responsibilities(teacher, samples)), axis=0)
    return jnp.sum(share >= FOUND * jnp.exp(teacher.log_weights), axis=-1)


def evaluate(config: ConfigDict, workdir: Path) -> tuple[dict, dict]:
    """The report's `teacher` and `student` for an analytic task."""
    task = problem.build(config, workdir)
    student = evaluate_closed_loop.student_of(config, workdir)
    held_out = min(config.evaluate.num_observations, len(task.held_out.observation))
    n = held_out if task.spec.observation_dim else 1
    observation = task.scaler.unscale_observation(task.held_out.observation[:n])
    teacher = mixture.affine(  # in the task's units, as the policy is
        task.teacher.density(task.held_out.observation[:n]),
        task.scaler.action_std, task.scaler.action_mean,
    )
    each = -(-config.evaluate.num_samples // n)
    result = {"modes_total": task.spec.num_modes, "num_samples": each * n, "num_observations": n,
              **evaluate_closed_loop.described(config, student)}
    key = problem.stage_key(config, "evaluate")
    if isinstance(student, SampledPolicy):
        samples = student.sample(observation, key, (each,))
        result |= {"modes_found": int(jnp.min(modes_found(teacher, samples))),
                   "network_calls": student.network_calls}
    else:
        found = jax.jit(against_density, static_argnums=3)(
            teacher, student.mixture(observation), key, each)
        result |= {k: int(v) if k == "modes_found" else float(v) for k, v in found.items()}
        result["network_calls"] = 1
    judged = open_loop.measure(task, evaluate_closed_loop.sampler_of(student), key,
                               evaluate_closed_loop.density_of(student))
    result = {**judged, **result}  # what both know is meant in the task's units
    floor = open_loop.measure(task, partial(open_loop.teacher_samples, task), key)
    entropy = -mixture.log_prob(teacher, mixture.sample(teacher, jax.random.key(1), (each,)))
    about = {
        "kind": "analytic",
        "description": f"exact score of {task.spec.num_modes} Gaussians ({config.task.name})",
        "entropy": float(jnp.mean(entropy)),
        **floor,
    }
    return about, result


def run(config: ConfigDict, workdir: Path, wall_seconds: dict[str, float],
        teacher: Teacher | None = None) -> dict:
    """Evaluates `workdir`, writes `workdir/report.json`, returns the report.

    `teacher` is given where `config.teacher.given`.

    Raises:
      CheckpointError: when there is no student in `workdir`.
    """
    if problem.is_analytic(config):
        teacher, student = evaluate(config, workdir)
        found = {"teacher": teacher, "student": student}
    else:
        found, episodes = evaluate_closed_loop.evaluate(config, workdir, teacher)
        _save_episodes(workdir / "episodes.npz", episodes)
    report = {
        "format": FORMAT,
        "task": config.task.name,
        "seed": config.seed,
        "config": config.to_dict(),
        "versions": config_lib.versions(),
        "wall_seconds": wall_seconds,
        **found,
    }
    write_json(workdir / "report.json", report)
    return report


def _save_episodes(path: Path, episodes: dict) -> None:
    """Every actor's episodes for the figures, `actor.field`."""
    if not sharding.speaks() or not episodes:
        return
    temporary = path.with_name(path.stem + ".tmp.npz")
    np.savez_compressed(temporary, **{
        f"{name}.{field}": np.asarray(value)
        for name, ran in episodes.items() for field, value in ran._asdict().items()
    })
    temporary.replace(path)


def summary(report: dict) -> str:
    """The report as the table that ends a run."""
    if report["teacher"]["kind"] == "learned":
        return evaluate_closed_loop.summary(report)
    s = report["student"]
    floor = report["teacher"]["sliced_wasserstein"]
    rows = [] if "kl_teacher_student" not in s else [
        ("KL(teacher‖student)",
         f"{s['kl_teacher_student']:.4f} ± {s['kl_teacher_student_stderr']:.4f} nats"),
        ("KL(student‖teacher)",
         f"{s['kl_student_teacher']:.4f} ± {s['kl_student_teacher_stderr']:.4f} nats"),
        ("NLL of teacher samples", f"{s['nll_teacher_samples']:.4f} nats "
                                   f"(teacher's entropy {report['teacher']['entropy']:.4f})"),
    ]
    rows += [
        ("modes found", f"{s['modes_found']} of {s['modes_total']}"),
        ("sliced Wasserstein to teacher", f"{s['sliced_wasserstein']:.4f} (floor {floor:.4f})"),
        ("network calls per action", str(s["network_calls"])),
    ]
    name = "student" if s["kind"] == "vdd" else s["kind"].upper()
    return table(rows, (f"{report['task']}, seed {report['seed']}", name))
