"""The experiment on wider experts: what is driven, and what is kept."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax import config as config_lib
from vdd_jax import problem
from vdd_jax.sampled_policy import SampledPolicy

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
import avoiding_frontier as frontier  # noqa: E402

pytest_plugins = "smoke_run"


def test_the_student_samples_from_wider_experts(finished_avoiding, tmp_path, monkeypatch, capsys):
    """In the report's episodes; the file keeps what stands under other names."""
    asked, acted, scales = [], [], []
    run = frontier.closed_loop.run

    def watched(config, actor, key, num):
        asked.append((jax.random.key_data(key).tolist(), num))
        acted.append(actor(jnp.zeros((8, 2, 4)), jnp.ones((8, 2), bool), jax.random.key(0)))
        return run(config, actor, key, num)

    def student_of(config, workdir):
        found = original(config, workdir)

        def apply(variables, seen):
            q = found.apply(variables, seen)
            return q._replace(scale_tril=0 * q.scale_tril + scales[-1])

        return found.replace(apply=apply)

    original = frontier.evaluate_closed_loop.student_of
    monkeypatch.setattr(frontier.closed_loop, "run", watched)
    monkeypatch.setattr(frontier.evaluate_closed_loop, "student_of", student_of)
    workdir, out = finished_avoiding.workdir, tmp_path / "new" / "frontier.json"
    config = config_lib.from_json((workdir / "config.json").read_text())
    key, _ = jax.random.split(problem.stage_key(config, "evaluate"))
    flags = [f"--workdirs={workdir}", f"--out={out}"]
    for scale, width in ((0.002, 2), (0.004, 1), (0.002, 1)):
        scales.append(scale)
        frontier.main([*flags, f"--name=by_{width}", f"--widths={width}"])
    twice, as_wide, once = map(np.asarray, acted)
    np.testing.assert_array_equal(twice, as_wide)
    assert (twice != once).all()
    assert asked == 3 * [(jax.random.key_data(key).tolist(), config.evaluate.num_episodes)]
    found = json.loads(out.read_text())
    for width in ("1", "2"):
        (kept,) = found[f"by_{width}"]
        assert kept["seed"] == config.seed
        assert kept["widths"][width]["episodes"] == config.evaluate.num_episodes
    assert "| width | seed 0 | mean |" in capsys.readouterr().out


def test_the_table():
    runs = [{"seed": s, "widths": {"1.5": {"success": v, "entropy": 1 - v}}}
            for s, v in ((0, 0.5), (3, 0.75))]
    assert frontier.render(runs).splitlines() == [
        "| width | seed 0 | seed 3 | mean |", "|---|---|---|---|",
        "| 1.5 | 0.500 / 0.500 | 0.750 / 0.250 | 0.625 / 0.375 |"]


@pytest.mark.parametrize("given", ["--widths=-1", "--widths=wide", "--power=0", "--power=-2"])
def test_a_width_is_a_number_of_at_least_0_and_a_power_above(given, capsys):
    with pytest.raises(SystemExit):
        frontier.main(["--workdirs=none", "--name=x", given])
    assert f"{given.split('=')[0]} " in capsys.readouterr().err


def test_means_of_experts_whose_weights_are_raised_to_a_power(finished_avoiding, tmp_path,
                                                              monkeypatch):
    """A width of 0 gives the mean of an expert drawn by its weight to the power, nothing wider."""
    workdir, seen = finished_avoiding.workdir, []
    config = config_lib.from_json((workdir / "config.json").read_text())
    of_student = frontier.closed_loop.of_student

    def watched(config, apply, params, scaler, how):
        context = scaler.context(jnp.zeros((4, config.task.window, 4)))
        seen.append((how, apply({"params": params}, context)))
        return of_student(config, apply, params, scaler, how)

    monkeypatch.setattr(frontier.closed_loop, "of_student", watched)
    for power in (1, 2):
        frontier.main([f"--workdirs={workdir}", f"--out={tmp_path / 'f.json'}", "--widths=0,1",
                       f"--power={power}", f"--name=by {power}"])
    (way, narrow), (_, plain), (_, sharp), _ = seen
    assert way == "sample" and config.student.num_experts > 1
    np.testing.assert_allclose(narrow.scale_tril, 1e-6 * plain.scale_tril, rtol=1e-5)
    squared = jnp.exp(plain.log_weights) ** 2
    np.testing.assert_allclose(jnp.exp(sharp.log_weights),
                               squared / squared.sum(-1, keepdims=True), rtol=1e-4)
    found = json.loads((tmp_path / "f.json").read_text())
    assert [found[f"by {power}"][0]["power"] for power in (1, 2)] == [1, 2]


def test_a_directory_without_a_mixture_is_told(finished_avoiding, tmp_path, monkeypatch, capsys):
    """In one sentence, and nothing is written."""
    out = tmp_path / "frontier.json"
    monkeypatch.setattr(frontier.evaluate_closed_loop, "student_of", lambda *given: SampledPolicy(
        {}, None, None, None, "consistency model", 4, 2, num_steps=1))
    for workdir, told in ((tmp_path, "No such file"),
                          (finished_avoiding.workdir, "it is a consistency model")):
        with pytest.raises(SystemExit):
            frontier.main([f"--workdirs={workdir}", "--name=x", f"--out={out}"])
        assert told in capsys.readouterr().err
    assert not out.exists()
