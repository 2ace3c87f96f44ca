"""What several test files share: finished runs, and a compilation cache.

A test file that uses a fixture of this one says `pytest_plugins = "smoke_run"`.
"""

import contextlib
import fcntl
import io
import json
import os
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict
from tiny_config import less_is_measured, tiny, tiny_avoiding

from vdd_jax import policy as policy_lib
from vdd_jax import stages


@pytest.fixture(scope="session", autouse=True)
def remember_compiled_programs(tmp_path_factory):
    """Most of a test's time is compilation; runs of one configuration compile once a session, in
    whichever of the processes that share the tests."""
    folder = str(shared(tmp_path_factory) / "xla")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()
    # for the processes that tests start: the same numbers from the same programs
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"


class Finished(NamedTuple):
    config: ConfigDict
    workdir: Path
    report: dict
    printed: str


def shared(tmp_path_factory) -> Path:
    """A folder for all processes that share the tests."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def run_once(folder: Path, config: ConfigDict) -> Finished:
    """The run in `folder`: made by the first process that asks, the others wait for it."""
    folder.mkdir(exist_ok=True)
    workdir, printed = folder / "run", folder / "printed.txt"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                stages.run(config, workdir)
            printed.write_text(out.getvalue())
    report = json.loads((workdir / "report.json").read_text())
    return Finished(config, workdir, report, printed.read_text())


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Finished:
    """A run that was left to converge; tests that damage it work on a copy."""
    return run_once(shared(tmp_path_factory) / "finished", tiny(
        distill__num_iterations=800, distill__batch_size=32, distill__samples_per_state=4,
        student__trunk_width=32, student__head_width=32,
        distill__learning_rate=5e-3, evaluate__num_samples=4_000, run__figures=True,
        run__steps_per_dispatch=400, run__log_every=400, run__checkpoint_every=400,
        run__num_snapshots=3,
    ))


@pytest.fixture(scope="session")
def policy(finished):
    """Its student."""
    return policy_lib.load(finished.workdir)


@pytest.fixture(scope="session")
def finished_avoiding(tmp_path_factory) -> Finished:
    """All three stages in Avoiding, of networks that have learned next to nothing."""
    with pytest.MonkeyPatch.context() as patch:
        less_is_measured(patch)
        return run_once(shared(tmp_path_factory) / "finished_avoiding", tiny_avoiding())
