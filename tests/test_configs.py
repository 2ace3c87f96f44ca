"""Every file under configs/ loads in every variant that it names, and its `:smoke` variant runs."""

import functools
import importlib.util
import re
from pathlib import Path

import jax
import pytest
from tiny_config import less_is_measured

from vdd_jax import config as config_lib
from vdd_jax import noise_levels, problem, stages, teachers
from vdd_jax.core import mixture
from vdd_jax.models import denoiser
from vdd_jax.tasks import TASKS

pytest_plugins = "smoke_run"

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variants(path):
    """The variants of which the docstring gives a command; '' is the file itself, TASK_… one for
    each task."""
    module = load(path)
    found = set(re.findall(rf"--config=configs/{path.name}(?::(\w+))?", module.__doc__))
    general = {variant for variant in found if variant.startswith("TASK_")}
    each, tasks = set(), set(getattr(module, "TASKS", ()))
    for ending in (variant.removeprefix("TASK") for variant in general):
        each |= ({name for name in tasks if name.endswith(ending)}
                 or {name + ending for name in tasks})
    return sorted((found - general) | each)


NAMED = [(path, variant) for path in FILES for variant in variants(path)]
SMOKE = [(path, variant) for path, variant in NAMED if variant.startswith("smoke")]


def test_there_are_configs():
    """The toy, and its published settings."""
    assert (CONFIGS / "toy.py", "paper") in NAMED


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_docstring_gives_the_commands(path):
    """The file itself and a smoke variant at least, and every variant that the code knows."""
    text = path.read_text()
    if '["get_config"](variant)' in text:  # its variants are those of a file that it starts from
        for base in re.findall(r'with_name\("([\w.]+)"\)', text):
            text += path.with_name(base).read_text()
    known = set(re.findall(r'variant == "(\w+)"', text))
    for several in re.findall(r"variant (?:not )?in (\([^)]+\))", text):
        known |= set(re.findall(r'"(\w+)"', several))
    tasks = set(getattr(load(path), "TASKS", ()))  # a variant for each
    known |= tasks | {name + ending for name in tasks
                      for ending in re.findall(r'removesuffix\("(\w+)"\)', text)}
    assert set(variants(path)) == known | {""} and any(v.startswith("smoke") for v in known)


@pytest.mark.parametrize("path, variant", NAMED, ids=lambda v: getattr(v, "stem", v or "itself"))
def test_every_variant_is_valid(path, variant):
    """It has all keys and no others, and says the same again through JSON."""
    config = configuration(path, variant)
    config_lib.validate(config)
    again = config_lib.from_json(config_lib.to_json(config))
    assert config_lib.differences(config, again) == []


def configuration(path, variant):
    config = load(path).get_config(variant)
    if config.task.name == "recorded":  # which the user has to give
        config.task.update(demonstrations="a file", observation_dim=3, action_dim=2)
    return config


@pytest.mark.parametrize("path, variant", NAMED, ids=lambda v: getattr(v, "stem", v or "itself"))
def test_every_variant_builds(path, variant):
    """Teacher and student fit the task, and their noise each other; nothing is recorded."""
    build(config_lib.to_json(configuration(path, variant)))


@functools.lru_cache  # some variants are others by another name
def build(stored):
    config = config_lib.from_json(stored)
    shown, key = problem.example(config), jax.random.key(0)
    student = jax.eval_shape(
        lambda: problem.student(config).init_with_output(key, shown.observation)[0])
    assert student.means.shape == (1, config.student.num_experts, shown.action.shape[-1])
    if problem.is_analytic(config):
        return
    size = problem.spec(config).action_dim * config.task.chunk
    network = denoiser.build(config.teacher, size)
    params = jax.eval_shape(lambda: denoiser.init(config.teacher, network, key, shown))
    teacher = teachers.from_network(config.teacher, params, size)
    noise_levels.check_noise(config.distill.noise, teacher)
    drawn = jax.eval_shape(lambda params: teachers.sample(
        teacher.of(params), config.teacher, shown.observation, key, (1,), size), params)
    assert drawn.shape == (1, size)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_an_unknown_variant_is_refused(path):
    """With the names of those there are."""
    with pytest.raises(ValueError, match="smoke.*'smok'"):
        load(path).get_config("smok")


