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
from vdd_jax import evaluate, open_loop, problem, stages
from vdd_jax import evaluate_closed_loop as closed
from vdd_jax.core import mixture
from vdd_jax.core.mixture import Mixture
from vdd_jax.policy import Policy
from vdd_jax.sampled_policy import SampledPolicy
from vdd_jax.types import Context

pytest_plugins = "smoke_run"

KEYS = jax.random.split(jax.random.key(0), 20)

OF_EPISODES = {"success", "success_low", "success_high", "collision", "time_out", "left_corridor",
               "entropy", "modes_found", "mode_histogram", "mean_steps", "episodes",
               "seconds_of_episodes"}
OF_SAMPLES = {"sliced_wasserstein", "mmd", "mean_slope", "std_ratio"}
OF_DENSITY = {"nll_held_out", "nll_teacher_samples", "gating_entropy", "experts_used",
              "fisher_by_noise", "hdr_coverage", "kl_student_teacher", "kl_teacher_student",
              "kl_student_teacher_stderr", "kl_teacher_student_stderr"}


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
    teacher, student, one_step = stored["teacher"], stored["student"], (
        stored["few_step_teachers"]["1"])
    of_actor = OF_EPISODES | OF_SAMPLES | {"latency_ms", "network_calls"}
    assert set(teacher) == of_actor | {"kind", "description", "sampler", "demonstrations",
                                       "simulator"}
    assert set(one_step) == of_actor
    assert set(student) == of_actor | OF_DENSITY | {
        "acting", "min_weight", "other_ways_of_acting", "num_experts", "kind"}
    assert (student["min_weight"], student["kind"]) == (0.1, "vdd")
    assert set(student["other_ways_of_acting"]) == {"most_likely_mean", "sample",
                                                    "sampled_mean" + closed.EVERY}
    assert all(set(v) == OF_EPISODES | {"network_calls"}
               for v in student["other_ways_of_acting"].values())
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
    student = report["student"]
    parts = [report["teacher"], report["few_step_teachers"]["1"], student]
    for part in parts:
        assert f"{part['collision']:.3f}" in rows["collisions"]
    floor, *others = (f"{part['sliced_wasserstein']:.4f}" for part in parts)
    assert rows["sliced Wasserstein to teacher"].split() == [floor, "(floor)", *others]
    assert f"{student['kl_student_teacher']:.3f} nats" in rows["KL(student‖teacher)"]
    assert f"{student['nll_held_out']:.3f} nats" in rows["NLL of held-out actions"]
    assert "3 episodes each" in text and "24 episodes" in text


def test_the_episodes_are_kept(finished_avoiding):
    """Those of every actor, from the same starts, and the rates of the report are theirs."""
    with np.load(finished_avoiding.workdir / "episodes.npz") as kept:
        actors = {name.split(".")[0] for name in kept.files}
        assert actors == {"teacher", "teacher_1_steps", "sampled_mean", "most_likely_mean",
                          "sample", "sampled_mean" + closed.EVERY}
        starts = [kept[f"{name}.observations"][:, 0] for name in actors]
        for start in starts:
            np.testing.assert_array_equal(start, starts[0])
        assert len(np.unique(starts[0], axis=0)) == 3
        for actor, part in (("teacher", "teacher"), ("sampled_mean", "student")):
            assert kept[f"{actor}.collided"].mean() == pytest.approx(
                finished_avoiding.report[part]["collision"])


# ---- what goes into it

STATES = 16
SEEN = Context(jnp.zeros((STATES, 1, 4)), jnp.zeros((STATES, 1, 4)), jnp.ones((STATES, 1), bool),
               jnp.zeros((STATES, 0, 2)), jnp.zeros((STATES, 0, 4)))


