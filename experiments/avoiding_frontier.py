"""What a mixture of experts gives in success for entropy on Avoiding, and in entropy for success.

    python experiments/avoiding_frontier.py --workdirs=runs/seed0,runs/seed1 --widths=1,1.5,2 \
        --out=experiments/results/avoiding_frontier.json --name=scripted

A rival that fails more often and has more entropy is neither better nor worse. So that the two can
be compared at equal success, a policy, VDD's or EM's or BC-GMM's, acts by samples of q(a|s) in the
episodes of its run's report, with every expert's standard deviations times a width (0: the mean of
the drawn expert) and every weight q(z|s) to a power: the wider, the more is tried and the more
fails; the higher the power, the less is. Neither is a setting of the library. The JSON keeps other
names.
"""

import argparse
import json
import statistics
from pathlib import Path

import jax
import jax.numpy as jnp

from vdd_jax import closed_loop, evaluate_closed_loop, problem
from vdd_jax import config as config_lib
from vdd_jax.checkpoint import CheckpointError, write_json
from vdd_jax.sampled_policy import SampledPolicy
from vdd_jax.tasks import TASKS

LEAST = 1e-6  # for a width of 0: covariances stay definite


def points(workdir: Path, widths: list[float], power: float = 1.0) -> dict:
    """Seed of a run and, by width, success and entropy of its student with weights to a power.

    Raises:
      OSError, ConfigError, CheckpointError: when there is no such run, or its student is no
        mixture of experts.
    """
    config = config_lib.from_json((workdir / "config.json").read_text())
    student = evaluate_closed_loop.student_of(config, workdir)
    if isinstance(student, SampledPolicy):
        raise CheckpointError(f"the student in {workdir} has no experts: it is a consistency model")
    key, _ = jax.random.split(problem.stage_key(config, "evaluate"))  # the report's

    def at(width):
        def apply(variables, seen):
            q = student.apply(variables, seen)
            return q._replace(log_weights=jax.nn.log_softmax(power * q.log_weights),
                              scale_tril=jnp.maximum(width, LEAST) * q.scale_tril)

        actor = closed_loop.of_student(config, apply, student.params, student.scaler, "sample")
        episodes, _ = closed_loop.run(config, actor, key, config.evaluate.num_episodes)
        score = TASKS[config.task.name].score(episodes)
        return {k: score[k] for k in ("success", "entropy", "episodes")}

    return {"seed": config.seed, "power": power,
            "widths": {f"{width:g}": at(width) for width in widths}}


def render(runs: list[dict]) -> str:
    """Success / entropy by width and seed, and the means."""
    lines = ["| width | " + " | ".join(f"seed {run['seed']}" for run in runs) + " | mean |",
             "|" + "---|" * (len(runs) + 2)]
    for width in runs[0]["widths"]:
        pairs = [(run["widths"][width]["success"], run["widths"][width]["entropy"])
                 for run in runs]
        pairs.append(tuple(map(statistics.mean, zip(*pairs, strict=True))))
        lines.append(f"| {width} | " + " | ".join(f"{s:.3f} / {e:.3f}" for s, e in pairs) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdirs", required=True, help="finished runs, with commas between")
    parser.add_argument("--widths", default="1,1.25,1.5,1.75,2")
    parser.add_argument("--power", default=1.0, type=float, help="of the weights (1)")
    parser.add_argument("--name", required=True, help="under which the JSON keeps the numbers")
    parser.add_argument("--out", default="experiments/results/avoiding_frontier.json", type=Path)
    flags = parser.parse_args(arguments)
    try:
        widths = [float(width) for width in flags.widths.split(",")]
    except ValueError:
        parser.error(f"--widths are numbers with commas between, not {flags.widths!r}")
    if min(widths) < 0:
        parser.error(f"--widths are at least 0, not {min(widths):g}")
    if flags.power <= 0:
        parser.error(f"--power is above 0, not {flags.power:g}")
    try:
        runs = [points(Path(workdir), widths, flags.power) for workdir in flags.workdirs.split(",")]
    except (OSError, config_lib.ConfigError, CheckpointError) as error:
        parser.error(f"--workdirs: {error}")
    print(render(runs))
    kept = json.loads(flags.out.read_text()) if flags.out.exists() else {}
    write_json(flags.out, kept | {flags.name: runs})


if __name__ == "__main__":
    main()
