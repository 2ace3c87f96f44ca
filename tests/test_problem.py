"""What every stage starts from is rebuilt from the configuration, and a checkpoint, alone."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import randomised
from tiny_config import changed, tiny, tiny_avoiding

from vdd_jax import checkpoint, distill, noise_levels, problem, teachers
from vdd_jax import config as config_lib
from vdd_jax.checkpoint import CheckpointError
from vdd_jax.config import ConfigError
from vdd_jax.core import mixture
from vdd_jax.data import fit_trajectory_scaler, windows
from vdd_jax.models import denoiser
from vdd_jax.tasks import avoiding, toy

NOWHERE = Path("nowhere")  # an exact teacher is in no directory


@pytest.fixture(scope="module")
def built():
    return problem.build(tiny(), NOWHERE)


def test_sizes(built):
    """As many pairs as asked for, and held-out pairs that are no part of them."""
    assert built.data.action.shape == (200, 2) and built.data.observation.shape == (200, 1)
    assert built.held_out.action.shape == (problem.HELD_OUT, 2)
    train = {tuple(row) for row in np.asarray(built.data.action)}
    assert not train & {tuple(row) for row in np.asarray(built.held_out.action)}
    assert built.spec == toy.spec(tiny().task)


def test_the_scaler_is_fitted_to_the_training_data(built):
    """Training data is at mean 0 and std 1 to rounding; held-out data is near."""
    for part in built.data:
        np.testing.assert_allclose(part.mean(0), 0.0, atol=1e-4)
        np.testing.assert_allclose(part.std(0), 1.0, atol=1e-4)
    for part in built.held_out:
        assert 1e-4 < np.abs(part.mean(0)).max() < 0.3


def test_the_problem_does_not_depend_on_the_seed(built):
    """Runs of several seeds distil the same teacher from the same data."""
    other = problem.build(tiny(seed=1), NOWHERE)
    np.testing.assert_array_equal(built.data.action, other.data.action)
    np.testing.assert_array_equal(built.held_out.observation, other.held_out.observation)


def test_the_teacher_is_the_law_of_the_scaled_data(built):
    """Held-out actions are as likely under the teacher as its own samples, in scaled units."""
    @jax.jit
    def likelihoods(observation, action, key):
        density = built.teacher.density(observation)
        own = mixture.sample(density, key)
        return mixture.log_prob(density, action).mean(), mixture.log_prob(density, own).mean()

    data, own = likelihoods(*built.held_out, jax.random.key(0))
    assert abs(float(data - own)) < 0.1


def test_unscaled(built):
    """With `scaler = 'none'` data and teacher are in the task's units."""
    raw = problem.build(tiny(task__scaler="none"), NOWHERE)
    np.testing.assert_allclose(built.scaler.unscale_action(built.data.action), raw.data.action,
                               atol=1e-5)
    observation = jnp.zeros((1,))
    np.testing.assert_allclose(raw.teacher.density(observation).means,
                               toy.density(tiny().task)(observation).means, rtol=1e-6)


def test_the_student_has_the_sizes_of_the_configuration():
    """Every field is handed on."""
    config = tiny(student__num_experts=3, student__activation="relu", student__std_floor=0.25,
                  student__covariance="diagonal", student__gating="uniform")
    model = problem.student(config)
    assert model.action_dim == 2 and problem.student(tiny(task__name="toy1d")).action_dim == 1
    chunks = tiny(task__name="avoiding", task__chunk=3)
    assert problem.student(chunks).action_dim == 6
    for name, value in config.student.to_dict().items():
        assert getattr(model, name) == value


# ---- a task with trajectories, and a teacher from a checkpoint


def test_demonstrations_are_split_by_episode():
    """Held-out episodes are no part of training, nor of the scaler; together they are all."""
    config = tiny_avoiding(task__held_out=0.25)
    found = problem.data(config)
    trajectories, _ = avoiding.load(config.task)
    about = found.about
    assert (about["training_episodes"], about["held_out_episodes"]) == (18, 6)
    assert about["training_steps"] == len(found.train.action)
    raw = found.scaler.unscale_observation(found.train.observation.observations[:, -1])
    kept = [t for t in trajectories if np.abs(t.observations[0] - raw).max(-1).min() < 1e-5]
    assert len(kept) == 18
    scaler = fit_trajectory_scaler(kept, clip_actions=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found.scaler, scaler)
    held_out = windows([t for t in trajectories if not any(t is k for k in kept)], scaler, 2)
    assert len(held_out.action) == len(found.held_out.action)
    np.testing.assert_allclose(held_out.action, found.held_out.action, rtol=1e-4, atol=1e-5)


