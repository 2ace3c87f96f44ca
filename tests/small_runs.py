"""Commands of documents, run at small sizes."""

import re

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from vdd_jax import config as config_lib
from vdd_jax import evaluate_closed_loop, open_loop, stages, train_teacher
from vdd_jax.frames import Stored
from vdd_jax.tasks import TASKS, cameras, record
from vdd_jax.tasks.planar import recording
from vdd_jax.tasks.with_images import WithImages
from vdd_jax.types import SeenTrajectory

FIRST = 11  # steps of an episode with images


def small(config: ConfigDict) -> ConfigDict:
    """The same stages, task, teacher and kind of student, with which nothing is learned. What
    compiles slowly is left out, and sizes are equal: runs of a task then share most programs."""
    config = config_lib.from_json(config_lib.to_json(config))
    config.task.update(num_demonstrations=200, episodes_per_mode=1)
    config.teacher.update(
        width=16, depth=1, encoder_depth=1, fourier=1, heads=2, num_iterations=20, batch_size=16,
        warmup=2, check_every=10)
    config.student.update(
        num_experts=2, covariance="diagonal", trunk_width=16,
        trunk_depth=min(config.student.trunk_depth, 1), head_width=8, gating_width=8,
        gating_depth=1, fourier=1, heads=2)
    for stage in ("distill", "from_scratch", "consistency"):
        config[stage].update(num_iterations=20, batch_size=8)
    config.distill.update(teacher_actions=1_000, warm_batch_size=8, reallocations=0,
                          warm_start=float(config.distill.warm_start > 0))
    config.consistency.update(num_scales=4, teacher_actions=1_000)
    config.policy.min_weight = 0.0
    config.evaluate.update(num_samples=200, num_observations=8, num_episodes=4, teacher_steps=())
    config.run.update(steps_per_dispatch=10, log_every=10, checkpoint_every=20, num_snapshots=0,
                      figures=False)
    if sees(config):
        config.task.episodes_per_mode = 6 // TASKS[config.task.name].SPEC.num_modes
        config.teacher.update(fourier=0, num_iterations=4, batch_size=4, check_every=4,
                              learning_rate=5e-4)
        config.teacher.vision.update(channels=(16,), width=4)
        config.student.fourier = 0
        config.evaluate.num_episodes = 1
    return config


def sees(config: ConfigDict) -> bool:
    """Whether its task is one with images."""
    return isinstance(TASKS[config.task.name], WithImages)


def run_main(words: list[str], judged: set[str]) -> None:
    """`python -m vdd_jax.main …` as `main.py` understands it; the configuration is valid at its
    own sizes and runs at small ones. Of the runs of a task (of all with images) the first is
    evaluated; `judged` are the tasks of which there has been one."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    for name in ("print_config", "overwrite"):
        flags.DEFINE_bool(name, False, "", flag_values=values)
    assert values(words) == words[:1]
    config_lib.validate(values.config)
    if not values.print_config:
        file, _, variant = values["config"].config_filename.partition(":")
        name = file.rpartition("/")[2].removesuffix(".py") + (f"_{variant}" if variant else "")
        config = small(values.config)
        task = "with images" if sees(config) else config.task.name
        if task in judged:
            config.stages = tuple(s for s in config.stages if s != "evaluate")
        stages.run(config, values.workdir or f"runs/{name}", values.overwrite)
        if "evaluate" in config.stages:
            judged.add(task)


def run_record(words: list[str]) -> None:
    """`python -m vdd_jax.tasks.record …`, of six episodes."""
    fewer = [re.sub(r"(--episodes=)\d+", r"\g<1>6", word) for word in words]
    assert fewer != words
    record.main(fewer[1:])


class Blank:
    """Stands in for `cameras.Renderer`, for which not every machine has what it needs."""

    def __init__(self, model, size: int = cameras.SIZE):
        self._size, self._drawn = size, 0

    def draw(self, places, shown=cameras.CAMERAS) -> np.ndarray:
        self._drawn += 1
        return np.full((len(shown), self._size, self._size, 3), self._drawn % 256, np.uint8)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def close(self):
        pass


def less_is_compiled(patch: pytest.MonkeyPatch) -> None:
    """Left out is what takes seconds to compile and is none of a document's own code."""
    ways_of = evaluate_closed_loop.ways_of
    patch.setattr(evaluate_closed_loop, "ways_of",
                  lambda *given: dict(list(ways_of(*given).items())[:1]))
    patch.setattr(evaluate_closed_loop, "latency", lambda *_: {"p50": 0.0, "p99": 0.0})
    patch.setattr(open_loop, "reference", lambda *_: None)
    patch.setattr(open_loop, "measure", lambda *_, **__: dict.fromkeys(
        ("sliced_wasserstein", "mmd", "std_ratio"), 0.0))


def less_is_drawn(patch: pytest.MonkeyPatch) -> None:
    """Of tasks with images the first steps of a demonstration are shown, and nothing is to be seen;
    as many everywhere: runs then share programs."""
    patch.setattr(cameras, "Renderer", Blank)
    patch.setattr(recording, "processes", lambda most: 1)  # others are not patched
    patch.setattr(train_teacher, "HELD_OUT_IMAGES", 8)
    whole = WithImages._seen

    def first(task, trajectory, read):
        seen = whole(task, trajectory, read)
        return SeenTrajectory(
            seen.observations[:FIRST], seen.actions[:FIRST],
            Stored((FIRST, *seen.images.shape[1:]), lambda: read()[:FIRST]))

    patch.setattr(WithImages, "_seen", first)
    for task in TASKS.values():
        if isinstance(task, WithImages):
            patch.setattr(task, "RULES", task.RULES._replace(limit=FIRST))
