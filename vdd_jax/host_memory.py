"""Memory of the host that compiling has taken and the C library keeps."""

import ctypes
import sys

import jax

EVENT = "/jax/core/compile/backend_compile_duration"  # also of a program read from the cache
LEAST = 1.0  # seconds; below, there is little to give back


def give_back_after_compiling() -> None:
    """From now on, whenever a large program was compiled, returns what that left to the system,
    where the C library is glibc: else the program's arrays come on top of it in its first run."""

    def heard(event: str, seconds: float, **_):
        if event == EVENT and seconds > LEAST:
            give_back()

    jax.monitoring.register_event_duration_secs_listener(heard)


def give_back() -> None:
    """XLA's compiler frees small pieces among others that stay; glibc keeps such pages."""
    if sys.platform != "linux":
        return
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
