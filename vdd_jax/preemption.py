"""A notice that the machine will be taken away (SIGTERM): what is trained is saved, the run ends
with an exit status of its own, and the same command goes on from there."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again


class Preempted(Exception):
    """The run was asked to stop and has saved; the text is for the user."""


@contextlib.contextmanager
def listening() -> Iterator[Callable[[int], bool]]:
    """Meanwhile SIGTERM is a notice, not the end.

    Yields:
      `noticed(step)`: whether to save and stop after `step`. Of several processes, which
      `jax.distributed` makes listen, all are told so at one and the same step.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    notices = []
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handler
        yield lambda step: False
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: notices.append(number))
    try:
        yield lambda step: bool(notices)
    finally:
        signal.signal(signal.SIGTERM, before)
