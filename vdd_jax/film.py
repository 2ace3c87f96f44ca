"""Films an episode of a MuJoCo task (needs the extras sim and plot):

    python -m vdd_jax.film --task=stacking --out=stacking.gif [--mode=2] [--seed=0]
    python -m vdd_jax.film --workdir=runs/stacking --actor=student --out=student.gif [--seed=0]

Either the scripted demonstrator, in the mode of that number, or the `teacher` or `student` of a
run. `--out` ends in .gif, or in .png: a strip of pictures, below each what the hand's camera sees.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as in main.py

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import logging  # noqa: E402

from vdd_jax import config as config_lib  # noqa: E402
from vdd_jax import policy as policy_lib  # noqa: E402
from vdd_jax.checkpoint import CheckpointError  # noqa: E402
from vdd_jax.tasks import TASKS, cameras  # noqa: E402
from vdd_jax.tasks.planar import engine, recording  # noqa: E402
from vdd_jax.tasks.planar.physics import model_of  # noqa: E402

FILMED = sorted(name for name, task in TASKS.items() if hasattr(task, "DEMONSTRATOR"))
ACTORS = {"student": policy_lib.load, "teacher": policy_lib.load_teacher}
EVERY = 3  # control steps between two pictures of a film
STRIP = 8  # pictures of a strip
SIZE = 240  # pixels
USER_ERRORS = (CheckpointError, ImportError, OSError, RuntimeError, ValueError)


def of_demonstrator(task: str, mode: int, seed: int) -> engine.Episodes:
    """One attempt of the scripted demonstrator.

    Raises:
      ValueError: the task has no such mode.
    """
    demonstrator = TASKS[task].DEMONSTRATOR
    if not 0 <= mode < demonstrator.num_modes:
        raise ValueError(f"--mode is {mode}; {task} has the modes 0 to "
                         f"{demonstrator.num_modes - 1}")
    return recording.attempt(demonstrator, [mode], seed, keep_states=True)


def of_policy(workdir: Path, actor: str, seed: int) -> tuple[str, engine.Episodes]:
    """The task of a run, and one episode of its teacher or student.

    Raises:
      CheckpointError: there is none.
      ValueError: the run's task cannot be filmed.
    """
    policy = ACTORS[actor](workdir)
    config = config_lib.from_json((workdir / "config.json").read_text())
    name = config.task.name
    if name not in FILMED or policy.goal_length:
        what = "pursues goals" if name in FILMED else f"is of {name}"
        raise ValueError(f"{workdir} {what}; films are of {', '.join(FILMED)}, without goals")
    task = TASKS[name]
    start_key, policy_key = jax.random.split(jax.random.key(seed))

    def act(history, valid, key):
        history, pixels = jnp.split(history, [policy.observation_dim], axis=-1)
        images = pixels.astype(jnp.uint8).reshape(*history.shape[:-1], *policy.images) if (
            policy.images) else None
        return policy.act(policy_lib.History(
            history, valid, task.past_actions(history), images=images), key)

    starts = task.DEMONSTRATOR.starts(engine.generator_of(start_key), 1)
    rules = task.RULES if policy.images else task.DEMONSTRATOR.rules
    pixels = jax.tree_util.Partial(lambda images: images.reshape(len(images), -1))
    return name, engine.rollout(
        rules, act, policy_key, starts, config.task.window, config.task.execute_steps,
        keep_states=True, encode=pixels if policy.images else None)


def pictures(task: str, episodes: engine.Episodes, strip: bool) -> np.ndarray:
    """Pictures of the first episode, `[F, C, S, S, 3]` uint8: the last one is its end."""
    rules = TASKS[task].DEMONSTRATOR.rules
    last = int(episodes.steps[0]) - 1
    if strip:
        which = np.linspace(0, last, STRIP).round().astype(int)
    else:
        which = np.append(np.arange(0, last, EVERY), last)
    shown = cameras.CAMERAS if strip else cameras.CAMERAS[:1]
    return cameras.draw_all(model_of(rules.world.mjcf(rules.scene)), episodes.states[0][which],
                            SIZE, shown)


def write(out: Path, frames: np.ndarray, milliseconds: float) -> None:
    """`[F, C, S, S, 3]` → a film of the first camera (.gif), or a strip, a row a camera (.png)."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("films are written with Pillow, which is not installed: "
                          "pip install 'vdd_jax[plot]'") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        rows = np.concatenate(list(frames), axis=2)  # `[C, S, F · S, 3]`
        Image.fromarray(np.concatenate(list(rows), axis=0)).save(out)
        return
    first, *rest = (Image.fromarray(frame[0]) for frame in frames)
    first.save(out, save_all=True, append_images=rest, duration=milliseconds, loop=0)


def run(out: Path, task: str | None, workdir: Path | None, actor: str, mode: int, seed: int
        ) -> str:
    """Films, and says how the episode ended; raises one of `USER_ERRORS`."""
    if out.suffix not in (".gif", ".png"):
        raise ValueError(f"--out is {out}; it should end in .gif or .png")
    if out.exists():
        raise ValueError(f"{out} exists; give another --out")
    if (task is None) == (workdir is None):
        raise ValueError("what shall be filmed? give either --task or --workdir")
    cameras.opengl()  # before the episode, not after it
    if workdir is None:
        episodes = of_demonstrator(task, mode, seed)
    else:
        task, episodes = of_policy(workdir, actor, seed)
    frames = pictures(task, episodes, out.suffix == ".png")
    write(out, frames, 1000 * EVERY / TASKS[task].SPEC.control_hz)
    end = "success" if episodes.success[0] else "no success"
    return f"{out}: {end} after {int(episodes.steps[0])} steps, mode {int(episodes.mode[0])}"


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        print(f"error: {message}; see python -m vdd_jax.film --help", file=sys.stderr)
        sys.exit(1)


def main(arguments: list[str] | None = None) -> None:
    parser = _Parser(prog="python -m vdd_jax.film", description=__doc__,
                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--task", choices=FILMED, help="of the scripted demonstrator")
    parser.add_argument("--workdir", type=Path, help="of a run, whose policy acts")
    parser.add_argument("--actor", default="student", choices=sorted(ACTORS))
    parser.add_argument("--out", required=True, type=Path, help="the file to write, .gif or .png")
    parser.add_argument("--mode", default=0, type=int, help="that the demonstrator shows")
    parser.add_argument("--seed", default=0, type=int, help="of the episode")
    given = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # orbax tells every file it touches
    try:
        print(run(given.out, given.task, given.workdir, given.actor, given.mode, given.seed))
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
