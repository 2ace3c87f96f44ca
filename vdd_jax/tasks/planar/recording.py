"""Demonstrations by scripts: recorded all modes together, kept on disk for the next time.

A recording is one `.npz` in the user's cache directory, `$XDG_CACHE_HOME/vdd_jax/demonstrations`
(`~/.cache/...` without that variable), named by task, episodes per mode, seed and the versions of
simulator and MuJoCo. Its arrays: `format` (int), `observations` `[S, O]` and `actions` `[S, A]`
float32, all episodes one after the other; `lengths` `[E]` and `modes` `[E]` int; `discarded`
(int). It is written under another name first and then renamed, so that a reader never sees half a
file; a file that cannot be read is recorded again.
"""

import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vdd_jax.tasks.planar import engine
from vdd_jax.tasks.planar.physics import Starts, World, simulator
from vdd_jax.tasks.planar.skills import View
from vdd_jax.types import Trajectory

FORMAT = 1
MOST_AT_ONCE = 512  # episodes; more would only need more memory
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


class Recording(NamedTuple):
    """Successful demonstrations, the modes in turn."""

    trajectories: list[Trajectory]
    modes: np.ndarray  # `[E]`
    discarded: int  # attempts that failed (or were too short or long), drawn again


def attempt(demonstrator: Demonstrator, modes, seed, threads: int | None = None
            ) -> engine.Episodes:
    """One try of each of the modes `[N]`, whatever comes of it; `seed` is anything NumPy takes."""
    modes = np.asarray(modes)
    # Every episode has random numbers of its own: nothing depends on the others' lengths.
    start_seed, *seeds = np.random.SeedSequence(seed).spawn(len(modes) + 1)
    rules = demonstrator.rules
    starts = demonstrator.starts(np.random.default_rng(start_seed), len(modes))
    with World(rules.scene, starts, threads) as world:

        def views(t, indices):
            # Python lists: the scripts calculate with plain numbers.
            boxes = np.concatenate([world.positions[..., :2], world.yaw[..., None]], -1).tolist()
            tcp, desired = world.tcp.tolist(), world.desired.tolist()
            return {i: View(tcp[i], desired[i], boxes[i], t) for i in indices}

        first = views(0, range(len(modes)))
        scripts = [demonstrator.script(int(m), first[i], starts.targets[i],
                                       np.random.default_rng(seeds[i]))
                   for i, m in enumerate(modes)]
        ended = np.zeros(len(modes), bool)

        def act(t, seen, running):
            actions = np.zeros(world.desired.shape)
            indices = np.flatnonzero(running & ~ended)
            for i, view in views(t, indices).items():
                try:
                    actions[i] = scripts[i].send(view if t else None)
                except StopIteration:
                    ended[i] = True
            return actions

        return engine.play(rules, world, starts, act, rules.limit)


