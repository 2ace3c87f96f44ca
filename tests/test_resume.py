"""A run that was stopped, killed or disturbed goes on to the very same numbers."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import tiny

from vdd_jax import checkpoint, distill, problem

pytest_plugins = "smoke_run"

ROOT = Path(__file__).parents[1]


def state_of(workdir):
    """Every array of the last checkpoint, by its place."""
    config = tiny()
    model = problem.student(config)
    shapes = jax.eval_shape(
        lambda: distill.init(config.distill, model, jax.random.key(0), jnp.zeros((1, 1))))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    train = {k: getattr(shapes, k) for k in ("step", "expert_opt", "gating_opt")}
    with checkpoint.Checkpoints(checkpoints(workdir), read_only=True) as saved:
        assert saved.latest_step() == 20
        restored = saved.restore_training(checkpoint.abstract(shapes.params, place),
                                          checkpoint.abstract(train, place))
    return {jax.tree_util.keystr(k): np.asarray(v)
            for k, v in jax.tree_util.tree_leaves_with_path(restored)}


def checkpoints(workdir) -> Path:
    return workdir / "distill" / "checkpoints"


def names(workdir) -> set[str]:
    return {p.name for p in checkpoints(workdir).iterdir()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """All arrays of parameters and optimisers of a run from 0 to 20."""
    workdir = tmp_path_factory.mktemp("whole")
    distill.run(tiny(), workdir)
    arrays = state_of(workdir)
    assert len(arrays) > 30 and any("mu" in name for name in arrays)
    return arrays


def bit_equal(workdir, expected):
    found = state_of(workdir)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_stopping_and_resuming_is_bit_equal(uninterrupted, tmp_path):
    """Stopped at two places, on and off the beat of checkpoints, then run to the end."""
    for stop in (8, 12):
        distill.run(tiny(), tmp_path, stop_at=stop)
        assert str(stop) in names(tmp_path) and not distill.finished(tiny(), tmp_path)
    distill.run(tiny(), tmp_path)
    assert distill.finished(tiny(), tmp_path)
    bit_equal(tmp_path, uninterrupted)


def test_an_interrupted_run_is_not_the_finished_one(uninterrupted, tmp_path):
    """The comparison of these tests can fail: another seed gives other numbers everywhere."""
    distill.run(tiny(seed=1), tmp_path)
    found = state_of(tmp_path)
    assert all(np.any(found[name] != value) for name, value in uninterrupted.items()
               if value.ndim)


def test_a_finished_run_is_left_alone(uninterrupted, tmp_path):
    """Called again it returns at once, writes no metrics and no checkpoint."""
    distill.run(tiny(), tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    distill.run(tiny(), tmp_path)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


def test_half_written_checkpoints_are_ignored(uninterrupted, tmp_path):
    """What a kill in the middle of a save leaves is not taken for a checkpoint."""
    distill.run(tiny(), tmp_path, stop_at=8)
    for name in ("12.orbax-checkpoint-tmp-1234567890", "12.orbax-checkpoint-tmp"):
        stray = checkpoints(tmp_path) / name / "params.orbax-checkpoint-tmp-1"
        stray.mkdir(parents=True)
        (stray / "manifest.ocdbt").write_bytes(b"half a manif")
    with checkpoint.Checkpoints(checkpoints(tmp_path), read_only=True) as saved:
        assert saved.latest_step() == 8
    distill.run(tiny(), tmp_path)
    bit_equal(tmp_path, uninterrupted)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    """Training does not start over silently, nor from garbage."""
    distill.run(tiny(), tmp_path, stop_at=8)
    for file in (checkpoints(tmp_path) / "8" / "train").rglob("*"):
        if file.is_file():
            file.write_bytes(b"garbage")
    with pytest.raises(checkpoint.CheckpointError, match="checkpoints/8 is damaged"):
        distill.run(tiny(), tmp_path)
    assert names(tmp_path) == {"8"}


KILLED = """
import sys, time
from pathlib import Path
from tiny_config import tiny
from vdd_jax import distill
distill.check_finite = lambda *_: time.sleep(0.5)  # time to be killed in
distill.run(tiny(), Path(sys.argv[1]))
"""


def test_a_killed_run_resumes_bit_equal(uninterrupted, tmp_path):
    """SIGKILL in the middle of training, as soon as there is a checkpoint."""
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
    try:
        deadline = time.monotonic() + 180
        while not (checkpoints(tmp_path) / "8").exists():
            assert process.poll() is None, process.stderr.read().decode()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert process.returncode == -9
    assert "20" not in names(tmp_path)
    distill.run(tiny(), tmp_path)
    bit_equal(tmp_path, uninterrupted)
    steps = [json.loads(line)["step"]
             for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps[0] == 8 and steps[-1] == 20
