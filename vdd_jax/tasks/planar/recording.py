"""Demonstrations by scripts: recorded all modes in turn, kept on disk for the next time.

A recording is kept in the user's cache directory, `$XDG_CACHE_HOME/vdd_jax/demonstrations`
(`~/.cache/...` without that variable), named by task, episodes per mode, seed and the versions of
simulator and MuJoCo; `recording_file` says its layout. A file that cannot be read is recorded
again. Episodes are recorded in chunks, each kept when it is done, so that a recording that was
interrupted goes on and ends with the same bits. Who finds another process at it waits for that.
"""

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vdd_jax import file_lock
from vdd_jax.metrics import Log
from vdd_jax.tasks.planar import engine
from vdd_jax.tasks.planar.lapses import Lapse, begins
from vdd_jax.tasks.planar.physics import Starts, model_of, simulator
from vdd_jax.tasks.planar.skills import View
from vdd_jax.tasks.recording_file import DAMAGED, Recording, join, read, read_of_task, write
from vdd_jax.tasks.studio import Studio, processes
from vdd_jax.types import TaskSpec, Trajectory

Show = Callable[[dict[int, np.ndarray]], None]  # number of an episode → its states `[L, Q]`
CHUNK = 96  # episodes recorded together
ATTEMPTS = 20  # rounds of attempts before a demonstrator counts as broken


class Demonstrator(NamedTuple):
    """How a task is demonstrated."""

    name: str
    version: int  # of scene and script: whatever changes a recording raises it
    rules: engine.Rules
    num_modes: int
    starts: Callable[[np.random.Generator, int], Starts]
    # (mode, view of the first step, targets `[J, 3]`, generator of random numbers) -> a script
    script: Callable
    lengths: tuple[int, int] = (1, 1_000_000)  # attempts outside are drawn again
    lapse: Callable[[np.random.Generator], Lapse | None] = lambda rng: None


def attempt(demonstrator: Demonstrator, modes, seed, threads: int | None = None,
            keep_states: bool = False, lapses: list[Lapse | None] | None = None
            ) -> engine.Episodes:
    """One try of each of the modes `[N]`, whatever comes of it; `seed` is anything NumPy takes,
    `lapses` are of each."""
    modes, lapses = np.asarray(modes), lapses or [None] * len(modes)
    # Every episode has random numbers of its own: nothing depends on the others' lengths.
    start_seed, *seeds = np.random.SeedSequence(seed).spawn(len(modes) + 1)
    rules = demonstrator.rules
    starts = demonstrator.starts(np.random.default_rng(start_seed), len(modes))
    with rules.world(rules.scene, starts, threads) as world:

        def views(t, indices):
            # Python lists: the scripts calculate with plain numbers.
            boxes = np.concatenate([world.positions[..., :2], world.yaw[..., None]], -1).tolist()
            tcp, desired = world.tcp.tolist(), world.desired.tolist()
            heights = world.positions[..., 2].tolist()
            return {i: View(tcp[i], desired[i], boxes[i], t, heights[i]) for i in indices}

        first = views(0, range(len(modes)))
        scripts = [demonstrator.script(int(m), first[i], starts.targets[i],
                                       np.random.default_rng(seeds[i]))
                   for i, m in enumerate(modes)]
        ended = np.zeros(len(modes), bool)

        def act(t, seen, running):
            actions = np.zeros(world.desired.shape)
            indices = np.flatnonzero(running & ~ended)
            for i, view in views(t, indices).items():
                if (lapse := lapses[i]) and lapse.begin <= t < lapse.end:
                    actions[i] = lapse.action
                    continue
                try:
                    actions[i] = scripts[i].send(view if t else None)
                except StopIteration:
                    ended[i] = True
            return actions

        return engine.play(rules, world, starts, act, rules.limit, keep_states)