def record(demonstrator: Demonstrator, episodes_per_mode: int, seed: int = 0,
           threads: int | None = None) -> Recording:
    """Demonstrations of every mode, the same for the same seed.

    Returns:
      `num_modes · episodes_per_mode` trajectories, the modes in turn: observations `[L, O]` and
      actions `[L, A]`, float32.

    Raises:
      ValueError: `episodes_per_mode` is not positive.
      RuntimeError: attempts keep failing.
    """
    if episodes_per_mode < 1:
        raise ValueError(f"episodes_per_mode must be at least 1, got {episodes_per_mode}")
    num_modes = demonstrator.num_modes
    shortest, longest = demonstrator.lengths
    kept: list[list[Trajectory]] = [[] for _ in range(num_modes)]
    discarded = 0
    for block in range(ATTEMPTS + episodes_per_mode * num_modes // MOST_AT_ONCE):
        missing = [m for m in range(num_modes) for _ in range(episodes_per_mode - len(kept[m]))]
        if not missing:
            break
        batch = missing[:MOST_AT_ONCE]
        episodes = attempt(demonstrator, batch, (seed, block), threads)
        for i, wanted in enumerate(batch):
            length = episodes.steps[i]
            right = episodes.success[i] and episodes.mode[i] == wanted
            if right and shortest <= length <= longest:
                kept[wanted].append(Trajectory(episodes.observations[i, :length].copy(),
                                               episodes.actions[i, :length].copy()))
            else:
                discarded += 1
    if any(len(k) < episodes_per_mode for k in kept):
        raise RuntimeError(f"{demonstrator.name}: the scripted demonstrator keeps failing "
                           f"({discarded} attempts)")
    # Mode by mode in turn, so that any prefix is as balanced as it can be.
    order = [(m, i) for i in range(episodes_per_mode) for m in range(num_modes)]
    return Recording([kept[m][i] for m, i in order], np.array([m for m, _ in order]), discarded)


def cache_directory() -> Path:
    """Where recordings are kept; it need not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "vdd_jax" / "demonstrations"


def cache_file(demonstrator: Demonstrator, episodes_per_mode: int, seed: int) -> Path:
    """The file of a recording."""
    mujoco = simulator().__version__
    return cache_directory() / (
        f"{demonstrator.name}-{episodes_per_mode}x{demonstrator.num_modes}-seed{seed}"
        f"-v{demonstrator.version}-mujoco{mujoco}.npz")


def recorded(demonstrator: Demonstrator, episodes_per_mode: int, seed: int = 0) -> Recording:
    """As `record`, from the cache if it is there."""
    if episodes_per_mode < 1:
        raise ValueError(f"episodes_per_mode must be at least 1, got {episodes_per_mode}")
    file = cache_file(demonstrator, episodes_per_mode, seed)
    total = episodes_per_mode * demonstrator.num_modes
    return kept(file, f"[{demonstrator.name}] recording {total} demonstrations",
                lambda: record(demonstrator, episodes_per_mode, seed))


def kept(file: Path, what: str, make: Callable[[], Recording]) -> Recording:
    """What is in the file; where it is not there, or damaged, made now and kept."""
    if file.exists():
        try:
            return read(file)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            warnings.warn(f"{file} cannot be read ({error}); recording it again", stacklevel=2)
    print(f"{what}, kept in {file}", flush=True)
    recording = make()
    try:
        write(file, recording)
    except OSError as error:  # a read-only home is no reason to fail
        warnings.warn(f"the recording could not be kept: {error}", stacklevel=2)
    return recording


def write(file: Path, recording: Recording) -> None:
    """Writes a recording atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(
                stream, format=FORMAT, discarded=recording.discarded, modes=recording.modes,
                lengths=np.array([len(t.actions) for t in recording.trajectories]),
                observations=np.concatenate([t.observations for t in recording.trajectories]),
                actions=np.concatenate([t.actions for t in recording.trajectories]))
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(file: Path) -> Recording:
    """Reads a recording.

    Raises:
      ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile: it is not one, or is damaged.
    """
    with np.load(file, allow_pickle=False) as stored:
        if int(stored["format"]) != FORMAT:
            raise ValueError(f"format {int(stored['format'])}, expected {FORMAT}")
        observations, actions, lengths = (
            stored[name] for name in ("observations", "actions", "lengths"))
        modes, discarded = stored["modes"], int(stored["discarded"])
    if not (lengths.sum() == len(observations) == len(actions) and len(modes) == len(lengths)):
        raise ValueError("its lengths do not add up")
    if not (np.isfinite(observations).all() and np.isfinite(actions).all()):
        raise ValueError("it holds NaN or infinity")
    ends = np.cumsum(lengths)[:-1]
    trajectories = [Trajectory(o, a) for o, a in zip(
        np.split(observations, ends), np.split(actions, ends), strict=True)]
    return Recording(trajectories, modes, discarded)


def load(demonstrator: Demonstrator, task, simulated_by: str, read_official
         ) -> tuple[list[Trajectory], dict]:
    """Demonstrations of a task, and what they are.

    Args:
      task: `config.task`: `demonstrations`, a directory of official recordings, or empty for the
        scripted demonstrator with its `episodes_per_mode`.
      simulated_by: the task's `SIMULATOR`.
      read_official: directory → list of trajectories.

    Returns:
      The trajectories, and a description for reports: `demonstrations`, `simulator`, `episodes`,
      and `discarded` (attempts of the scripted demonstrator that were drawn again).
    """
    discarded = 0
    if task.demonstrations:
        trajectories = read_official(task.demonstrations)
        source = f"official recordings from {task.demonstrations}, {len(trajectories)} episodes"
    else:
        trajectories, _, discarded = recorded(demonstrator, task.episodes_per_mode)
        source = f"scripted demonstrator of vdd_jax, {len(trajectories)} episodes"
    return trajectories, {"demonstrations": source, "simulator": simulated_by,
                          "episodes": len(trajectories), "discarded": discarded}
