"""Checkpoints come back as they were saved, or with a sentence about which one cannot."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.checkpoint import FORMAT, CheckpointError, Checkpoints, abstract, write_json
from vdd_jax.data import Scaler

# TensorStore complains of what it had begun to read when a damaged checkpoint is given up
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SCALER = Scaler(
    *(jnp.asarray(v, jnp.float32) for v in ([0.1, 2], [3, 0.4], [5], [1e-3], [0.7])))
CONFIG = {"stage": "distill", "config": {"seed": 3}}


class Optimiser(NamedTuple):
    count: jax.Array
    mu: dict


def trees(seed=0):
    rng = np.random.default_rng(seed)
    params = {"experts": {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)},
              "gating": {"bias": jnp.asarray(rng.normal(size=3), jnp.bfloat16)}}
    train = {"step": jnp.asarray(seed, jnp.int32),
             "opt": (Optimiser(jnp.asarray(7, jnp.int32), {"kernel": jnp.ones(2)}), ())}
    return params, train


def save(directory, *steps, config=CONFIG, **options):
    with Checkpoints(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, *trees(step), SCALER, config)


def test_a_scaler_of_angles(tmp_path):
    """Which numbers are tangents is kept where some are; without there is nothing of it."""
    angles = SCALER._replace(tangents=jnp.asarray([1.0]))
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, *trees(1), angles, CONFIG)
        checkpoints.save(2, *trees(2), SCALER, CONFIG)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        for step, scaler in ((1, angles), (2, SCALER)):
            equal(checkpoints.restore_scaler_and_config(step)[0], scaler)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x, np.float64), np.asarray(y, np.float64))


def restore_everything(directory, step=None):
    params, train = trees()
    with Checkpoints(directory, read_only=True) as checkpoints:
        restored = checkpoints.restore_training(abstract(params), abstract(train), step)
        return *restored, *checkpoints.restore_scaler_and_config(step)


def test_round_trip(tmp_path):
    """Every array of every type, the structure of the optimiser, the scaler, the configuration."""
    save(tmp_path / "c", 5)
    params, train, scaler, config = restore_everything(tmp_path / "c")
    equal((params, train), trees(5))
    equal(scaler, SCALER)
    assert config == {"format": FORMAT, **CONFIG}
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        equal(checkpoints.restore_params(abstract(trees()[0])), trees(5)[0])


def test_the_latest_and_any_other_that_is_kept(tmp_path):
    """`keep` of them; the latest unless another is asked for."""
    save(tmp_path / "c", 1, 2, 3, keep=2)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 3
    equal(restore_everything(tmp_path / "c")[0], trees(3)[0])
    equal(restore_everything(tmp_path / "c", 2)[0], trees(2)[0])
    with pytest.raises(CheckpointError, match="c/1"):
        restore_everything(tmp_path / "c", 1)
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"2", "3"}


def test_a_step_that_is_there_is_left_as_it_is(tmp_path):
    """Saving a step twice keeps the first, without complaint."""
    save(tmp_path / "c", 5)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(5, *trees(6), SCALER, CONFIG)
    equal(restore_everything(tmp_path / "c")[0], trees(5)[0])


def test_reading_changes_nothing(tmp_path):
    """Restoring deletes no old checkpoint and writes no file."""
    save(tmp_path / "c", 1, 2, keep=2)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*")}
    restore_everything(tmp_path / "c")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*")}


def test_missing(tmp_path):
    """No directory, a file in its place, an empty one: each refused by name, none created."""
    (tmp_path / "file").write_text("")
    for name in ("no", "file"):
        with pytest.raises(CheckpointError, match=f"no checkpoint in .*{name}"):
            Checkpoints(tmp_path / name, read_only=True)
    assert not (tmp_path / "no").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no complete checkpoint in .*empty"):
        restore_everything(tmp_path / "empty")


def garbage(file):
    file.write_bytes(b"\x00garbage" * 20)


def truncated(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("harm", [garbage, truncated, lambda file: file.unlink()],
                         ids=["garbage", "truncated", "deleted"])
@pytest.mark.parametrize("item", ["params", "train", "scaler", "config"])
def test_damage_is_reported_with_the_place(tmp_path, item, harm):
    """Any item, damaged in any way: a CheckpointError that names the checkpoint."""
    save(tmp_path / "c", 5)
    files = [f for f in (tmp_path / "c" / "5" / item).rglob("*")
             if f.is_file() and f.name != "commit_success.txt"]
    assert files
    for file in files:
        harm(file)
    with pytest.raises(CheckpointError, match="c/5 is damaged|checkpoint in .*c"):
        restore_everything(tmp_path / "c")


@pytest.mark.parametrize("change", [
    lambda p: {**p, "experts": {"kernel": jnp.zeros((3, 5))}},
    lambda p: {**p, "experts": {"kernel": jnp.zeros((2, 4))}},
    lambda p: {"experts": p["experts"]},
    lambda p: {**p, "more": jnp.zeros(2)},
    lambda p: {**p, "experts": {"weight": jnp.zeros((3, 4))}},
], ids=["wider", "fewer", "without a group", "with another", "renamed"])
def test_another_architecture_is_refused(tmp_path, change):
    """Nothing is padded, cut, or left at its initial value."""
    save(tmp_path / "c", 5)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match="c/5 .*another model"):
            checkpoints.restore_params(abstract(change(trees()[0])))


@pytest.mark.parametrize("stored", [99, None])
def test_another_format_is_refused(tmp_path, stored):
    """The format found and the format read are named."""
    save(tmp_path / "c", 5, config={"format": stored})
    with pytest.raises(CheckpointError, match=f"format {stored}; this version reads format 1"):
        restore_everything(tmp_path / "c")


@pytest.mark.parametrize("content", [[], {"mean": [0.0]}, {"action_mean": "x"}, 3])
def test_a_scaler_of_something_else_is_refused(tmp_path, content):
    """A checkpoint of another program may have any JSON there."""
    save(tmp_path / "c", 5)
    (file,) = (tmp_path / "c" / "5" / "scaler").glob("metadata")
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="scaler of the checkpoint in .*c is not"):
        restore_everything(tmp_path / "c")


def test_abstract_trees_keep_the_placement():
    """Shape, type and sharding of arrays; the given sharding for what has none."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree = {"a": jnp.zeros((2, 3), jnp.bfloat16), "b": jax.ShapeDtypeStruct((4,), jnp.int32)}
    found = abstract(tree, place)
    assert found["a"].shape == (2, 3) and found["a"].dtype == jnp.bfloat16
    assert found["a"].sharding == tree["a"].sharding
    assert found["b"].shape == (4,) and found["b"].sharding == place


def test_json_files_are_written_whole_or_not_at_all(tmp_path):
    """What cannot be written leaves the old file, and nothing beside it."""
    file = tmp_path / "deep" / "report.json"
    write_json(file, {"a": [1, 2]})
    assert json.loads(file.read_text()) == {"a": [1, 2]}
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": [1, 2]}
    write_json(file, {"a": 3})
    assert json.loads(file.read_text()) == {"a": 3}
    assert [p.name for p in file.parent.iterdir()] == ["report.json"]
