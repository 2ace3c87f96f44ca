"""One process at a time: a file that is held while a run or a recording is at work.

The operating system lets go of it when the process ends, however it does. Where there is no such
lock (Windows, some network file systems) nothing is held and nobody is kept out.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:
    fcntl = None

FOREVER = float("inf")
# for which a file server may go on to hold what a dead host held
LEASE = 120.0


class Busy(RuntimeError):
    """Another process holds it; the text says which."""


@contextlib.contextmanager
def held(file: Path, notice: str, patience: float | None = None) -> Iterator[None]:
    """Holds `file`, which is made if need be and stays.

    Args:
      notice: what is printed before waiting for the process that holds it.
      patience: seconds to wait; by default none for a process of this host, and for one of
        another host as long as a file server may take to notice that it is dead.

    Raises:
      Busy: another process holds it still.
      OSError: the file cannot be written.
    """
    with file.open("a+") as stream:
        _take(stream, notice, patience)
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        yield


def _take(stream, notice: str, patience: float | None) -> None:
    if fcntl is None:
        return
    start, said = time.monotonic(), False
    while True:
        try:
            return fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read() or "process unknown"
            elsewhere = not holder.endswith(f" on {socket.gethostname()}")
            if time.monotonic() - start >= (LEASE * elsewhere if patience is None else patience):
                raise Busy(holder) from None
        except OSError:  # a file system without locks
            return
        if not said:
            print(f"{notice} ({holder})", flush=True)
            said = True
        time.sleep(0.5)