def test_the_ways_of_a_mixture():
    """The paper's first, each by `mixture.act`; without rare experts and, if so, with them."""
    means = jnp.array([[-1.0, 0.0], [1.0, 0.0]])

    def apply(variables, context):
        batch = context.valid.shape[:-1]
        weights = jnp.log(jnp.array([0.95, 0.05]))
        return Mixture(jnp.broadcast_to(weights, (*batch, 2)),
                       jnp.broadcast_to(means, (*batch, 2, 2)), jnp.full((*batch, 2, 2), 1e-3))

    student = Policy({}, None, apply, 4, 2, window=1, min_weight=0.1)
    ways = closed.ways_of(config_lib.default(), student)
    every = "sampled_mean" + closed.EVERY
    assert list(ways)[0] == "sampled_mean" and set(ways) == {*mixture.ACTING, every}
    acted = {name: np.concatenate([np.asarray(way.act(SEEN, key)) for key in KEYS])
             for name, way in ways.items()}
    assert (acted["sampled_mean"][:, 0] == -1).all()
    assert set(acted[every][:, 0]) == {-1.0, 1.0}
    assert all(way.network_calls == 1 for way in ways.values())
    without = closed.ways_of(config_lib.default(), student.replace(min_weight=0.0))
    assert set(without) == set(mixture.ACTING)
    ways = closed.ways_of(config_lib.default(), student.replace(acting="sample"))
    assert list(ways)[0] == "sample"
    assert set(ways) == {*mixture.ACTING, "sample" + closed.EVERY}
    action = ways["sample"].act(SEEN, KEYS[0])
    assert (action[:, 0] < 0).all() and (action != means[0]).all()  # no mean, of the likely one


def test_the_ways_of_a_policy_that_is_sampled():
    """One for each number of steps that was asked for, the first the main one."""
    config = tiny_avoiding(evaluate__student_steps=(3, 1))

    def draw(params, context, key, shape, num_steps):
        return jnp.full(shape, float(num_steps))

    student = SampledPolicy({}, None, draw, lambda n: 2 * n - 1, "stand-in", 4, 2, 3, window=1)
    ways = closed.ways_of(config, student)
    assert list(ways) == ["3_steps", "1_steps"]
    assert [way.network_calls for way in ways.values()] == [5, 1]
    np.testing.assert_array_equal(ways["3_steps"].act(SEEN, KEYS[0]), np.full((STATES, 2), 3.0))
    assert closed.density_of(student) is None
    np.testing.assert_array_equal(
        closed.sampler_of(student)(SEEN, KEYS[0], 7), np.full((7, STATES, 2), 3.0))


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


def test_data_without_a_simulator_are_judged_without_episodes(tmp_path, monkeypatch, capsys):
    """`recorded`: everything but what episodes say, and a table without those rows."""
    monkeypatch.setattr(closed, "TIMED_CALLS", 3)
    for name, value in (("STATES", 16), ("SAMPLES", 32), ("FLOW_STATES", 8), ("FLOW_SAMPLES", 4),
                        ("FLOW_STEPS", 4)):
        monkeypatch.setattr(open_loop, name, value)
    draw = np.random.default_rng(0).normal
    np.savez(tmp_path / "data.npz", observations=draw(size=(200, 5)), actions=draw(size=(200, 3)),
             episode_ends=np.arange(20, 201, 20))
    config = tiny_avoiding(task__name="recorded", task__observation_dim=0,
                           task__demonstrations=str(tmp_path / "data.npz"))
    report = stages.run(config, tmp_path / "run")
    for part in (report["teacher"], report["few_step_teachers"]["1"], report["student"]):
        assert "success" not in part and part["sliced_wasserstein"] > 0
        assert part["latency_ms"]["p50"] > 0
    assert math.isfinite(report["student"]["kl_student_teacher"])
    assert "without episodes" in report["teacher"]["simulator"]
    text = evaluate.summary(report)
    assert "success" not in text and "MMD² to teacher" in text and text in capsys.readouterr().out


def test_goals_reach_the_score_of_a_task_that_asks_for_them():
    """And no other: a task's `score` says so by its arguments."""
    with_goals = SimpleNamespace(score=lambda episodes, goals=None: (episodes, goals))
    without = SimpleNamespace(score=lambda episodes: (episodes,))
    assert closed.scored(with_goals, "ran", "goals") == ("ran", "goals")
    assert closed.scored(with_goals, "ran", None) == ("ran", None)
    assert closed.scored(without, "ran", "goals") == ("ran",)
