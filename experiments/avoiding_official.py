"""A run of Avoiding in the official D3IL simulator: do the numbers carry over?

    python experiments/avoiding_official.py --d3il=path/to/d3il --workdir=runs/avoiding \
        --actor=student --episodes=40 --out=official.json

`--d3il` is a checkout of the official benchmark (ALRhub/d3il) in whose environment this library is
installed too; what has to be changed in it stands in `vdd_jax/tasks/official/d3il.py`, which drives
it. (`--config.task.simulator=official` evaluates there at once; this command goes on where it was
interrupted, and keeps every episode.)

The rules are the official ones: contact looked at once per control step, 250 steps, no corridor,
the start always the same. About 4 seconds of one core an episode.
"""

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np

from vdd_jax import closed_loop, policy, problem
from vdd_jax import config as config_lib
from vdd_jax.checkpoint import write_json
from vdd_jax.tasks.avoiding import score
from vdd_jax.tasks.official import d3il
from vdd_jax.tasks.official.episode import drive
from vdd_jax.tasks.planar.engine import asking

COLUMNS = ("success", "collided", "steps", "timed_out", "mode")


def official_simulator(checkout: Path):
    """The environment, started, without a window."""
    for folder in (checkout, checkout / "environments" / "d3il"):
        sys.path.insert(0, str(folder))
    try:
        return d3il.start("avoiding")
    except ImportError as error:
        raise SystemExit(str(error)) from error


def actor_of(workdir: Path, who: str):
    """The compiled actor, its window and how many actions of a chunk are executed."""
    config = config_lib.from_json((workdir / "config.json").read_text())
    if who == "student":
        student = policy.load(workdir)
        actor = closed_loop.of_student(config, student.apply, student.params, student.scaler,
                                       student.acting, min_weight=student.min_weight)
    else:
        teacher, scaler, settings = problem.load_teacher(config, workdir)
        actor = closed_loop.of_teacher(config, teacher, settings.teacher, scaler,
                                       1 if who == "one_step_teacher" else 0)
    return actor, config.task.window, config.task.execute_steps


def scored(rows: list[dict]) -> dict:
    """As in every report; the official rules know no corridor."""
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return score(SimpleNamespace(**columns, left_corridor=np.zeros(len(rows), bool)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--d3il", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--actor", default="student",
                        choices=("student", "teacher", "one_step_teacher"))
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    about = {"workdir": str(arguments.workdir.resolve()), "actor": arguments.actor,
             "seed": arguments.seed}
    rows = []
    if arguments.out.exists():
        stored = json.loads(arguments.out.read_text())
        if stored["about"] != about:
            raise SystemExit(f"{arguments.out} holds other episodes: {stored['about']}")
        rows = stored["rows"]
    actor, window, execute_steps = actor_of(arguments.workdir, arguments.actor)
    environment = d3il.Stepped(official_simulator(arguments.d3il.resolve()), "avoiding", {})
    ask, key = asking(actor, 1, environment.size, execute_steps), jax.random.key(arguments.seed)
    for episode in range(len(rows), arguments.episodes):
        steps = drive(environment, ask, key, episode, window, execute_steps)
        found = d3il.episodes("avoiding", [(steps, episode)])
        rows.append({name: getattr(found, name)[0].item() for name in COLUMNS})
        write_json(arguments.out, {"about": about, "simulator": "official D3IL Avoiding",
                                   "score": scored(rows), "rows": rows})
        print(f"episode {episode}: {rows[-1]}", flush=True)
    found = scored(rows)
    print(f"{arguments.actor}: success {found['success']:.3f} [{found['success_low']:.3f}, "
          f"{found['success_high']:.3f}], entropy {found['entropy']:.3f}, "
          f"{found['modes_found']} modes, {found['episodes']} episodes")


if __name__ == "__main__":
    main()