def test_the_example_has_the_shapes_of_the_data():
    """A batch of one, with windows, chunks and goals, and without."""
    for config in (tiny_avoiding(task__chunk=2, task__goal_length=3), tiny_avoiding(), tiny()):
        data = problem.data(config).train
        shapes = jax.tree.map(lambda v: (v.shape[1:], v.dtype), data)
        assert jax.tree.map(lambda v: (v.shape[1:], v.dtype), problem.example(config)) == shapes
        assert all(len(v) == 1 for v in jax.tree.leaves(problem.example(config)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints with other numbers for the average, the last and the best parameters."""
    config = tiny_avoiding()
    model = denoiser.build(config.teacher, 2)
    shapes = jax.eval_shape(lambda: denoiser.init(
        config.teacher, model, jax.random.key(0), problem.example(config)))
    params = {name: randomised(shapes, seed=i) for i, name in enumerate(("ema", "raw", "best"))}
    scaler = problem.data(config).scaler

    def save(**values):
        workdir = tmp_path_factory.mktemp("trained")
        stored = json.loads(config_lib.to_json(tiny_avoiding(**values)))
        with checkpoint.Checkpoints(workdir / "teacher" / "checkpoints") as checkpoints:
            checkpoints.save(20, params, {"step": jnp.asarray(20)}, scaler, {"config": stored})
        (workdir / "teacher" / "finished.json").write_text("{}")
        return workdir

    return params, scaler, save


@pytest.mark.parametrize("select, which", [
    ("last", "ema"), ("raw", "raw"), ("held_out_loss", "best")])
def test_the_teacher_is_the_one_that_is_selected(trained, select, which):
    """`teacher.select` of the run that trained it says which parameters denoise; its scaler is
    the one it was trained with."""
    params, scaler, save = trained
    workdir = save(teacher__select=select)
    teacher, loaded, settings = problem.load_teacher(tiny_avoiding(), workdir)
    jax.tree.map(np.testing.assert_array_equal, loaded, scaler)
    assert settings.teacher.select == select
    seen = problem.example(tiny_avoiding()).observation
    x, t = jnp.array([[0.3, -0.8]]), jnp.array([0.7])
    found = {name: np.asarray(teachers.from_network(settings.teacher, p, 2).denoise(x, seen, t))
             for name, p in params.items()}
    np.testing.assert_array_equal(teacher.denoise(x, seen, t), found.pop(which))
    assert all(np.abs(teacher.denoise(x, seen, t) - v).max() > 1e-3 for v in found.values())


@pytest.mark.parametrize(("devices", "fused"), [(1, True), (2, False)])
def test_kernels_are_for_programs_of_one_device(trained, devices, fused, monkeypatch):
    """A compiler cannot split them; the same teacher with other parameters keeps to that."""
    seen, build = [], denoiser.build
    monkeypatch.setattr(denoiser, "build", lambda *given, **images: (
        seen.append(given[3:]) or build(*given, **images)))
    config = tiny_avoiding(run__devices=devices)
    teacher, *_ = problem.load_teacher(config, trained[2]())
    teacher.of(teacher.params)
    assert [flag for (flag,) in filter(None, seen)] == [fused, fused]


def test_a_teacher_of_another_run(trained):
    """With `teacher.workdir` the teacher, its scaler and its settings come from there."""
    workdir = trained[2]()
    config = tiny_avoiding(teacher__workdir=str(workdir), teacher__width=99)
    built = problem.build(config, NOWHERE)
    assert built.teacher_config.width == 8
    jax.tree.map(np.testing.assert_array_equal, built.scaler, trained[1])


@pytest.mark.parametrize("key, theirs, ours", [
    ("window", 2, 3), ("chunk", 1, 2), ("goal_length", 0, 1)])
def test_a_teacher_of_another_task(trained, key, theirs, ours):
    """One sentence says what it was trained with and what is asked for."""
    config = changed(tiny_avoiding(), **{f"task__{key}": ours})
    with pytest.raises(CheckpointError) as caught:
        problem.load_teacher(config, trained[2]())
    text = str(caught.value)
    assert f"trained with config.task.{key} = {theirs}, but it is {ours} here" in text
    assert "\n" not in text


@pytest.mark.parametrize("theirs, ours, same", [
    (("eef", "object"), ("object", "eef"), False), (("eef",), ("eef",), True),
    ((), ("eef",), True)])
def test_a_teacher_of_other_arrays(theirs, ours, same):
    """As many numbers, but not the same ones: told by their names, where both have some."""
    sizes = {"task__name": "recorded", "task__observation_dim": 6, "task__action_dim": 2}
    configs = [tiny_avoiding(**sizes, task__observation_keys=keys) for keys in (theirs, ours)]
    if same:
        problem._check_same_task(*configs, NOWHERE)
    else:
        with pytest.raises(CheckpointError, match="observation_keys = .'eef', 'object'., but it"):
            problem._check_same_task(*configs, NOWHERE)


def test_a_teacher_that_is_not_finished(trained):
    """A run that was stopped in the middle is no teacher yet; the sentence says how to go on."""
    workdir = trained[2](teacher__num_iterations=90)
    (workdir / "teacher" / "finished.json").unlink()
    with pytest.raises(CheckpointError, match=r"not finished \(step 20 of 90\); .* goes on"):
        problem.load_teacher(tiny_avoiding(), workdir)


def test_the_teacher_of_a_run_that_had_it_from_another(trained, tmp_path):
    """Students of one teacher can be compared with one another by naming any of their runs."""
    workdir = trained[2]()
    for name, teacher in (("student", workdir), ("rival", tmp_path / "student")):
        config = tiny_avoiding(teacher__workdir=str(teacher), stages=("distill",))
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config.to_dict()))
        assert problem.teacher_workdir(config, tmp_path / name) == workdir
    found = problem.load_teacher(tiny_avoiding(teacher__workdir=str(tmp_path / "rival")), NOWHERE)
    assert jax.tree.leaves(found[0].params)
    # two that name each other have none
    config = tiny_avoiding(teacher__workdir=str(tmp_path / "rival"), stages=("distill",))
    (tmp_path / "student" / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(CheckpointError, match="holds no teacher"):
        problem.load_teacher(config, NOWHERE)


def test_no_teacher(tmp_path):
    """Says what to run, or where to look; so does a directory with no complete checkpoint."""
    with pytest.raises(CheckpointError, match="holds no teacher; run the stage 'train_teacher'"):
        problem.build(tiny_avoiding(), tmp_path)
    (tmp_path / "teacher" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        problem.build(tiny_avoiding(), tmp_path)


@pytest.mark.parametrize("noise, words", [
    ({"low": 0.01}, r"noise\.low is 0\.01; the teacher was trained at .*from 0\.05 to 5"),
    ({"high": 9.0}, r"noise\.high is 9; "),
    ({"kind": "discrete", "steps": (1.0, 5.1)}, r"noise\.steps is \(1\.0, 5\.1\); .*0\.05 to 5"),
])
def test_noise_that_the_teacher_does_not_know(trained, noise, words):
    """Distillation is refused before it begins."""
    workdir = trained[2]()
    config = tiny_avoiding(**{f"distill__noise__{k}": v for k, v in noise.items()})
    with pytest.raises(ConfigError, match=words):
        distill.run(config, workdir)
    assert not (workdir / "distill").exists()
    problem_noise = tiny_avoiding(distill__noise__high=5.0).distill.noise
    noise_levels.check_noise(problem_noise, problem.load_teacher(tiny_avoiding(), workdir)[0])


def test_a_simulator_that_is_not_installed_is_told(monkeypatch, tmp_path):
    """In the sentence that names the extra, as a mistake in the demonstrations would be."""
    monkeypatch.setitem(sys.modules, "mujoco", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = tiny_avoiding()
    config.task.update(name="stacking", demonstrations="")
    with pytest.raises(problem.DataError, match=r"^this task .* pip install 'vdd_jax\[sim\]'$"):
        problem.data(config)


def test_goals_are_the_ends_of_training_episodes():
    """In the task's units, of different episodes, whatever training takes; none without goals."""
    config = tiny_avoiding(task__goal_length=2, task__goal="future")
    found = np.asarray(problem.goals(config))
    train = problem._trajectories(json.dumps(config.task.to_dict(), sort_keys=True))[0]
    ends = np.stack([t.observations[-2:] for t in train])
    assert found.shape == (min(64, len(train)), 2, 4)
    for goal in found:
        assert np.abs(ends - goal).max((1, 2)).min() == 0
    assert len(np.unique(found[:, -1], axis=0)) == len(found)
    assert problem.goals(tiny_avoiding()) is None
    np.testing.assert_array_equal(problem.goals(config, 2), found[[0, -1]])


def test_no_stage_sees_a_key_of_another():
    """Neither the root of one, nor what is made of it by splitting; seeds differ too."""
    found = []
    for seed in (0, 1):
        config = tiny_avoiding()
        config.seed = seed
        for stage in problem.RANDOM:
            key = problem.stage_key(config, stage)
            found += [key, *jax.random.split(key, 8), *(jax.random.fold_in(key, i) for i in
                                                        range(100, 120))]
    numbers = {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in found}
    assert len(numbers) == len(found)


def test_nothing_alike_is_told():
    """Where the key that exchanges it is on; the boxes of a colour are alike."""
    config = tiny_avoiding()
    assert problem.alike(config) == ()
    config.task.exchange = True
    with pytest.raises(problem.DataError, match="nothing in an observation of avoiding is alike"):
        problem.data(config)
    config.task.name = "sorting_6"
    reds, blues = problem.alike(config)
    assert reds == ((4, 5, 6), (7, 8, 9), (10, 11, 12)) and blues[2] == (19, 20, 21)
    for name in ("sorting_2", "sorting_image"):
        config.task.name = name
        with pytest.raises(problem.DataError, match=f"{name} is alike"):
            problem.alike(config)


def test_places_as_seen_from_elsewhere(monkeypatch):
    """Where the task says what they are, and the key that they are shown: shapes of data, examples
    and networks agree, boxes take theirs along, and a teacher of the other kind is refused."""
    config = tiny_avoiding(task__window=2, task__goal_length=1)
    config.task.relative = True
    with pytest.raises(problem.DataError, match="avoiding .* is for block_push, pushing, al"):
        problem.data(config)
    monkeypatch.setattr(avoiding, "SPEC", avoiding.SPEC._replace(relative=((2, 0), (3, 1))))
    found, plain = problem.data(config), tiny_avoiding(task__window=2, task__goal_length=1)
    shapes = jax.tree.map(lambda v: (v.shape[1:], v.dtype), found.train)
    assert jax.tree.map(lambda v: (v.shape[1:], v.dtype), problem.example(config)) == shapes
    seen = found.train.observation
    assert seen.observations.shape[1:] == seen.steps.shape[1:] == (2, 6)
    raw = np.asarray(found.scaler.unscale_observation(seen.observations))
    np.testing.assert_allclose(found.scaler.shown(raw)[..., 4:],
                               raw[..., 2:] - raw[..., :2], rtol=1e-4, atol=1e-6)
    for scaler, asked in ((found.scaler, plain), (problem.data(plain).scaler, config)):
        with pytest.raises(problem.DataError, match="or its config.task.relative is"):
            problem.data(asked, scaler)
    config.task.update(name="sorting_4", exchange=True)
    assert problem.alike(config)[1] == ((10, 11, 12, 20, 21), (13, 14, 15, 22, 23))


def test_the_range_of_actions_is_the_demonstrations():
    """Of those that are trained on; none where the key says so, and none of an exact teacher."""
    config = tiny_avoiding()
    found = problem.data(config)
    actions = found.scaler.unscale_action(found.train.action)
    np.testing.assert_allclose(found.scaler.action_low, actions.min(0), atol=1e-6)
    np.testing.assert_allclose(found.scaler.action_high, actions.max(0), atol=1e-6)
    config.task.clip_actions = False
    assert problem.data(config).scaler.action_low is None
    assert problem.data(tiny()).scaler.action_low is None


def test_hidden_numbers_of_a_task_are_not_in_its_data():
    """By the key, in training and held-out data; an unknown position is told."""
    config = tiny_avoiding()
    config.task.hidden = (2, 3)
    found = problem.data(config)
    for part in (found.train, found.held_out):
        seen = np.abs(np.asarray(part.observation.observations))
        assert seen[..., 2:].max() < 1e-15 and seen[..., :2].max(axis=(0, 1)).min() > 0.1
    config.task.hidden = (4,)
    with pytest.raises(problem.DataError, match="config.task.hidden names 4"):
        problem.data(config)
