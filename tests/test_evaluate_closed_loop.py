"""Teacher and student in the simulator: the report, its table, and what is measured without it."""

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import tiny_avoiding

from vdd_jax import config as config_lib
from vdd_jax import evaluate, problem
from vdd_jax import evaluate_closed_loop as closed
from vdd_jax.core import schedules
from vdd_jax.core.mixture import Mixture
from vdd_jax.data import Scaler
from vdd_jax.teachers import Teacher
from vdd_jax.types import Batch, Context

pytest_plugins = "smoke_run"

OF_EPISODES = {"success", "success_low", "success_high", "collision", "time_out", "left_corridor",
               "entropy", "modes_found", "mode_histogram", "mean_steps", "episodes",
               "seconds_of_episodes"}
OF_SAMPLES = {"sliced_wasserstein", "sliced_wasserstein_floor", "sliced_wasserstein_one_step",
              "mean_slope", "std_ratio", "nll_held_out", "nll_teacher_samples", "gating_entropy",
              "experts_used"}


def numbers(tree):
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [n for v in tree for n in numbers(v)] if isinstance(tree, list) else [tree]


def test_the_report(finished_avoiding):
    """Its fields; all numbers finite; on disk as returned."""
    stored = json.loads((finished_avoiding.workdir / "report.json").read_text(),
                        parse_constant=pytest.fail)
    assert stored == json.loads(json.dumps(finished_avoiding.report))
    assert stored["task"] == "avoiding"
    assert set(stored["wall_seconds"]) == {"train_teacher", "distill", "evaluate"}
    teacher, one_step, student = (stored[k] for k in ("teacher", "one_step_teacher", "student"))
    assert set(teacher) == OF_EPISODES | {"latency_ms", "network_calls", "kind", "description",
                                          "sampler", "demonstrations", "simulator"}
    assert set(one_step) == OF_EPISODES | {"latency_ms", "network_calls"}
    assert set(student) == OF_EPISODES | OF_SAMPLES | {
        "latency_ms", "network_calls", "acting", "min_weight", "other_ways_of_acting",
        "num_experts"}
    assert student["min_weight"] == 0.1
    assert set(student["other_ways_of_acting"]) == {"most_likely_mean", "sample", closed.EVERY}
    assert all(set(v) == OF_EPISODES for v in student["other_ways_of_acting"].values())
    assert (teacher["kind"], student["acting"]) == ("learned", "sampled_mean")
    calls = teacher["network_calls"], one_step["network_calls"], student["network_calls"]
    assert calls == (2, 1, 1)
    assert all(part["episodes"] == 3 for part in (teacher, one_step, student))
    assert teacher["demonstrations"]["episodes"] == 24
    for part in (teacher, one_step, student):
        values = [v for v in numbers(part) if not isinstance(v, str)]
        assert len(values) > 30 and all(math.isfinite(v) for v in values)
        assert 0 < part["latency_ms"]["p50"] <= part["latency_ms"]["p99"]
        assert part["success_low"] <= part["success"] <= part["success_high"]


def test_the_table(finished_avoiding):
    """Every actor's numbers are those of the report, and it is what the run printed."""
    report = finished_avoiding.report
    text = evaluate.summary(report)
    assert text == closed.summary(report) and text in finished_avoiding.printed
    rows = {line[:34].strip(): line[34:] for line in text.splitlines()}
    assert rows["network calls per action"].split() == ["2", "1", "1"]
    for part in ("teacher", "one_step_teacher", "student"):
        assert f"{report[part]['collision']:.3f}" in rows["collisions"]
    student = report["student"]
    assert rows["sliced Wasserstein to teacher"].split() == [
        f"{student['sliced_wasserstein_floor']:.4f}", "(floor)",
        f"{student['sliced_wasserstein_one_step']:.4f}", f"{student['sliced_wasserstein']:.4f}"]
    assert f"{student['nll_held_out']:.3f} nats" in rows["NLL of held-out actions"]
    assert "3 episodes each" in text and "24 episodes" in text


def test_the_episodes_are_kept(finished_avoiding):
    """Those of every actor, from the same starts, and the rates of the report are theirs."""
    with np.load(finished_avoiding.workdir / "episodes.npz") as kept:
        actors = {name.split(".")[0] for name in kept.files}
        assert actors == {"teacher", "one_step_teacher", "sampled_mean", "most_likely_mean",
                          "sample", closed.EVERY}
        starts = [kept[f"{name}.observations"][:, 0] for name in actors]
        for start in starts:
            np.testing.assert_array_equal(start, starts[0])
        assert len(np.unique(starts[0], axis=0)) == 3
        for actor, part in (("teacher", "teacher"), ("sampled_mean", "student")):
            assert kept[f"{actor}.collided"].mean() == pytest.approx(
                finished_avoiding.report[part]["collision"])


# ---- without the simulator

MEAN, STD = np.array([0.5, -0.3]), 0.6
STATES = 16
SEEN = Context(jnp.zeros((STATES, 1, 4)), jnp.zeros((STATES, 1, 4)), jnp.ones((STATES, 1), bool),
               jnp.zeros((STATES, 0, 2)), jnp.zeros((STATES, 0, 4)))


def gaussian_task():
    """A teacher that is exactly N(MEAN, STD²) and held-out actions of it."""
    def denoise(x, context, t):
        variance = STD**2 + t[..., None] ** 2
        return MEAN + STD**2 / variance * (x - MEAN)

    settings = config_lib.default().teacher
    settings.sampler.update(kind="heun", num_steps=64)
    action = MEAN + STD * np.random.default_rng(0).normal(size=(STATES, 2))
    return SimpleNamespace(
        teacher=Teacher(None, schedules.ve(0.01, 20.0), None, denoise), teacher_config=settings,
        held_out=Batch(SEEN, jnp.asarray(action, jnp.float32)))


