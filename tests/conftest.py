"""Tests run on the CPU, with full float32 products, in float32 unless a test says otherwise."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of a test's time is compilation, of random numbers above all: optimise less.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=1"
    ).strip()

import jax  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")
