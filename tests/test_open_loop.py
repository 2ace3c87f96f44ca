"""Policies against teachers that are known mixtures: what each number says, and whether it is true.

Analytic teachers, and stand-ins for learned ones whose denoiser is that of a mixture.
"""

import json
import math
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax import config as config_lib
from vdd_jax import open_loop, teachers
from vdd_jax.core import mixture, schedules
from vdd_jax.core.mixture import Mixture
from vdd_jax.data import Scaler
from vdd_jax.types import Batch

OF_SAMPLES = {"sliced_wasserstein", "mmd", "mean_slope", "std_ratio"}
OF_DENSITY = {"nll_held_out", "nll_teacher_samples", "gating_entropy", "experts_used",
              "fisher_by_noise", "hdr_coverage"}
KLS = {"kl_student_teacher", "kl_teacher_student"}
OF_FLOW = KLS | {name + "_stderr" for name in KLS}
LEVELS = {"0.5", "0.8", "0.9", "0.95"}
STD = 0.3
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in (("STATES", 8), ("SAMPLES", 300), ("FLOW_STATES", 4),
                        ("FLOW_SAMPLES", 500)):
        monkeypatch.setattr(open_loop, name, value)


def density(observation, std=STD, shift=0.0):
    """Two modes, to the left and right of the observed number, of weights 0.4 and 0.6."""
    centre = observation[..., None, :1] + shift
    means = centre + jnp.array([[-1.0, 0.5], [1.0, 0.0]])
    weights = jnp.broadcast_to(jnp.log(jnp.array([0.4, 0.6])), means.shape[:-1])
    return Mixture(weights, means, jnp.full(means.shape, std))


def held_out(num=41):
    observation = jnp.linspace(0.5, 2.0, num)[:, None]
    return Batch(observation, mixture.sample(density(observation), jax.random.key(7)))


def analytic_task():
    one, zero = jnp.ones(2), jnp.zeros(2)
    scaler = Scaler(zero[:1], one[:1], zero, one, one[:1])
    return SimpleNamespace(held_out=held_out(), teacher_config=None,
                           teacher=teachers.analytic(density, scaler))


def learned_task(schedule, density=density, batch=None):
    """A teacher of which only the denoiser and the score are known."""
    def score(x, observation, t):
        return mixture.score(
            mixture.diffuse(density(observation), schedule.alpha(t), schedule.sigma(t)), x)

    def denoise(x, observation, t):
        return schedules.convert(schedule, score(x, observation, t), "score", "x0", x, t)

    settings = config_lib.default().teacher
    settings.sampler.update(kind="heun", num_steps=24)
    return SimpleNamespace(held_out=batch or held_out(), teacher_config=settings,
                           teacher=teachers.Teacher(score, schedule, None, denoise))


def measure(task, density, key=KEY):
    """Of the policy that samples this density."""
    def sample(observation, key, num):
        return mixture.sample(density(observation), key, (num,))

    return open_loop.measure(task, sample, key, density)


def gaps(found):
    """Coverage above the levels."""
    return np.array([share - float(level) for level, share in found["hdr_coverage"].items()])


def test_the_policy_that_is_the_teacher():
    """At the floor, without any gap of scores, calibrated; and everything is plain numbers."""
    task = analytic_task()
    found = measure(task, density)
    assert set(found) == OF_SAMPLES | OF_DENSITY and set(found["hdr_coverage"]) == LEVELS
    leaves = jax.tree.leaves(found)
    assert len(leaves) == 8 + 6 + 4 and all(type(v) in (float, int) for v in leaves)
    assert all(math.isfinite(v) for v in leaves) and json.loads(json.dumps(found)) == found
    floor = open_loop.measure(task, partial(open_loop.teacher_samples, task), KEY)
    assert set(floor) == OF_SAMPLES
    assert 0 < floor["sliced_wasserstein"] < 0.2 and abs(floor["mmd"]) < 0.01
    np.testing.assert_allclose(found["sliced_wasserstein"], floor["sliced_wasserstein"], rtol=0.5)
    assert abs(found["mmd"]) < 0.01
    np.testing.assert_allclose([found["mean_slope"], found["std_ratio"]], 1.0, atol=0.05)
    assert list(found["fisher_by_noise"])[0] == "0.01" and list(found["fisher_by_noise"])[-1] == "2"
    assert max(found["fisher_by_noise"].values()) < 1e-6
    assert np.abs(gaps(found)).max() < 0.05
    choice = -0.4 * math.log(0.4) - 0.6 * math.log(0.6)
    entropy = choice + math.log(2 * math.pi * math.e * STD**2)  # the modes do not overlap
    np.testing.assert_allclose(found["gating_entropy"], choice, rtol=1e-5)
    np.testing.assert_allclose(found["nll_teacher_samples"], entropy, atol=0.1)
    exact = -jnp.mean(mixture.log_prob(density(task.held_out.observation), task.held_out.action))
    np.testing.assert_allclose(found["nll_held_out"], exact, rtol=1e-5)
    assert found["experts_used"] == 2