# of recorded.py tests/test_recorded_run.py, with data, and of images.py tests/test_images.py
@pytest.mark.parametrize(
    "path, variant", [pair for pair in SMOKE if pair[0].stem not in ("recorded", "images")],
    ids=lambda v: getattr(v, "stem", v))
def test_smoke_variants_run(path, variant, tmp_path, monkeypatch):
    """From nothing to a report with finite numbers (of fewer samples than a user's); everything
    that an evaluation does is done, and drawn, without a simulator and with one of MuJoCo's (with
    Avoiding's by the run `finished_avoiding`)."""
    if path.stem in ("planar", "stacking", "published"):
        pytest.importorskip("mujoco", reason="the sim extra is not installed")
    if path.stem == "kitchen":
        pytest.importorskip("gymnasium_robotics", reason="the kitchen extra is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    less_is_measured(monkeypatch)
    config = load(path).get_config(variant)
    if path.stem not in ("toy", "planar"):
        config.evaluate.teacher_steps = ()
        config.run.figures = False
        monkeypatch.setattr(mixture, "ACTING", mixture.ACTING[:1])
    report = stages.run(config, tmp_path / "run")
    numbers = [v for v in report["student"].values() if isinstance(v, (int, float))]
    assert len(numbers) > 5 and all(abs(v) < 1e6 for v in numbers)
    assert (tmp_path / "run" / "report.json").exists()


def toy(variant=""):
    return load(CONFIGS / "toy.py").get_config(variant)


def test_the_toy_has_one_expert_a_mode_unless_told_otherwise():
    """The number of experts follows the number of modes, and not the other way round."""
    config = toy()
    assert config.student.num_experts == config.task.num_modes == 8
    config.task.num_modes = 5
    assert config.student.num_experts == 5
    config.student.num_experts = 16
    assert (config.student.num_experts, config.task.num_modes) == (16, 5)
    config.task.num_modes = 3
    assert config.student.num_experts == 16


def test_the_paper_has_eight_experts():
    """The published settings do not follow the modes."""
    config = toy("paper")
    config.task.num_modes = 5
    assert config.student.num_experts == 8 and config.task.num_modes == 5
    assert config.distill.bound == "published" and config.distill.noise.kind == "fixed"


SMALL = [("planar", name, f"{name}_vp") for name in load(CONFIGS / "planar.py").TASKS] + [
    ("stacking", "", "vp"), ("kitchen", "", "vp"), ("images", "", "vp"),
    ("images", "stacking", "stacking_vp"), ("images", "smoke", "smoke_vp")]


@pytest.mark.parametrize("name, variant, other", SMALL)
def test_a_ddpm_teacher_changes_what_is_its_own(name, variant, other):
    """Its chain, and that students learn from it by as many steps as it acts with; no sizes, task
    or visits."""
    make = load(CONFIGS / f"{name}.py").get_config
    one, two = config_lib.flatten(make(variant)), config_lib.flatten(make(other))
    assert {key for key in one if one[key] != two[key]} == {
        "teacher.schedule", "teacher.num_train_steps", "teacher.prediction",
        "teacher.noise.density", "teacher.noise.mean",
        "teacher.sampler.kind", "teacher.sampler.spacing", "distill.noise.low",
        "distill.actions_steps", "consistency.actions_steps"}
    assert not two["distill.actions_steps"] and not two["consistency.actions_steps"]


def test_planar_tasks_are_demonstrated_alike():
    """About 2,000 demonstrations, or more, of as many modes as the task has; where more than two
    boxes are sorted the rod's measured place is hidden, boxes are also shown as seen from it, and
    those of a colour exchange numbers."""
    planar = load(CONFIGS / "planar.py")
    totals = {"aligning": 3_000, "sorting_4": 10_800, "sorting_6": 10_800}
    for name, modes in planar.TASKS.items():
        assert TASKS[name].NUM_MODES == modes
        config = planar.get_config(name)
        total = totals.get(name, 2_000)
        assert total - modes < config.task.episodes_per_mode * modes <= total
        many = name in ("sorting_4", "sorting_6")
        assert config.task.hidden == ((2, 3) if many else ()) and config.task.exchange == many
        assert config.task.relative == many
