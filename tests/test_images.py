"""Tasks with images: what is seen, learned, taken over and acted on is the same everywhere."""

import json
import runpy
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import randomised
from tiny_config import less_is_measured

from vdd_jax import (
    checkpoint,
    closed_loop,
    config_rules,
    export,
    film,
    problem,
    stages,
    train_teacher,
)
from vdd_jax import config as config_lib
from vdd_jax import data as data_lib
from vdd_jax import policy as policy_lib
from vdd_jax.checkpoint import CheckpointError
from vdd_jax.config import ConfigError
from vdd_jax.data import fit_trajectory_scaler, take, windows
from vdd_jax.models import vision
from vdd_jax.policy import History
from vdd_jax.tasks import TASKS, cameras
from vdd_jax.tasks.planar import engine
from vdd_jax.types import SeenTrajectory

pytest_plugins = "smoke_run"
pytest.importorskip("mujoco", reason="mujoco is not installed")
SHAPE, FEATURES = (2, 8, 8, 3), 6
RNG = np.random.default_rng(0)


def episode(length, start):
    """Numbers that name their row, and images of the same number."""
    rows = np.arange(start, start + length, dtype=np.float32)
    images = np.broadcast_to(rows[:, None, None, None, None], (length, *SHAPE))
    return SeenTrajectory(rows[:, None] * [1.0, -2.0], rows[:, None], images.astype(np.uint8))


def sees(images):
    """Features that tell which row an image is of."""
    flat = images.reshape(*images.shape[:-4], -1).astype(jnp.float32)
    return flat[..., :FEATURES] * jnp.arange(1.0, FEATURES + 1)


EPISODES = [episode(4, 0), episode(1, 4), episode(6, 5)]


def test_windows_of_images_are_those_of_the_numbers():
    """Every row's window, the repeated first ones included, never of another episode."""
    scaler = fit_trajectory_scaler(EPISODES)
    batch = take(windows(EPISODES, scaler, 3), jnp.array([10, 0, 4, 1, 5, 3]))
    seen = scaler.unscale_observation(batch.observation.observations)[..., 0]
    np.testing.assert_allclose(batch.observation.images[..., 0, 0, 0, 0], seen, atol=1e-5)
    np.testing.assert_allclose(seen, [[8, 9, 10], [0, 0, 0], [4, 4, 4], [0, 0, 1], [5, 5, 5],
                                      [1, 2, 3]], atol=1e-5)


def test_encoded_windows_are_encodings_of_windows(monkeypatch):
    """Each image once, in parts of what is read at once, and the same as encoding whole windows."""
    monkeypatch.setattr(data_lib, "ENCODED_AT_ONCE", 2)
    monkeypatch.setattr(data_lib, "READ_AT_ONCE", 4)
    plain = fit_trajectory_scaler(EPISODES)
    scaler = plain._replace(encode=jax.tree_util.Partial(sees))
    rows = jnp.arange(11)
    found = windows(EPISODES, scaler, 3).observation
    raw = take(windows(EPISODES, plain, 3), rows).observation
    expected = raw.with_features(sees(raw.images))
    assert found.images is None and found.observations.shape == (11, 3, 2 + FEATURES)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # of the first rows of an episode nothing was before: no steps
    assert not np.asarray(found.steps[0]).any() and np.asarray(found.steps[1, -1, 2:]).all()
    again = scaler.context(*(scaler.unscale_observation(v) if i == 0 else v for i, v in enumerate(
        (raw.observations, raw.valid))), images=raw.images)
    np.testing.assert_allclose(again.observations, found.observations, atol=1e-5)


def test_the_rows_of_a_batch_are_shared_by_both_kinds():
    plain = fit_trajectory_scaler(EPISODES)
    key, step = jax.random.key(0), jnp.asarray(3)
    raw = data_lib.batch_at(windows(EPISODES, plain, 2), key, step, 8)
    ready = data_lib.batch_at(windows(EPISODES, plain._replace(
        encode=jax.tree_util.Partial(sees)), 2), key, step, 8)
    np.testing.assert_allclose(sees(raw.observation.images),
                               ready.observation.observations[..., 2:], atol=1e-6)