def test_a_policy_of_twice_the_spread():
    """Seen in the spread, the coverage and the scores; the numbers by hand."""
    found = measure(analytic_task(), partial(density, std=2 * STD))
    between = np.array([0.24 * 4, 0.24 * 0.25])  # variances of the mode's mean
    ratio = np.sqrt((between.mean() + 4 * STD**2) / (between.mean() + STD**2))
    np.testing.assert_allclose(found["std_ratio"], ratio, rtol=0.05)
    assert np.all(gaps(found) > 0.02) and found["hdr_coverage"]["0.5"] > 0.75
    # at noise r, one mode: E σ² (x/τ² − x/ς²)² with x ~ N(0, τ²), τ² = 4 s² + r², ς² = s² + r²
    r2 = 0.01**2
    wide, true = 4 * STD**2 + r2, STD**2 + r2
    one_mode = r2 * wide * (1 / wide - 1 / true) ** 2
    np.testing.assert_allclose(found["fisher_by_noise"]["0.01"], one_mode, rtol=0.3)
    assert found["mmd"] > 0.003


def test_a_policy_that_is_shifted():
    """By d in the first number and the second: the distance is |d|/√A; mean and density see it."""
    found = measure(analytic_task(), partial(density, shift=0.8))
    np.testing.assert_allclose(found["sliced_wasserstein"], 0.8, rtol=0.15)
    assert found["mmd"] > 0.2 and found["mean_slope"] > 1.3
    np.testing.assert_allclose(found["std_ratio"], 1.0, atol=0.05)
    assert found["nll_held_out"] > 5 and np.all(gaps(found) < -0.2)


def test_the_same_key_pairs_policies():
    """The teacher's samples are those of the key, whatever the policy; not the policy's own."""
    task, seen = analytic_task(), []

    def constant(observation, key, num):
        return jnp.ones((num, len(observation), 2))

    for sample, key in ((constant, KEY), (partial(open_loop.teacher_samples, task), KEY),
                        (constant, jax.random.key(1))):
        found = open_loop.measure(task, sample, key, density)
        seen.append(found["nll_teacher_samples"])
        assert found["sliced_wasserstein"] > 0.01
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("schedule", [schedules.ve(0.3, 20.0), schedules.vp_cosine(0.2)],
                         ids=["ve", "vp"])
def test_divergences_from_a_learned_teacher(schedule):
    """By the probability flow as by Monte-Carlo on the exact densities, both at the least noise."""
    task = learned_task(schedule)
    student = partial(density, std=0.4, shift=0.15)
    found = measure(task, student)
    assert set(found) == OF_SAMPLES | OF_DENSITY | OF_FLOW
    low = schedule.ratio_min
    assert list(found["fisher_by_noise"])[0] == f"{low:.3g}"
    q, p = (mixture.diffuse(f(jnp.ones((1, 1))), 1.0, low) for f in (student, density))
    for name, (a, b) in (("kl_student_teacher", (q, p)), ("kl_teacher_student", (p, q))):
        x = mixture.sample(a, KEY, (100_000,))
        exact = float(jnp.mean(mixture.log_prob(a, x) - mixture.log_prob(b, x)))
        assert exact > 0.05
        np.testing.assert_allclose(found[name], exact, atol=0.03)
        assert 0 < found[name + "_stderr"] < 0.02


@pytest.mark.parametrize("schedule", [schedules.ve(0.1, 20.0), schedules.vp_cosine(0.06)],
                         ids=["ve", "vp"])
def test_the_learned_teacher_itself(schedule):
    """Of a policy that is the teacher the divergences and the gaps of scores are 0."""
    found = measure(learned_task(schedule), density)
    assert max(found["fisher_by_noise"].values()) < 1e-6
    for name in KLS:
        assert abs(found[name]) < 0.003
    assert np.abs(gaps(found)).max() < 0.05


def test_the_one_step_teacher_and_large_actions():
    """One step gives the mean alone; actions of 17 numbers have no divergences."""
    batch = Batch(jnp.zeros((9, 1)), jnp.ones((9, 17)))

    def many(observation):
        shape = (*observation.shape[:-1], 1, 17)
        return mixture.uniform(jnp.ones(shape), jnp.full(shape, 0.5))

    task = learned_task(schedules.ve(0.1, 80.0), many, batch)
    assert set(measure(task, many)) == OF_SAMPLES | OF_DENSITY
    one = open_loop.teacher_samples(task, batch.observation, KEY, 20, num_steps=1)
    assert one.shape == (20, 9, 17)
    np.testing.assert_allclose(one, 1.0, atol=0.05)


def test_states_are_taken_from_all_episodes():
    """Evenly, not the first ones; all where there are few."""
    np.testing.assert_array_equal(open_loop._spread(jnp.arange(41), 8), np.arange(0, 40, 5))
    np.testing.assert_array_equal(open_loop._spread(jnp.arange(5), 8), np.arange(5))
