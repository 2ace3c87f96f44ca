"""The benchmark of a whole distillation: its data are the kitchen's in size, its run is valid."""

import sys
from pathlib import Path

import pytest

from vdd_jax import problem

sys.path.append(str(Path(__file__).parents[1] / "experiments" / "benchmarks"))
import distillation  # noqa: E402
from step_rows import Sizes  # noqa: E402


@pytest.mark.parametrize("window", ["all", "last", "joint"])
def test_the_run_is_of_the_kitchens_sizes(window, tmp_path):
    """Windows with goals, as many as steps of the episodes that are trained on; a valid
    configuration of the precision, batch and number of iterations that are asked for."""
    a = distillation.parse([f"--window={window}", "--batch=32", "--iterations=7", "--episodes=4",
                            "--precision=bfloat16", "--experts=3"])
    demonstrations = tmp_path / "demonstrations.npz"
    distillation.write_demonstrations(demonstrations, Sizes(), a.episodes)
    config = distillation.configure(a, demonstrations)
    assert (config.distill.window, config.distill.batch_size, config.distill.num_iterations,
            config.precision, config.student.num_experts) == (window, 32, 7, "bfloat16", 3)
    assert config.teacher.width == Sizes().teacher_width and config.run.steps_per_dispatch == 7
    data = problem.data(config)
    n = 3 * distillation.STEPS
    assert data.train.action.shape == (n, 9)
    assert data.train.observation.observations.shape == (n, 4, 30)
    assert data.train.observation.goal.shape == (n, 2, 30)