# ---- a run

def small():
    config = get_config("smoke")
    config.teacher.update(num_iterations=4, batch_size=4, check_every=4)
    config.distill.num_iterations = 4
    config.run.update(steps_per_dispatch=4, log_every=4, checkpoint_every=4, figures=False)
    return config


CONFIG = Path(__file__).parents[1] / "configs" / "images.py"
get_config = runpy.run_path(str(CONFIG))["get_config"]
LIMIT = 20  # control steps of an episode here


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """All stages, demonstrations recorded anew."""
    if not draws():
        pytest.skip("neither EGL nor OSMesa works here")
    folder = tmp_path_factory.mktemp("images")
    config, task = small(), TASKS["sorting_image"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setattr(task, "RULES", task.RULES._replace(limit=LIMIT))
        less_is_measured(patch)
        patch.setattr(train_teacher, "HELD_OUT_IMAGES", 8)
        problem._trajectories.cache_clear()
        report = stages.run(config, folder / "run")
        yield config, folder / "run", report
    problem._trajectories.cache_clear()


def draws() -> bool:
    try:
        return bool(cameras.opengl())
    except cameras.NoOpenGL:
        return False


def test_a_run(ran):
    _, workdir, report = ran
    assert report["teacher"]["simulator"].endswith("seen by two cameras")
    assert report["student"]["delivered"] >= 0 and report["student"]["latency_ms"]["p50"] > 0
    losses = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert any("held_out_loss" in line for line in losses)


def test_the_student_needs_no_teacher_and_sees_as_it_did(ran, tmp_path):
    """What it took over is in its own checkpoint, the same numbers."""
    config, workdir, _ = ran
    scaler = problem.load_teacher(config, workdir)[1]
    alone = tmp_path / "alone"
    shutil.copytree(workdir, alone)
    shutil.rmtree(alone / "teacher")
    student = policy_lib.load(alone)
    images = RNG.integers(0, 256, (3, 2, *student.images)).astype(np.uint8)
    np.testing.assert_array_equal(student.scaler.encode(images), scaler.encode(images))
    history = History(RNG.normal(size=(3, 2, 2)), images=images)
    q = student.mixture(history)
    moved = student.mixture(history._replace(images=images[::-1]))
    assert q.means.shape == (3, 2, 2)
    assert float(jnp.abs(q.means - moved.means).max()) > 0  # what is seen matters
    context = scaler.context(history.observations, images=images)
    expected = student.apply({"params": student.params}, context)
    np.testing.assert_allclose(expected.log_weights, q.log_weights, atol=1e-5)


def test_every_part_of_the_network_learns():
    """The encoder of each camera too, from a loss of actions; crops only in training."""
    config = small()
    model, example = problem.network(config), problem.example(config, seen=False)
    size = (4, *example.observation.images.shape[1:])
    context = jax.tree.map(lambda v: jnp.broadcast_to(v, (4, *v.shape[1:])), example.observation)
    context = context._replace(images=jnp.asarray(RNG.integers(0, 256, size), jnp.uint8))
    batch = example._replace(observation=context, action=jnp.asarray(RNG.normal(size=(4, 2))))
    params = randomised(jax.eval_shape(
        lambda: train_teacher.init(config.teacher, model, jax.random.key(0), example).params))
    loss = jax.jit(train_teacher.make_loss(config.teacher, model), static_argnums=3)
    drawn = train_teacher.draw(config.teacher, batch, *jax.random.split(jax.random.key(1)))
    keys = jax.random.split(jax.random.key(2))
    gradient = jax.jit(jax.grad(loss), static_argnums=3)(params, drawn, keys[0], True)
    for leaf in jax.tree.leaves(gradient["encoder"]):
        assert float(jnp.abs(leaf).max()) > 0
    plain = [loss(params, drawn, key, False) for key in keys]
    assert plain[0] == plain[1]
    assert loss(params, drawn, keys[0], True) != loss(params, drawn, keys[1], True)


def test_the_simulator_shows_what_the_policy_encodes(ran):
    """Features that an actor gets are those of images drawn from the states, at every step."""
    task, given = TASKS["sorting_image"], []
    rules = task.RULES
    starts = task.begin(task.draw_contexts(np.random.default_rng(0), 2), 2)

    def features(images):
        return images.reshape(len(images), -1)[:, ::97].astype(jnp.float32)

    encode = jax.tree_util.Partial(features)

    def actor(history, valid, key):
        jax.debug.callback(lambda h: given.append(np.array(h)), history, ordered=True)
        return jnp.full((2, 2), 0.004)

    found = [engine.rollout(rules, actor, jax.random.key(0), starts, 2, limit=4, threads=threads,
                            keep_states=True, encode=encode) for threads in (1, 2)]
    jax.effects_barrier()
    with rules.world(rules.scene, starts) as world:
        drawn = cameras.draw_all(world.model, found[0].states.reshape(8, -1))
    expected = features(drawn).reshape(2, 4, -1)
    for i in range(4):
        np.testing.assert_array_equal(given[i][:, -1, 2:], expected[:, i])
        np.testing.assert_allclose(given[i][:, -1, :2], found[0].observations[:, i], atol=1e-7)
        np.testing.assert_array_equal(given[4 + i], given[i])  # by any number of threads
    np.testing.assert_array_equal(given[1][:, 0], given[0][:, 1])  # the window
    assert found[0].observations.shape == (2, 4, 2)


def test_the_actor_of_a_run_is_its_policy(ran):
    """In closed loop features are observed; a policy encodes images itself: the same action."""
    config, workdir, _ = ran
    student = policy_lib.load(workdir)
    actor = closed_loop.of_student(config, student.apply, student.params, student.scaler,
                                   "most_likely_mean")
    images = RNG.integers(0, 256, (3, 2, *student.images)).astype(np.uint8)
    seen = RNG.normal(size=(3, 2, 2)).astype(np.float32)
    history = jnp.concatenate([seen, student.scaler.encode(images)], axis=-1)
    key = jax.random.key(0)
    np.testing.assert_allclose(
        actor(history, jnp.ones((3, 2), bool), key)[:, 0],
        student.act(History(seen, images=images), key, "most_likely_mean"), atol=1e-5)


def test_export_and_film(ran, tmp_path):
    _, workdir, _ = ran
    assert "images [B, 2, 2, 96, 96, 3]" in export.run(workdir, "stablehlo", tmp_path / "p")
    for form in ("onnx", "numpy"):
        with pytest.raises(export.ExportError, match="sees images; .* --format=stablehlo"):
            export.run(workdir, form, tmp_path / form)
    assert not (tmp_path / "onnx").exists() and not (tmp_path / "numpy").exists()
    pytest.importorskip("PIL", reason="Pillow is not installed")
    assert "after" in film.run(tmp_path / "f.png", None, workdir, "student", 0, 0)


def test_a_student_from_scratch_sees_as_the_teacher(ran, tmp_path):
    config, workdir, _ = ran
    ours = small()
    ours.stages, ours.teacher.workdir = ("from_scratch",), str(workdir)
    ours.from_scratch.update(method="em", num_iterations=4, batch_size=4)
    stages.run(ours, tmp_path / "run")
    student = policy_lib.load(tmp_path / "run")
    scaler = problem.load_teacher(config, workdir)[1]
    images = RNG.integers(0, 256, (1, 2, *student.images)).astype(np.uint8)
    np.testing.assert_array_equal(student.scaler.encode(images), scaler.encode(images))
    acted = student.act(History(np.zeros((1, 2, 2)), images=images), jax.random.key(0))
    assert acted.shape == (1, 2) and np.isfinite(acted).all()
    ours.teacher.workdir = str(tmp_path / "nobody")
    with pytest.raises(CheckpointError, match="holds no teacher"):
        stages.run(ours, tmp_path / "none")


# ---- what can be wrong

@pytest.mark.parametrize("change, words", [
    (lambda h: h._replace(images=None), r"this policy sees; give .*\[\.\.\., 2, 2, 96, 96, 3\]"),
    (lambda h: h._replace(images=h.images[:, :, :1]), r"the image has shape \(3, 2, 1, 96, 96, 3"),
    (lambda h: h._replace(images=h.images / 255.0), "the image should be of uint8, not float64"),
    (lambda h: h._replace(images=h.images[:2]), r"batch axes of the history do not agree"),
])
def test_wrong_images(ran, change, words):
    policy = policy_lib.load(ran[1])
    history = History(np.zeros((3, 2, 2)), images=np.zeros((3, 2, *policy.images), np.uint8))
    with pytest.raises(ValueError, match=words):
        policy.act(change(history), jax.random.key(0))


def test_a_teacher_that_sees_otherwise(ran):
    config, workdir, _ = ran
    other = small()
    other.teacher.vision.crop = 1.0
    other.teacher.workdir, other.stages = str(workdir), ("distill",)
    with pytest.raises(CheckpointError, match="sees by config.teacher.vision = .*'crop': 0.875"):
        problem.load_teacher(other, workdir)


def read(data):
    """All images of a data set."""
    return [np.asarray(batch.observation.images) for batch in (data.train, data.held_out)]


def test_recordings_without_images(ran, tmp_path):
    """One sentence, for a missing file, a damaged one, and one of another length."""
    _, workdir, _ = ran
    cache = workdir.parent / "vdd_jax" / "demonstrations"
    (recorded,) = cache.glob("*.npz")
    file = tmp_path / "own.npz"
    shutil.copy(recorded, file)
    config = small()
    config.task.demonstrations = str(file)
    with pytest.raises(problem.DataError, match=r"000000.npz is missing; .*record --images"):
        read(problem.data(config))
    shutil.copytree(recorded.with_suffix(".images"), tmp_path / "own.images")
    assert problem.data(config).about["episodes"] == 6
    problem._trajectories.cache_clear()
    third = tmp_path / "own.images" / "000003.npz"
    images = np.load(third)["images"]
    for content, words in ((images[1:], r"has images \(.*should be \("),
                           (images / 2, "of float64")):
        np.savez(third, images=content)
        with pytest.raises(problem.DataError, match=words):
            read(problem.data(config))
    third.write_bytes(third.read_bytes()[:100])
    with pytest.raises(problem.DataError, match="cannot be read"):
        read(problem.data(config))
    with pytest.raises(problem.DataError, match="cannot be read"):  # and before a run begins
        stages.run(config, tmp_path / "run")


def test_what_cannot_be_configured():
    for keys, words in (({"task.goal_length": 1}, "has no goals"),
                        ({"teacher.vision.channels": (16, 20)}, "multiples of 16")):
        config = small()
        config.update_from_flattened_dict(keys)
        with pytest.raises(ConfigError, match=words):
            config_lib.validate(config)


def test_the_published_encoder():
    """ResNet-18 with 64 features of each camera, as configured without a word."""
    config = get_config()
    assert vision.encoder(config.teacher) == vision.ImageEncoder()
    assert set(config_rules.WITH_IMAGES) == {n for n, t in TASKS.items()
                                             if getattr(getattr(t, "SPEC", None), "images", ())}


def test_only_students_with_images_have_an_encoder(ran):
    """Nothing else is kept with a checkpoint of a task without."""
    _, workdir, _ = ran
    for stage, there in (("teacher", False), ("distill", True)):
        with checkpoint.Checkpoints(workdir / stage / "checkpoints", read_only=True) as found:
            step = found.latest_step()
        assert (workdir / stage / "checkpoints" / str(step) / "encoder").exists() == there
