"""Metrics in TensorBoard's event files and in Weights & Biases, and what is said without them."""

import json
import struct
import sys
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from tiny_config import tiny

from vdd_jax import loggers, stages, training
from vdd_jax.config import ConfigError
from vdd_jax.data import fit_scaler
from vdd_jax.metrics import Log


def scalars(folder):
    """(tag, step) → values in the event files of a folder, and how many files there are."""
    from tensorboardX.proto import event_pb2

    found, files = {}, sorted(folder.iterdir())
    for file in files:
        content = file.read_bytes()
        while content:  # records: length, its checksum, the event, its checksum
            size = struct.unpack("<Q", content[:8])[0]
            event = event_pb2.Event.FromString(content[12 : 12 + size])
            for value in event.summary.value:
                found.setdefault((value.tag, event.step), []).append(value.simple_value)
            content = content[16 + size :]
    return found, len(files)


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_has_what_the_json_lines_have(tmp_path):
    """Of a run that was stopped and resumed too: one place, every record."""
    pytest.importorskip("tensorboardX", reason="needs the tensorboard extra")
    config = tiny(run__loggers=("tensorboard",))
    train(config, tmp_path, stop_at=8)
    train(config, tmp_path)
    found, files = scalars(tmp_path / "tensorboard")
    written = records(tmp_path)
    assert files == 2 and [r["step"] for r in written] == [4, 8, 12, 16, 20]
    expected = {(f"distill/{name}", r["step"]): value for r in written
                for name, value in r.items() if name not in ("stage", "step")}
    assert set(found) == set(expected)
    assert all(found[k] == [pytest.approx(v, rel=1e-5)] for k, v in expected.items())


class Count(NamedTuple):
    step: jax.Array


def train(config, workdir, **how):
    """The loop of every stage, about a number that is counted up."""
    def advance(state, num):
        return state._replace(step=state.step + num), {"loss": jnp.ones(num)}

    def look(state, done, metrics, log):
        log.record(done, {"loss": done / 2, "norm": 1.0})
        return state

    stage = training.Stage("distill", 20, lambda state: ({"nothing": state.step}, state._asdict()),
                           lambda params, rest: Count(**rest))
    training.run(stage, config, workdir, Count(jnp.zeros((), jnp.int32)), advance, look,
                 scaler=fit_scaler(jnp.zeros((2, 1)), jnp.zeros((2, 1))), **how)


@pytest.fixture
def fake(monkeypatch):
    """A module in the place of wandb (whose package is 20 MB) that notes what it is told."""
    calls = []

    def init(**given):
        calls.append(("init", given))
        return types.SimpleNamespace(
            define_metric=lambda *a, **k: calls.append(("define_metric", a, k)),
            log=lambda values: calls.append(("log", values)),
            finish=lambda: calls.append(("finish",)))

    module = types.ModuleType("wandb")
    module.init = init
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_is_one_run_for_all_stages_and_resumes(tmp_path, fake):
    """The identity is kept in the workdir; each stage counts its own steps."""
    config = tiny(run__loggers=("wandb",))
    loggers.check(config.run.loggers)
    for stage in ("teacher", "distill"):
        with Log(tmp_path / "m.jsonl", stage, 9, loggers=loggers.opened(config, tmp_path, stage)
                 ) as log:
            log.record(5, {"loss": 2.0})
    first, second = (call[1] for call in fake if call[0] == "init")
    assert first == second and first["resume"] == "allow" and len(first["id"]) == 8
    assert first["config"]["distill"]["num_iterations"] == 20
    assert [call[1] for call in fake if call[0] == "log"] == [
        {"teacher/step": 5, "teacher/loss": 2.0}, {"distill/step": 5, "distill/loss": 2.0}]
    assert fake[-1] == ("finish",)
    assert ("define_metric", ("distill/*",), {"step_metric": "distill/step"}) in fake


def test_only_the_first_process_logs(tmp_path, monkeypatch, fake):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert loggers.opened(tiny(run__loggers=("wandb",)), tmp_path, "distill") == []
    assert not fake and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, package", loggers.PACKAGES.items())
def test_what_is_not_installed_is_said_first(tmp_path, monkeypatch, name, package):
    """One sentence that names the extra; the workdir is not touched."""
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda wanted: None)
    with pytest.raises(ConfigError, match=rf"{package}: pip install 'vdd_jax\[{name}\]'"):
        stages.run(tiny(run__loggers=(name,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_by_default_there_are_none(tmp_path):
    assert loggers.opened(tiny(), tmp_path, "distill") == [] and not list(tmp_path.iterdir())
