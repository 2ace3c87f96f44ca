"""A notice that the machine will be taken away (SIGTERM): what is trained is saved, the run ends
with an exit status of its own, and the same command goes on from there."""

import signal

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again

_noticed = False


class Preempted(Exception):
    """The run was asked to stop and has saved; the text is for the user."""


def listen() -> None:
    """From now on SIGTERM is a notice, not the end. Of several processes each listens by itself:
    `jax.distributed` does."""

    def notice(signum, frame):
        global _noticed
        _noticed = True

    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, notice)


def noticed(step: int) -> bool:
    """Whether to save and stop after `step`; all processes are told so at one and the same step."""
    if jax.process_count() == 1:
        return _noticed
    return multihost_utils.reached_preemption_sync_point(step)
