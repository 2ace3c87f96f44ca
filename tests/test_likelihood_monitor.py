"""The experiment on monitors: its statistics by hand, its episodes, and that it runs."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from vdd_jax import policy as policy_lib
from vdd_jax.core import mixture
from vdd_jax.tasks.avoiding import simulator

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
import likelihood_monitor as lm  # noqa: E402

pytest_plugins = "smoke_run"


def test_area_under_the_curve():
    """By counting pairs, ties halves; the curve's own area; None without both outcomes."""
    score, failure = np.array([3.0, 1, 2, 2, 0]), np.array([True, True, False, False, False])
    assert lm.auc(score, failure)["auc"] == round((3 + 1) / 6, 4)
    false, true = lm.roc(score, failure)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    np.testing.assert_allclose(np.trapezoid(true, false), 4 / 6)
    tied = lm.auc(np.ones(5), failure)
    assert tied == {"auc": 0.5, "low": 0.5, "high": 0.5}
    assert lm.auc(score, np.zeros(5, bool)) == {"auc": None, "low": None, "high": None}


def test_interval_of_the_area():
    """About two of its standard errors (Hanley & McNeil 1982) to each side."""
    rng = np.random.default_rng(0)
    failure = np.arange(400) < 100
    found = lm.auc(rng.normal(size=400) + failure, failure)
    a = found["auc"]
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = np.sqrt((a * (1 - a) + 99 * (q1 - a * a) + 299 * (q2 - a * a)) / (100 * 300))
    np.testing.assert_allclose([a - found["low"], found["high"] - a], 1.96 * error, rtol=0.3)


def test_summaries_see_nothing_of_what_comes_after_the_landmark():
    values = np.full((2, 40), np.nan)
    values[:, 1:30] = np.arange(29)
    values[1] *= 2
    early, late = lm.summarise(values, 20, "mean"), lm.summarise(values, 20, "last")
    np.testing.assert_allclose(early, [9, 18])  # steps 1 to 19
    np.testing.assert_allclose(late, [13.5, 27])  # steps 10 to 19
    np.testing.assert_allclose(lm.summarise(values, 20, "max"), [18, 36])
    spread = np.std(np.arange(19))
    np.testing.assert_allclose(lm.summarise(values, 20, "spread"), [spread, 2 * spread])
    values[:, 20:] = 1e9
    np.testing.assert_allclose(lm.summarise(values, 20, "mean"), early)


@pytest.fixture(scope="module")
def driven(finished_avoiding):
    return lm.drive(policy_lib.load(finished_avoiding.workdir), jax.random.key(0), 8, 25)


def test_episodes_are_disturbed_in_turn():
    """Each kind by itself, up to its greatest strength."""
    d = lm.disturbances(jax.random.key(0), 400)
    for kind, values in ((1, d.shift), (2, d.push), (3, d.noise[:, None])):
        touched = np.abs(np.asarray(values)).max(1) > 0
        assert touched[np.asarray(d.kind) == kind].mean() > 0.95
        assert not touched[np.asarray(d.kind) != kind].any()
    assert 0.011 < d.noise.max() <= 0.012
    assert not d.strength[np.asarray(d.kind) == 0].any()


def test_monitors_are_of_the_mixture_and_the_action(driven, finished_avoiding):
    """Recomputed from what the policy saw; an action's log q by the density of then and of now."""
    policy = policy_lib.load(finished_avoiding.workdir)
    assert list(driven.monitors) == sorted(lm.MONITORS)  # as JAX orders a dictionary
    i, t = 0, 3
    assert driven.steps[i] > t
    now, then = (policy.mixture(policy_lib.History(driven.histories[i, j], driven.valid[i, j]))
                 for j in (t, t - 1))
    action = driven.histories[i, t, -1, :2] - driven.histories[i, t - 1, -1, :2]
    found = {name: values[i, t] for name, values in driven.monitors.items()}
    log_q = [float(mixture.log_prob(q, action)) for q in (then, now)]
    np.testing.assert_allclose(found["gating entropy"], mixture.gating_entropy(now), rtol=1e-3)
    np.testing.assert_allclose(found["−log q(previous action)"], -log_q[1], rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found["surprise"], log_q[0] - log_q[1], rtol=1e-3, atol=2e-2)
    assert np.isnan(driven.monitors["surprise"][:, 0]).all()
    assert (np.isfinite(driven.monitors["gating entropy"]).sum(1) == driven.steps).all()


def test_undisturbed_episodes_are_those_of_the_simulator(finished_avoiding, monkeypatch):
    """A rod that is driven straight on ends where `rollout` says."""
    class Straight:
        window, min_weight, acting = 2, 0.0, "sampled_mean"

        def mixture(self, history):
            n = len(history.observations)
            return mixture.Mixture(np.zeros((n, 1)), np.tile([0.0, 0.008], (n, 1, 1)),
                                   np.full((n, 1, 2), 0.01))

    calm = lm.disturbances(jax.random.key(0), 4)
    calm = jax.tree.map(np.zeros_like, calm)
    monkeypatch.setattr(lm, "disturbances", lambda key, num: calm)
    monkeypatch.setattr(simulator, "START_NOISE", 0.0)
    _, states, _ = lm._drive.__wrapped__(Straight(), jax.random.key(0), 4, 120)
    expected = simulator.rollout(
        lambda history, valid, key: np.tile([0.0, 0.008], (4, 1)), jax.random.key(0), 4,
        window=2, start_noise=0.0, episode_limit=120)
    for ours, theirs in ((states.success, expected.success), (states.collided, expected.collided),
                         (states.steps, expected.steps)):
        np.testing.assert_array_equal(ours, theirs)
    assert expected.steps[0] < 120


def test_the_choice_is_made_on_the_first_run_alone(driven):
    """Of two monitors the one that tells the failures of that run; thresholds with the false
    alarms that were asked for."""
    rng, n, length = np.random.default_rng(0), 200, 70
    success = np.arange(n) >= 60
    monitors = {name: rng.normal(size=(n, length)) for name in lm.MONITORS}
    monitors["surprise"] = monitors["surprise"] + 0.5 * ~success[:, None]
    made = driven._replace(
        kind=np.arange(n) % 4, strength=np.zeros(n), success=success, collided=~success,
        steps=np.full(n, length), monitors=monitors, valid=np.ones((n, length, 2), bool))
    chosen, thresholds = lm.choose(made)
    assert chosen == "surprise, mean"
    found = lm.report_of(made, chosen, thresholds)
    for at in found["landmarks"].values():
        assert at["at_risk"] == n and at["failures"] == 60
        assert abs(at["false_alarms"] - lm.FALSE_ALARMS) < 0.011
        assert at["failures_foretold"] > 0.2


def test_the_experiment_runs(finished_avoiding, tmp_path, capsys, monkeypatch):
    """One run: chosen on half of the episodes, judged on the other; JSON, figure, table."""
    monkeypatch.setattr(lm, "LANDMARKS", (2, 4))
    monkeypatch.setattr(lm, "LEAD", 1)
    out = tmp_path / "monitor"
    record = lm.run([finished_avoiding.workdir], out, 8, limit=25)
    assert list(record["runs"]) == ["run, even", "run, odd"]
    stored = json.loads(out.with_suffix(".json").read_text())
    assert stored["chosen"] == record["chosen"] and stored["chosen_on"] == "run, even"
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert any(name.startswith("teacher's spread (16 calls)")
               for name in record["runs"]["run, odd"]["landmarks"]["4"]["auc"])
    assert "chosen on run, even" in lm.table(record)
