"""Many images at once: a model of MuJoCo drawn by several processes.

Two threads of one process draw no faster than one (experiments/results/images.md). A process is a
program of `cameras.py`, which is told states and answers with images through a pipe.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np

from vdd_jax.cores import cores
from vdd_jax.tasks import cameras

STATES = 16  # drawn at once for which one more process is worth its start


def processes(most: int) -> int:
    """How many draw best, of `most` that may.

    Raises:
      NoOpenGL: nothing can be drawn on this machine.
    """
    return min(most, cores()) if most > 1 and cameras.opengl().software else 1


class Studio:
    """Draws a model in many states, by as many processes as asked for; one is this process."""

    def __init__(self, model, processes: int = 1):
        """
        Raises:
          NoOpenGL: nothing can be drawn on this machine.
        """
        self._threads = ThreadPoolExecutor(processes)
        kind = _Process if processes > 1 else _Here
        self._all = [kind(model) for _ in range(processes)]

    def draw(self, states: np.ndarray) -> np.ndarray:
        """Coordinates `[N, Q]` → `[N, C, S, S, 3]` uint8."""
        shares = np.array_split(states, len(self._all))
        drawn = self._threads.map(lambda one, share: one.draw(share), self._all, shares)
        return np.concatenate(list(drawn))

    def draw_each(self, several: Sequence[np.ndarray], keep: Callable[[int, np.ndarray], None]
                  ) -> None:
        """Of each of several `[L, Q]` its images `[L, C, S, S, 3]` are given to `keep`, with its
        place among them, in any order and from several threads: others are drawn meanwhile."""
        free = SimpleQueue()
        for one in self._all:
            free.put(one)

        def work(place: int) -> None:
            one = free.get()
            try:
                images = one.draw(several[place])
            finally:
                free.put(one)
            keep(place, images)

        with ThreadPoolExecutor(cores()) as threads:
            list(threads.map(work, range(len(several))))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._threads.shutdown(cancel_futures=True)
        for one in self._all:
            one.close()


class _Here:
    """A renderer in a thread of its own, to which it belongs."""

    def __init__(self, model):
        self._thread = ThreadPoolExecutor(1)
        self._renderer = self._thread.submit(cameras.Renderer, model).result()

    def draw(self, states: np.ndarray) -> np.ndarray:
        def work():
            return np.stack([self._renderer.draw(places) for places in states])

        return self._thread.submit(work).result()

    def close(self) -> None:
        self._thread.submit(self._renderer.close).result()
        self._thread.shutdown()


class _Process:
    """Another process."""

    def __init__(self, model):
        backend = cameras.opengl().backend
        self._process = subprocess.Popen(
            [sys.executable, "-P", cameras.__file__, backend], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, "MUJOCO_GL": backend})
        self._send(model)

    def draw(self, states: np.ndarray) -> np.ndarray:
        """
        Raises:
          OSError: the process has ended.
        """
        shape = len(states), len(cameras.CAMERAS), cameras.SIZE, cameras.SIZE, 3
        if not len(states):
            return np.empty(shape, np.uint8)
        self._send(states)
        images = self._process.stdout.read(int(np.prod(shape)))
        if len(images) < np.prod(shape):
            raise self._ended()
        return np.frombuffer(images, np.uint8).reshape(shape)

    def _send(self, what) -> None:
        try:
            pickle.dump(what, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> OSError:
        return OSError(f"a process that draws has ended with status {self._process.wait()}; what "
                       "it says stands above")

    def close(self) -> None:
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        self._process.stdout.close()
        self._process.wait()
