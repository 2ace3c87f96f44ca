"""A run of Avoiding in the official D3IL simulator: do the numbers carry over?

    python experiments/avoiding_official.py --d3il=path/to/d3il --workdir=runs/avoiding \
        --actor=student --episodes=40 --out=official.json

`--d3il` is a checkout of the official benchmark (ALRhub/d3il) in whose environment this library is
installed too. With current packages (mujoco 3.3.7, pin 4.1, gymnasium 1.4, numpy 2.4) its
commit 0046bec runs after four changes: `gym` → `gymnasium` (gym_env_wrapper.py,
gym_avoiding/__init__.py), `np.NAN` → `np.nan` (Controller.py), no import of mujoco_py, pybullet and
sl (d3il_sim/sims/__init__.py), no `collision="all"` (both surroundings/base.xml).

The rules are the official ones: contact looked at once per control step, 250 steps, no corridor,
the start always the same. An interrupted command goes on where it stopped. About 4 seconds of one
core an episode.
"""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from vdd_jax import closed_loop, policy, problem
from vdd_jax import config as config_lib
from vdd_jax.checkpoint import write_json
from vdd_jax.tasks.avoiding import score

DOWNWARD = (0.0, 1.0, 0.0, 0.0)  # quaternion of the gripper, held throughout
WAYS = (2, 3, 4)  # through each row; the official code of a mode has one bit for each


def official_simulator(checkout: Path):
    """The environment, started, without a window."""
    for folder in (checkout, checkout / "environments" / "d3il"):
        sys.path.insert(0, str(folder))
    try:
        from envs.gym_avoiding_env.gym_avoiding.envs.avoiding import ObstacleAvoidanceEnv
    except ImportError as error:
        raise SystemExit(f"the official simulator cannot be imported from {checkout}: {error}. "
                         "See the head of this file") from error
    with contextlib.redirect_stdout(io.StringIO()):
        simulator = ObstacleAvoidanceEnv(render=False)
        simulator.start()
    return simulator


def actor_of(workdir: Path, who: str):
    """The compiled actor, its window and how many actions of a chunk are executed."""
    config = config_lib.from_json((workdir / "config.json").read_text())
    if who == "student":
        student = policy.load(workdir)
        actor = closed_loop.of_student(config, student.apply, student.params, student.scaler,
                                       "sampled_mean", min_weight=student.min_weight)
    else:
        teacher, scaler, settings = problem.load_teacher(config, workdir)
        actor = closed_loop.of_teacher(config, teacher, settings.teacher, scaler,
                                       1 if who == "one_step_teacher" else 0)
    return jax.jit(actor), config.task.window, config.task.execute_steps


def drive(simulator, actor, window: int, execute_steps: int, key) -> dict:
    """One episode; an observation is the desired position and the measured one, in metres."""
    measured = simulator.reset()
    pose = simulator.robot_state()
    desired, height = np.array(pose[:2], np.float64), pose[2:]
    history = np.tile(np.concatenate([desired, measured]), (window, 1))
    valid = np.arange(window) == window - 1
    planned, steps, done = [], 0, False
    while not done:
        if not planned:
            chunk = actor(jnp.asarray(history[None], jnp.float32), jnp.asarray(valid[None]),
                          jax.random.fold_in(key, steps))
            planned = list(np.asarray(chunk[0], np.float64)[:execute_steps])
        desired = desired + planned.pop(0)
        touched = bool(simulator.check_failure())  # the step looks at this before its physics
        measured, _, done, (bits, success) = simulator.step(
            np.concatenate([desired, height, DOWNWARD]))
        history = np.concatenate([history[1:], [np.concatenate([desired, measured])]])
        valid = np.append(valid[1:], True)
        steps += 1
    return {"success": bool(success), "collided": touched and not success, "steps": steps,
            "timed_out": not success and not touched, "mode": mode_of(bits)}


def mode_of(bits) -> int:
    """0–23 from the nine official bits; -1 while a row is not passed."""
    rows = np.split(np.asarray(bits, bool), np.cumsum(WAYS)[:-1])
    if not all(row.sum() == 1 for row in rows):
        return -1
    return int(np.ravel_multi_index([int(row.argmax()) for row in rows], WAYS))


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
    simulator = official_simulator(arguments.d3il.resolve())
    for episode in range(len(rows), arguments.episodes):
        key = jax.random.fold_in(jax.random.key(arguments.seed), episode)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints at every reset
            rows.append(drive(simulator, actor, window, execute_steps, key))
        write_json(arguments.out, {"about": about, "simulator": "official D3IL Avoiding",
                                   "score": scored(rows), "rows": rows})
        print(f"episode {episode}: {rows[-1]}", flush=True)
    found = scored(rows)
    print(f"{arguments.actor}: success {found['success']:.3f} [{found['success_low']:.3f}, "
          f"{found['success_high']:.3f}], entropy {found['entropy']:.3f}, "
          f"{found['modes_found']} modes, {found['episodes']} episodes")


if __name__ == "__main__":
    main()
