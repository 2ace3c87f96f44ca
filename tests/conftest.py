"""Tests run on the CPU, with full float32 products, in float32 unless a test says otherwise."""

import os
import subprocess
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Most of a test's time is compilation, and most of that is spent by XLA on its newer emitters,
# which prepare anew for each of the hundreds of small loops of a program. Without them, and with
# nothing optimised, a step of distillation compiles in a quarter of the time.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
OLDER_EMITTERS = "--xla_cpu_use_fusion_emitters=false"


def known(flags: str) -> bool:
    """Whether this version has them: XLA ends a process that is given a flag it does not know."""
    return subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], capture_output=True,
                          env={**os.environ, "XLA_FLAGS": flags}).returncode == 0


# processes that share the tests, and those that tests start, inherit it
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = " ".join([
        os.environ.get("XLA_FLAGS", ""), QUICK, OLDER_EMITTERS * known(OLDER_EMITTERS)]).strip()

import jax  # noqa: E402

from vdd_jax import host_memory  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")
# A process that has run many tests holds gigabytes of programs: to look through them all, around
# each compilation, took half of its time.
host_memory.LEAST = float("inf")
