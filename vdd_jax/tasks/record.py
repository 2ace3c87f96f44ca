"""Records demonstrations of a scripted task to a file:

    python -m vdd_jax.tasks.record --task=stacking --episodes=600 --out=stacking.npz [--seed=0]

Episodes run in parallel on all cores, their behaviours in turn. What is done is kept beside the
file, so that the same command goes on after an interruption, to the same bits. The file is a
`tasks/recording_file.py`; give it as config.task.demonstrations of the same task, or of the task
'recorded'.

Of aligning, sorting, stacking and the kitchen three of four begin after a shove, wherever that has
left things (tasks/planar/lapses.py).

With --images, and for the tasks that are seen by cameras, what two of them see is drawn too
(MuJoCo's tasks), into the directory FILE.images. Such a file of sorting_4 can be given to
sorting_image, too, of sorting_2 to sorting_2_image, and of stacking to stacking_image.
"""

import argparse
import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from vdd_jax import file_lock
from vdd_jax.tasks import TASKS, avoiding, kitchen
from vdd_jax.tasks.planar import recording
from vdd_jax.tasks.recording_file import DAMAGED, Recording, images_of, read_about, write

UNSEEN = ("avoiding", "kitchen")  # nothing draws them here
SCRIPTED = sorted([*UNSEEN, *(n for n, task in TASKS.items() if hasattr(task, "DEMONSTRATOR"))])
USER_ERRORS = (ImportError, OSError, RuntimeError, ValueError)


def run(task: str, episodes: int, out: Path, seed: int = 0, images: bool = False) -> str:
    """Records, and says what was done.

    Raises:
      ValueError: a number is out of range, `out` is not named `*.npz`, or is another recording.
      ImportError: the simulator is not installed.
      OSError: `out` cannot be written.
      RuntimeError: the demonstrator keeps failing, or nothing can be drawn on this machine.
    """
    images = images or bool(TASKS[task].SPEC.images)
    if images and task in UNSEEN:
        raise ValueError(f"--images is for {', '.join(n for n in SCRIPTED if n not in UNSEEN)}, "
                         f"not for {task}")
    if episodes < 1:
        raise ValueError(f"--episodes is {episodes}; it should be at least 1")
    if seed < 0:
        raise ValueError(f"--seed is {seed}; it should be at least 0")
    if out.suffix != ".npz":
        raise ValueError(f"--out is {out}; it should end in .npz")
    about = {"task": task, "seed": seed, "episodes": episodes, "images": images,
             "demonstrator": identity(task, seed)}
    if out.exists():
        if _about(out) == about:
            return f"{out} holds these episodes already"
        raise ValueError(f"{out} exists and holds something else; give another --out")
    parts, drawn = out.with_name(out.name + ".parts"), images_of(out)
    begin(parts, drawn if images else None, about)
    with file_lock.held(parts / "lock", f"waiting for the process that records {out}",
                        file_lock.FOREVER):
        if out.exists():  # since
            said = f"{out} holds these episodes already"
        else:
            recorded = take(task, episodes, seed, parts, drawn if images else None)
            write(out, recorded, about)
            steps = sum(len(t.actions) for t in recorded.trajectories)
            said = (f"{out}: {episodes} episodes of {task}, {steps} steps; {recorded.discarded} "
                    "failed attempts were drawn again")
    shutil.rmtree(parts, ignore_errors=True)
    return said


def begin(parts: Path, images: Path | None, about: dict) -> None:
    """Makes the directory of what is done, or finds that of the same recording.

    Raises:
      ValueError: there is something else's.
    """
    begun = parts / "about.json"
    if begun.exists():
        if json.loads(begun.read_text()) != about:
            raise ValueError(f"{parts} holds the beginning of another recording; remove it, or "
                             "give another --out")
        return
    if images and images.exists():
        raise ValueError(f"{images} exists; remove it, or give another --out")
    parts.mkdir(parents=True, exist_ok=True)
    begun.write_text(json.dumps(about))


def identity(task: str, seed: int) -> str:
    """What the bits of a task's recording depend on."""
    if task == "avoiding":
        return f"avoiding-seed{seed}-v{avoiding.DEMONSTRATOR_VERSION}"
    if task == "kitchen":
        return kitchen.demonstrator.identity(seed)
    return recording.identity(TASKS[task].DEMONSTRATOR, seed)


def take(task: str, episodes: int, seed: int, parts: Path, images: Path | None) -> Recording:
    """The episodes; finished chunks are kept in `parts` (Avoiding is done in seconds, at once)."""
    if task == "avoiding":
        per_mode = -(-episodes // avoiding.NUM_MODES)
        trajectories, discarded = avoiding.demonstrate_counted(seed, per_mode)
        modes = np.arange(episodes) % avoiding.NUM_MODES
        return Recording(trajectories[:episodes], modes, discarded)
    if task == "kitchen":
        per_mode = -(-episodes // len(kitchen.NAMES))
        made = kitchen.demonstrator.record(per_mode, seed, parts=parts)
        return made._replace(trajectories=made.trajectories[:episodes],
                             modes=made.modes[:episodes])
    demonstrator = TASKS[task].DEMONSTRATOR
    drawn = recording.drawing(demonstrator, images, episodes) if images else nullcontext()
    with drawn as show:
        return recording.record(demonstrator, episodes, seed, parts=parts, show=show)


def _about(file: Path) -> dict | None:
    try:
        return read_about(file)
    except DAMAGED:
        return None


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        print(f"error: {message}; see python -m vdd_jax.tasks.record --help", file=sys.stderr)
        sys.exit(1)


def main(arguments: list[str] | None = None) -> None:
    parser = _Parser(prog="python -m vdd_jax.tasks.record", description=__doc__,
                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--task", required=True, choices=SCRIPTED)
    parser.add_argument("--episodes", required=True, type=int, help="how many")
    parser.add_argument("--out", required=True, type=Path, help="the file to write, .npz")
    parser.add_argument("--seed", default=0, type=int, help="of starts and demonstrator")
    parser.add_argument("--images", action="store_true", help="draw what cameras see as well")
    given = parser.parse_args(arguments)
    try:
        print(run(given.task, given.episodes, given.out, given.seed, given.images))
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
