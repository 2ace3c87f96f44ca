"""One device, eight in one process, four in each of two processes: the same training; and a run
that is killed goes on elsewhere."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_config import tiny_avoiding

from vdd_jax import distill, evaluate_closed_loop, problem, sharding
from vdd_jax.baselines import consistency, from_scratch

pytest_plugins = "smoke_run"

TESTS = Path(__file__).parent
CONFIG = f"""
import sys

sys.path.insert(0, {str(TESTS)!r})
from tiny_config import tiny_avoiding


def get_config():
    config = tiny_avoiding(student__num_experts=4, distill__batch_size=8, distill__warm_start=0.5,
                           distill__warm_batch_size=16, distill__likelihood_weight=1.0,
                           student__trunk="transformer", student__dropout=0.1,
                           teacher__dropout=0.1, teacher__backbone="transformer",
                           teacher__window="all", distill__window="all",
                           distill__gating_update="together")
    config.stages = ("train_teacher", "distill")
    config.run.log_every = config.run.checkpoint_every = config.run.steps_per_dispatch = 4
    return config
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(devices: int) -> dict:
    """Of a process of so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags}


def start(folder: Path, workdir: Path, devices: int, *flags, processes: int = 1, **options):
    """The processes of a run, started: each has `devices` devices."""
    config = folder / "config.py"
    config.write_text(CONFIG)
    port = free_port()
    env = environment(devices)
    command = [sys.executable, "-m", "vdd_jax.main", f"--config={config}", f"--workdir={workdir}",
               *flags]
    together = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"]
    return [
        subprocess.Popen(
            command + (together + [f"--process_id={i}"] if processes > 1 else []),
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        for i in range(processes)
    ]


def end(started, code: int = 0) -> list[tuple[str, str]]:
    """What each process printed."""
    said = [process.communicate(timeout=600) for process in started]
    for process, (_, error) in zip(started, said, strict=True):
        assert process.returncode == code, error[-3_000:]
    return said


def losses(workdir: Path) -> dict:
    """Every logged number by stage, step and name; the last time it was logged."""
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {(r["stage"], r["step"], name): value for r in records for name, value in r.items()
            if isinstance(value, float)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("alone")
    end(start(folder, folder / "run", 1))
    found = losses(folder / "run")
    assert {step for stage, step, name in found if name == "loss"} == {8, 16, 20}
    assert {step for stage, step, name in found if name == "nll"} == {4, 8, 12, 16, 20}
    return found


def agree(found: dict, expected: dict):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=str(name))


def test_eight_devices_train_what_one_does(alone, tmp_path):
    """The batch in four parts, the experts in two."""
    [(out, _)] = end(start(tmp_path, tmp_path / "run", 8, "--config.run.expert_parallel=2"))
    assert "8 × cpu (cpu); batch in 4 parts, experts in 2" in out
    assert "batch       2 states × 2 experts × 2 samples per device" in out
    agree(losses(tmp_path / "run"), alone)


def test_two_processes_train_what_one_device_does_and_the_first_one_speaks(alone, tmp_path):
    """Every device with a share of the data set; killed in mid-distillation by signal 9, then gone
    on with by one process on one device, with the whole."""
    workdir = tmp_path / "run"
    running = start(tmp_path, workdir, 4, "--config.run.split_data=True", processes=2)
    deadline = time.monotonic() + 500
    while not list((workdir / "distill" / "checkpoints").glob("[0-9]*")):
        assert time.monotonic() < deadline and all(p.poll() is None for p in running), [
            p.communicate() for p in running if p.poll() is not None]
        time.sleep(0.05)
    for process in running:
        process.send_signal(signal.SIGKILL)
    (out, _), (silent, _) = (process.communicate() for process in running)
    assert "8 × cpu (cpu) in 2 processes" in out
    # Gloo's own words: its threads print into one another's lines
    words = (r"\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of|"
             r"connected peer ranks is :|\d|\s")
    assert not re.sub(words, "", silent), silent
    before = losses(workdir)
    agree(before, {name: alone[name] for name in before})
    assert ("teacher", 20, "loss") in before
    end(start(tmp_path, workdir, 1))
    agree(losses(workdir), alone)


SHARES = """
import sys
import jax, numpy as np
port, index = sys.argv[1:]
jax.distributed.initialize("127.0.0.1:" + port, 2, int(index))
from tiny_config import tiny_avoiding
from vdd_jax import sharding
from vdd_jax.data import batch_at, encoded, fit_trajectory_scaler, windows
from vdd_jax.frames import Frames, Stored
from vdd_jax.types import SeenTrajectory

