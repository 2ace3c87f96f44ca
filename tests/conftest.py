"""Tests run on the CPU, with full float32 products, in float32 unless a test says otherwise."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of a test's time is compilation, of random numbers above all: optimise less.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=1"
    ).strip()

import jax  # noqa: E402

from vdd_jax import host_memory  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")
# A process that has run many tests holds gigabytes of programs: to look through them all, around
# each compilation, took half of its time.
host_memory.LEAST = float("inf")
