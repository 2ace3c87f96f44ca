"""Memory of the host that compiling has taken, and Python or the C library keeps."""

import ctypes
import functools
import gc
import sys

import jax

EVENTS = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",  # just before it is compiled
    "/jax/core/compile/backend_compile_duration",  # also of a program read from the cache
)
LEAST = 1.0  # seconds; below, there is little to give back


@functools.cache  # a listener that is there twice gives back twice
def give_back_after_compiling() -> None:
    """From now on, before and after a large program is compiled, returns what is left of others
    and of this to the system, where the C library is glibc: else the compiler's memory, or the
    program's arrays in its first run, come on top of it."""

    def heard(event: str, seconds: float, **_):
        if event in EVENTS and seconds > LEAST:
            give_back()

    jax.monitoring.register_event_duration_secs_listener(heard)


def give_back() -> None:
    """Programs that nothing needs are in cycles, which Python frees when it comes to it; XLA's
    compiler frees small pieces among others that stay, and glibc keeps such pages."""
    gc.collect()
    if sys.platform != "linux":
        return
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
