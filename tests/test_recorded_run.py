"""From a file of someone else's format to the report of a student, by the command line."""

import contextlib
import io
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax import evaluate_closed_loop, main, open_loop, policy

pytest_plugins = "smoke_run"
h5py = pytest.importorskip("h5py", reason="needs the hdf5 extra")

CONFIG = str(Path(__file__).parents[1] / "configs" / "recorded.py:smoke")
RNG = np.random.default_rng(0)
EPISODES, STEPS = 6, 12
SETTINGS = {
    "task.observation_keys": "('object[:2]', 'eef')", "task.scaler": "min_max",
    "teacher.sigma_data": 0.5, "task.chunk": 3, "run.figures": False,
    # as few programs as can be: what is left out is tested elsewhere
    "distill.actions": "demonstrations", "distill.warm_start": 0.0, "evaluate.teacher_steps": "()",
    "distill.trunk_from_teacher": False, "distill.likelihood_weight": 0.0,
    "teacher.sampler.num_steps": 2,
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The first of two columns of the actions is 10 to 12, the second constant."""
    folder = tmp_path_factory.mktemp("recorded")
    actions = np.stack([RNG.uniform(10, 12, (EPISODES, STEPS)), np.full((EPISODES, STEPS), 3)], -1)
    with h5py.File(folder / "demo.hdf5", "w") as file:
        for number in range(EPISODES):
            demo = file.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = STEPS
            demo["actions"] = actions[number]
            demo["obs/object"], demo["obs/eef"] = RNG.normal(size=(2, STEPS, 3))
    arguments = [f"--config={CONFIG}", f"--config.task.demonstrations={folder / 'demo.hdf5'}",
                 *(f"--config.{key}={value}" for key, value in SETTINGS.items()),
                 f"--workdir={folder / 'run'}"]
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["main", *arguments])
        patch.setattr(evaluate_closed_loop, "TIMED_CALLS", 3)
        for name, value in (("STATES", 8), ("SAMPLES", 16), ("FLOW_STATES", 4),
                            ("FLOW_SAMPLES", 2), ("FLOW_STEPS", 2)):
            patch.setattr(open_loop, name, value)
        with pytest.raises(SystemExit) as stop:
            main.main()
    assert not stop.value.code
    return folder / "run", actions, out.getvalue()


def test_the_report(ran):
    """Sizes of the file, the choice of columns, and the measures of a student."""
    workdir, _, printed = ran
    assert "recorded: observation 5, action 2" in printed and "NLL of held-out actions" in printed
    report = json.loads((workdir / "report.json").read_text())
    assert report["teacher"]["demonstrations"]["episodes"] == EPISODES
    assert report["config"]["task"]["observation_keys"] == ["object[:2]", "eef"]
    assert np.isfinite(report["student"]["nll_held_out"])


def test_the_policy_stands_without_the_file_and_its_density_is_exact(ran):
    """The scaler is in the checkpoint; log q(a) = log q(scaled a) + log |det of the scaling|."""
    workdir, actions, _ = ran
    (workdir.parent / "demo.hdf5").rename(workdir.parent / "gone")
    student = policy.load(workdir)
    np.testing.assert_allclose(student.scaler.action_mean, [11, 3] * 3, atol=0.1)
    np.testing.assert_allclose(student.scaler.action_std, [1, 1] * 3, atol=0.1)
    student = student.replace(scaler=student.scaler._replace(  # a scaling that matters
        action_std=jnp.array([2.0, 0.1, 3.0, 0.5, 4.0, 0.2])))
    seen = RNG.normal(size=(2, 5)).astype(np.float32)
    action = actions[0, :3].astype(np.float32)
    unit = student.replace(scaler=student.scaler._replace(
        action_mean=jnp.zeros(6), action_std=jnp.ones(6)))
    scaled = student.scaler.scale_action(action.reshape(-1))
    jacobian = jax.jacobian(student.scaler.scale_action)(jnp.asarray(action.reshape(-1)))
    np.testing.assert_allclose(
        student.log_prob(seen, action),
        unit.log_prob(seen, scaled.reshape(3, 2)) + jnp.linalg.slogdet(jacobian)[1], rtol=1e-4)
    assert student.act(seen, jax.random.key(0)).shape == (3, 2)