read, rng = [], np.random.default_rng(0)
numbers = rng.normal(size=(4, 2, 2))
whole = rng.integers(0, 256, (4, 2, 2, 2, 2, 3)).astype(np.uint8)


def reading(i):
    read.append(i)
    return whole[i]


def data(images):
    seen = [SeenTrajectory(numbers[i], -numbers[i], images(i)) for i in range(4)]
    return windows(seen, fit_trajectory_scaler(seen), 2)


mesh = sharding.make_mesh(tiny_avoiding())
there, draw = sharding.resident(
    data(lambda i: Stored(whole[i].shape, lambda: reading(i))), mesh, True)
assert sorted(set(read)) == [[0, 1], [2, 3]][jax.process_index()], read
key = jax.random.key(0)
found = jax.jit(lambda d, k: draw(d, k, 3, 4))(there, sharding.everywhere(key, mesh))
expected = batch_at(data(lambda i: whole[i]), key, 3, 4)
np.testing.assert_array_equal(sharding.here(found.observation.images, mesh),
                              expected.observation.images)

# seven images, which two do not divide: four here, three there
read.clear()
see = jax.tree_util.Partial(lambda images: images.reshape(len(images), -1)[:, :5] / 255)
later = (Stored(whole[i].shape, lambda i=i: reading(i)) for i in (1, 2, 3))
frames = Frames([whole[0][:1], *later])
features = sharding.encoded_together(frames, see)
assert sorted(set(read)) == [[1, 2], [2, 3]][jax.process_index()], read
np.testing.assert_array_equal(features, encoded(frames, see))
print("fine")
"""


def test_a_process_reads_the_images_that_its_devices_hold():
    """Two processes of two devices: each two of four episodes; batches are of all of them. And it
    encodes its part of the images alone, whose features all have."""
    port = free_port()
    running = [subprocess.Popen(
        [sys.executable, "-c", SHARES, str(port), str(i)], cwd=TESTS, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(2)) for i in range(2)]
    for out, error in end(running):
        assert out.endswith("fine\n"), error[-3_000:]


@pytest.mark.parametrize("stage", [distill, consistency, from_scratch])
def test_every_stage_that_encodes_images_does_so_together(stage, monkeypatch, tmp_path):
    """It is what all processes run; of evaluation, which the first may run alone, it is not."""
    asked = []

    class Enough(Exception):
        pass

    def of(*given, encoder=None):
        asked.append(encoder or given[-1])
        raise Enough

    monkeypatch.setattr(problem, "build", of)
    monkeypatch.setattr(problem, "demonstrations", of)
    with pytest.raises(Enough):
        stage.run(tiny_avoiding(), tmp_path)
    assert asked == [sharding.encoded_together]
    with pytest.raises(Enough):
        evaluate_closed_loop.evaluate(tiny_avoiding(), tmp_path)
    assert asked[1] is not sharding.encoded_together


def test_a_notice_to_leave_saves_and_the_same_command_goes_on(alone, tmp_path):
    """SIGTERM in training: exit status 75, and nothing is lost."""
    workdir = tmp_path / "run"
    [running] = start(tmp_path, workdir, 1)
    while not (workdir / "teacher" / "checkpoints").exists():
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    time.sleep(0.5)  # the handler is set a moment later
    running.send_signal(signal.SIGTERM)
    _, error = running.communicate(timeout=300)
    assert running.returncode == 75, error[-3_000:]
    assert re.search(r"asked to stop at step \d+ of 20 of teacher; saved", error)
    end(start(tmp_path, workdir, 1))
    agree(losses(workdir), alone)


def test_devices_that_do_not_divide_are_told_what_would(tmp_path):
    [(_, error)] = end(start(tmp_path, tmp_path / "run", 6, "--config.run.expert_parallel=2",
                             "--config.student.num_experts=3"), 1)
    assert error.splitlines() == [
        "error: config.student.num_experts is 3, which config.run.expert_parallel = 2 does not "
        "divide; 2 or 4 experts would do",
        "config.teacher.batch_size is 16, which 3 devices do not divide; 15 or 18 would do, or "
        "fewer config.run.devices",
        "config.distill.batch_size is 8, which 3 devices do not divide; 6 or 9 would do, or "
        "fewer config.run.devices",
        "config.distill.warm_batch_size is 16, which 3 devices do not divide; 15 or 18 would do, "
        "or fewer config.run.devices",
    ]
    assert not (tmp_path / "run").exists()
    [(_, error)] = end(start(tmp_path, tmp_path / "run", 6, "--config.run.expert_parallel=4"), 1)
    assert "does not divide 6 devices; 2 or 3 would" in error
