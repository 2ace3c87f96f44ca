"""Memory of the host: what compiling takes, and what of it Python or the C library keeps."""

import contextlib
import ctypes
import functools
import gc
import sys
import time

import jax
from ml_collections import ConfigDict

EVENTS = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",  # just before it is compiled
    "/jax/core/compile/backend_compile_duration",  # also of a program read from the cache
)
LEAST = 1.0  # seconds; below, there is little to give back
OLDER_EMITTERS = {"xla_cpu_use_fusion_emitters": False}


def compiler_options(config: ConfigDict) -> dict | None:
    """Of XLA, for a program of this configuration's networks.

    For a CPU its newer emitters set up an MLIR context for every fusion, of which a step that
    distils a transformer has hundreds: without them its process needs 720 MiB in place of 1,076,
    compiles up to a quarter longer and is as fast; a step of small layers is slower (measured:
    experiments/results/speed.md).
    """
    transformers = "transformer" in (config.teacher.backbone, config.student.trunk)
    return OLDER_EMITTERS if transformers and _has_older_emitters() else None


@functools.cache
def _has_older_emitters() -> bool:
    """jaxlib 0.10 on a CPU; later ones refuse the option, other devices need none."""
    if jax.default_backend() != "cpu":
        return False
    try:
        jax.jit(lambda: 0, compiler_options=OLDER_EMITTERS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@functools.cache  # a listener that is there twice gives back twice
def give_back_after_compiling() -> None:
    """From now on, before and after a large program is compiled, returns what is left of others
    and of this to the system, where the C library is glibc: else the compiler's memory, or the
    program's arrays in its first run, come on top of it."""

    def heard(event: str, seconds: float, **_):
        if event in EVENTS and seconds > LEAST:
            give_back()

    jax.monitoring.register_event_duration_secs_listener(heard)


@contextlib.contextmanager
def given_back():
    """Returns what is left of a large program that is compiled and run here once."""
    start = time.perf_counter()
    yield
    if time.perf_counter() - start > LEAST:
        give_back()


def give_back() -> None:
    """Programs that nothing needs are in cycles, which Python frees when it comes to it; XLA's
    compiler frees small pieces among others that stay, and glibc keeps such pages."""
    gc.collect()
    if sys.platform != "linux":
        return
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