def take(demonstrator: Demonstrator, first: int, num: int, seed: int,
         threads: int | None = None, show: Show | None = None) -> Recording:
    """Episodes `first` to `first + num − 1` of a recording; episode e is of mode e mod M, and
    begins after its lapse.

    `show` is called until it was given each of them once.

    Raises:
      RuntimeError: attempts keep failing.
    """
    modes = np.arange(first, first + num) % demonstrator.num_modes
    shortest, longest = demonstrator.lengths
    kept: dict[int, Trajectory] = {}
    discarded = 0
    for again in range(ATTEMPTS):
        missing = [i for i in range(num) if i not in kept]
        if not missing:
            break
        rng = np.random.default_rng((seed, first, again, 1))
        lapses = [demonstrator.lapse(rng) for _ in missing]
        episodes = attempt(demonstrator, modes[missing], (seed, first, again), threads,
                           keep_states=show is not None, lapses=lapses)
        right = episodes.success & (episodes.mode == modes[missing])
        right &= (shortest <= episodes.steps) & (episodes.steps <= longest)
        first_shown = begins(lapses, episodes.steps)
        right &= first_shown < episodes.steps
        seen = {}
        for row, i in enumerate(missing):
            if right[row]:
                shown = slice(first_shown[row], episodes.steps[row])
                kept[i] = Trajectory(episodes.observations[row, shown].copy(),
                                     episodes.actions[row, shown].copy())
                if show:
                    seen[first + i] = episodes.states[row, shown]
        if seen:
            show(seen)
        discarded += int((~right).sum())
    if len(kept) < num:
        raise RuntimeError(f"{demonstrator.name}: the scripted demonstrator keeps failing "
                           f"({discarded} attempts)")
    return Recording([kept[i] for i in range(num)], modes, discarded)


def identity(demonstrator: Demonstrator, seed: int) -> str:
    """What the bits of a recording's episodes depend on, as the beginning of a file name."""
    return (f"{demonstrator.name}-seed{seed}-v{demonstrator.version}"
            f"-mujoco{simulator().__version__}")


def record(demonstrator: Demonstrator, num_episodes: int, seed: int = 0,
           threads: int | None = None, parts: Path | None = None, show: Show | None = None
           ) -> Recording:
    """Demonstrations of every mode in turn, the same for the same seed: any prefix is as balanced
    as it can be.

    Args:
      parts: directory in which finished chunks are kept, and looked for; None: nowhere.
      show: called with the episodes that are not looked up, before their chunk is kept.

    Returns:
      The trajectories: observations `[L, O]` and actions `[L, A]`, float32.

    Raises:
      ValueError: `num_episodes` is not positive.
      RuntimeError: attempts keep failing.
      OSError: `parts` cannot be written.
    """
    if num_episodes < 1:
        raise ValueError(f"the number of episodes must be at least 1, got {num_episodes}")
    chunks = []
    with Log(Path(os.devnull), f"record {demonstrator.name}", num_episodes) as log:
        log.progress(0)
        for first in range(0, num_episodes, CHUNK):
            num = min(CHUNK, num_episodes - first)
            file = parts and parts / f"{identity(demonstrator, seed)}-{first}-{first + num}.npz"
            chunk = finished(file) if file else None
            if chunk is None:
                chunk = take(demonstrator, first, num, seed, threads, show)
                if file:
                    write(file, chunk)
            chunks.append(chunk)
            log.record(first + num, {"discarded": sum(c.discarded for c in chunks)})
            log.progress(first + num)
    return join(chunks)


@contextlib.contextmanager
def drawing(demonstrator: Demonstrator, folder: Path, num_episodes: int) -> Iterator[Show]:
    """Draws each episode into a file of the folder, which is written under another name first.

    Raises:
      NoOpenGL: nothing can be drawn on this machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rules = demonstrator.rules
    model = model_of(rules.world.mjcf(rules.scene))

    def show(episodes: dict[int, np.ndarray]) -> None:
        numbers = list(episodes)

        def keep(place: int, images: np.ndarray) -> None:
            name = f"{numbers[place]:06d}"
            unfinished = folder / f"{name}.part"
            with unfinished.open("wb") as stream:
                np.savez_compressed(stream, images=images)
            os.replace(unfinished, folder / f"{name}.npz")

        studio.draw_each(list(episodes.values()), keep)

    with Studio(model, processes(num_episodes)) as studio:
        yield show


def finished(file: Path) -> Recording | None:
    """A part of a recording, if it is there and whole."""
    try:
        return read(file)
    except DAMAGED:
        return None


def cache_directory() -> Path:
    """Where recordings are kept; it need not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "vdd_jax" / "demonstrations"


