"""This library's distillation step on a mesh of devices, for the benchmark `scaling.py`."""

import os

from step import Job
from step_rows import Sizes


def build(sizes: Sizes, how: str, windows: int, device: str, precision: str, threads: int) -> Job:
    """The step over `how` = 'DATAxEXPERT' devices, teacher-forced (see `step_jax.build`)."""
    data, expert = map(int, how.split("x"))
    if device == "cpu":  # before JAX is imported: as many as the mesh has, on the same cores
        os.environ["XLA_FLAGS"] = " ".join([
            os.environ.get("XLA_FLAGS", ""),
            f"--xla_force_host_platform_device_count={data * expert}"])
    import step_jax

    return step_jax.build(sizes, "all", windows, device, precision, threads,
                          devices=data * expert, expert_parallel=expert)