def gaussian_student(shift=(0.0, 0.0)):
    """N(MEAN + shift, STD²) as two experts, one of them all but unused."""
    def apply(variables, context):
        batch = context.valid.shape[:-1]
        means = jnp.stack([jnp.asarray(MEAN + shift), jnp.full(2, 9.0)]).astype(jnp.float32)
        weights = jnp.log(jnp.array([0.9999, 1e-4]))
        return Mixture(jnp.broadcast_to(weights, (*batch, 2)),
                       jnp.broadcast_to(means, (*batch, 2, 2)), jnp.full((*batch, 2, 2), STD))

    return SimpleNamespace(apply=apply, params={})


def test_against_samples_of_a_known_teacher(monkeypatch):
    """A student that is the teacher is at the floor and has the teacher's entropy; one that is
    moved by d is at |d|/√A; the one-step teacher, all at its mean, at the teacher's spread."""
    monkeypatch.setattr(closed, "SAMPLES", 1_000)
    config, task = config_lib.default(), gaussian_task()
    found = closed.against_samples(config, task, gaussian_student(), jax.random.key(0))
    assert set(found) == OF_SAMPLES
    assert 0 < found["sliced_wasserstein_floor"] < 0.08
    assert found["sliced_wasserstein"] < 0.5
    np.testing.assert_allclose(found["sliced_wasserstein_one_step"], STD, rtol=0.1)
    action = np.asarray(task.held_out.action)
    exact = np.mean(((action - MEAN) ** 2).sum(-1)) / (2 * STD**2) + np.log(2 * np.pi * STD**2)
    np.testing.assert_allclose(found["nll_held_out"], exact - np.log(0.9999), rtol=1e-3)
    entropy = 1 + np.log(2 * np.pi * STD**2)
    np.testing.assert_allclose(found["nll_teacher_samples"], entropy, atol=0.05)
    choice = -0.9999 * np.log(0.9999) - 1e-4 * np.log(1e-4)
    np.testing.assert_allclose(found["gating_entropy"], choice, rtol=1e-2)
    assert found["experts_used"] == 1
    np.testing.assert_allclose([found["mean_slope"], found["std_ratio"]], 1.0, atol=0.05)
    moved = closed.against_samples(config, task, gaussian_student((3.0, 4.0)), jax.random.key(0))
    np.testing.assert_allclose(moved["sliced_wasserstein"], 5 / np.sqrt(2), rtol=0.15)
    assert moved["nll_held_out"] > found["nll_held_out"] + 20
    slope = (MEAN @ (MEAN + (3.0, 4.0))) / (MEAN @ MEAN)
    np.testing.assert_allclose(moved["mean_slope"], slope, rtol=0.05)


def test_goals_are_those_of_the_training_episodes():
    """In the task's units; none where the task has none."""
    scaler = Scaler(*(jnp.asarray(v) for v in ([0.0], [1.0], [3.0, -1.0], [4.0, 0.5], [1.0] * 2)))
    raw = np.random.default_rng(0).normal(size=(300, 2, 2)).astype(np.float32)
    goal = scaler.scale_observation(raw)
    task = SimpleNamespace(scaler=scaler, data=Batch(SEEN._replace(goal=goal), None))
    found = closed.goals_of(task)
    assert found.shape == (64, 2, 2)
    for one in np.asarray(found):
        assert np.abs(raw - one).max(axis=(1, 2)).min() < 1e-5
    assert closed.goals_of(SimpleNamespace(data=Batch(SEEN, None))) is None


def test_a_teacher_in_a_few_words():
    """Schedule, prediction, network."""
    settings = tiny_avoiding(teacher__schedule="flow", teacher__prediction="velocity").teacher
    assert closed.describe(settings) == "flow, velocity prediction, mlp 8×1"


def test_latency_is_that_of_a_batch_of_one(monkeypatch):
    """Median and 99th percentile of the calls, each with a full window."""
    monkeypatch.setattr(closed, "TIMED_CALLS", 5)
    calls = []

    def actor(history, valid, key):
        assert history.shape == (1, 3, 4) and valid.shape == (1, 3)
        jax.debug.callback(lambda valid: calls.append(bool(valid.all())), valid)
        return history[:, -1, :2]

    found = closed.latency(actor, (3, 4))
    jax.effects_barrier()
    assert set(found) == {"p50", "p99"} and 0 < found["p50"] <= found["p99"]
    assert calls == [True] * 15


def test_the_policy_that_is_loaded_has_the_tasks_window(finished_avoiding, monkeypatch):
    """`policy.load` of a run with windows, on the first held-out window: the same mixture as the
    network's own."""
    from vdd_jax import policy as policy_lib

    loaded = policy_lib.load(finished_avoiding.workdir)
    assert (loaded.window, loaded.chunk, loaded.goal_length) == (2, 1, 0)
    found = problem.data(finished_avoiding.config, loaded.scaler)
    seen = jax.tree.map(lambda v: v[5], found.held_out.observation)
    raw = np.asarray(loaded.scaler.unscale_observation(seen.observations))
    q = loaded.mixture(raw)
    own = loaded.apply({"params": loaded.params}, seen)
    np.testing.assert_allclose(
        q.means, loaded.scaler.unscale_action(own.means), rtol=1e-3, atol=1e-5)
    assert loaded.act(raw, jax.random.key(0)).shape == (2,)