def cache_file(demonstrator: Demonstrator, episodes_per_mode: int, seed: int,
               images: bool = False) -> Path:
    """The file of a recording."""
    total = f"{episodes_per_mode}x{demonstrator.num_modes}" + "-images" * images
    return cache_directory() / f"{identity(demonstrator, seed)}-{total}.npz"


def recorded(demonstrator: Demonstrator, episodes_per_mode: int, seed: int = 0) -> Recording:
    """As `record`, from the cache if it is there."""
    file = cache_file(demonstrator, episodes_per_mode, seed)
    total = episodes_per_mode * demonstrator.num_modes
    return kept(file, f"[{demonstrator.name}] recording {total} demonstrations",
                lambda parts: record(demonstrator, total, seed, parts=parts))


def kept(file: Path, what: str, make: Callable[[Path | None], Recording]) -> Recording:
    """What is in the file; where it is not there, or damaged, made now and kept.

    Args:
      what: told to the user when it is made.
      make: directory for what is finished, or None → the recording.
    """
    if (recording := _looked_up(file)) is not None:
        return recording
    parts = file.with_suffix(".parts")
    with contextlib.ExitStack() as held:
        try:
            parts.mkdir(parents=True, exist_ok=True)
            held.enter_context(file_lock.held(
                parts / "lock", f"waiting for the process that records {file}", file_lock.FOREVER))
        except OSError as error:  # a read-only home is no reason to fail
            warnings.warn(f"the recording cannot be kept: {error}", stacklevel=2)
            print(what, flush=True)
            return make(None)
        if (recording := finished(file)) is None:  # else by the process that was waited for
            print(f"{what}, kept in {file}", flush=True)
            recording = make(parts)
            write(file, recording)
    shutil.rmtree(parts, ignore_errors=True)
    return recording


def _looked_up(file: Path) -> Recording | None:
    try:
        return read(file) if file.exists() else None
    except DAMAGED as error:
        warnings.warn(f"{file} cannot be read ({error}); recording it again", stacklevel=3)
        return None


def load(demonstrator: Demonstrator, task, spec: TaskSpec, simulated_by: str, read_official
         ) -> tuple[list[Trajectory], dict]:
    """Demonstrations of a task, and what they are.

    Args:
      task: `config.task`: `demonstrations`, a directory of official recordings or a file of
        `vdd_jax.tasks.record`, or empty for the scripted demonstrator with its
        `episodes_per_mode`.
      spec: the task's.
      simulated_by: the task's `SIMULATOR`.
      read_official: directory → list of trajectories.

    Returns:
      The trajectories, and a description for reports: `demonstrations`, `simulator`, `episodes`,
      and `discarded` (attempts of the scripted demonstrator that were drawn again).
    """
    discarded = 0
    if task.demonstrations.endswith(".npz"):
        trajectories, _, discarded = read_of_task(task.demonstrations, spec)
        source = f"recording {task.demonstrations}, {len(trajectories)} episodes"
    elif task.demonstrations:
        trajectories = read_official(task.demonstrations)
        source = f"official recordings from {task.demonstrations}, {len(trajectories)} episodes"
    else:
        trajectories, _, discarded = recorded(demonstrator, task.episodes_per_mode)
        source = f"scripted demonstrator of vdd_jax, {len(trajectories)} episodes"
    return trajectories, {"demonstrations": source, "simulator": simulated_by,
                          "episodes": len(trajectories), "discarded": discarded}
