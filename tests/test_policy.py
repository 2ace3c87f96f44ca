"""The finished policy, as its user meets it."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vdd_jax import policy as policy_lib
from vdd_jax import problem
from vdd_jax.checkpoint import CheckpointError
from vdd_jax.core import mixture
from vdd_jax.core.mixture import Mixture
from vdd_jax.data import Scaler
from vdd_jax.policy import History, Policy, SampledPolicy

pytest_plugins = "smoke_run"

OBSERVATION = np.array([0.3], np.float32)
BATCH = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3, 1)
KEY = jax.random.key(0)


def test_batched_equals_one_by_one(policy):
    """Any batch axes; the mixture and the density at each observation are its own."""
    action = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    together, log_prob = policy.mixture(BATCH), policy.log_prob(BATCH, action)
    assert log_prob.shape == (2, 3) and together.means.shape == (2, 3, 2, 2)
    for i, j in np.ndindex(2, 3):
        alone = policy.mixture(BATCH[i, j])
        for one, many in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, many[i, j], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(policy.log_prob(BATCH[i, j], action[i, j]), log_prob[i, j],
                                   rtol=1e-4, atol=1e-5)


def test_numpy_jax_and_lists_are_all_the_same(policy):
    """In NumPy of any float type, JAX or plain lists; out JAX."""
    expected = policy.act(OBSERVATION, KEY)
    assert isinstance(expected, jax.Array) and expected.dtype == jnp.float32
    for same in (OBSERVATION.astype(np.float64), jnp.asarray(OBSERVATION), [float(OBSERVATION[0])]):
        np.testing.assert_array_equal(policy.act(same, KEY), expected)


def test_log_prob_integrates_to_1_in_the_tasks_units(policy):
    """On a grid of actions as the task knows them: the scaler's Jacobian is in the density."""
    line = np.arange(-8, 8, 0.1, dtype=np.float32)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    observation = np.broadcast_to(OBSERVATION, (len(grid), 1))
    density = np.exp(np.asarray(policy.log_prob(observation, grid), np.float64))
    np.testing.assert_allclose(density.sum() * 0.1**2, 1.0, atol=1e-3)


def test_the_policy_is_the_teacher_it_was_distilled_from(policy, finished):
    """Means, stds and likelihoods are those of the target in the task's units."""
    task = problem.build(finished.config, finished.workdir)
    target = mixture.affine(
        task.teacher.density(task.scaler.scale_observation(OBSERVATION)),
        task.scaler.action_std, task.scaler.action_mean)
    found = policy.mixture(OBSERVATION)
    order = np.argsort(found.means[:, 0])
    np.testing.assert_allclose(found.means[order], target.means[np.argsort(target.means[:, 0])],
                               atol=0.2)
    stds = np.linalg.svd(np.asarray(found.scale_tril), compute_uv=False)
    np.testing.assert_allclose(stds, 0.5, atol=0.1)


@pytest.mark.parametrize("min_weight", [0.0, 0.3])
def test_a_single_action_is_that_of_all_experts(policy, min_weight):
    """Computing the drawn expert alone changes no action; every expert is drawn."""
    alone = policy.replace(min_weight=min_weight)
    assert alone.apply_one is not None
    everyone = alone.replace(apply_one=None)
    keys = jax.random.split(KEY, 24)
    for observation in (OBSERVATION, BATCH[:1, 0]):
        found = np.stack([alone.act(observation, key) for key in keys])
        np.testing.assert_allclose(
            found, np.stack([everyone.act(observation, key) for key in keys]), rtol=1e-5, atol=1e-6)
    assert len(np.unique(found.round(4), axis=0)) == 2
    # two policies of one module share their compiled programs
    assert alone.apply_one == policy.apply.__self__.apply_one


def test_acting(policy):
    """The mean of a drawn expert, of the likeliest, or a sample of the whole mixture."""
    q = policy.mixture(OBSERVATION)
    many = np.broadcast_to(OBSERVATION, (400, 1))
    drawn = np.asarray(policy.act(many, KEY))
    expert = np.linalg.norm(drawn[:, None] - q.means, axis=-1)
    assert np.all(expert.min(-1) < 1e-4)
    share = np.bincount(expert.argmin(-1), minlength=2) / 400
    np.testing.assert_allclose(share, np.exp(q.log_weights), atol=0.1)
    np.testing.assert_allclose(
        policy.act(OBSERVATION, KEY, "most_likely_mean"), q.means[np.argmax(q.log_weights)],
        rtol=1e-5)
    spread = np.asarray(policy.act(many, KEY, "sample"))
    nearest = np.linalg.norm(spread[:, None] - q.means, axis=-1).argmin(-1)
    residual = spread - np.asarray(q.means)[nearest]
    np.testing.assert_allclose(residual.std(0), 0.5, atol=0.1)
    with pytest.raises(ValueError, match="sampled_mean, most_likely_mean, sample, not 'mean'"):
        policy.act(OBSERVATION, KEY, "mean")


def test_a_policy_acts_in_its_own_way(policy):
    """Unless it is told how."""
    ways = {how: np.asarray(policy.act(OBSERVATION, KEY, how))
            for how in ("sampled_mean", "most_likely_mean", "sample")}
    assert not np.array_equal(ways["sample"], ways["sampled_mean"])
    for own, action in ways.items():
        told = policy.replace(acting=own)
        np.testing.assert_array_equal(told.act(OBSERVATION, KEY), action)
        np.testing.assert_array_equal(told.act(OBSERVATION, KEY, "sample"), ways["sample"])
    np.testing.assert_array_equal(policy.act(OBSERVATION, KEY), ways["sampled_mean"])


def test_the_way_of_acting_is_the_configurations(finished_avoiding, monkeypatch):
    def told(*given):
        scaler, settings = found(*given)
        settings.policy.acting = "sample"
        return scaler, settings

    found = problem.scaler_and_config
    assert policy_lib.load(finished_avoiding.workdir).acting == "sampled_mean"
    monkeypatch.setattr(problem, "scaler_and_config", told)
    assert policy_lib.load(finished_avoiding.workdir).acting == "sample"


def test_the_likeliest_is_not_always_the_first(policy):
    """The argmax is over the gating, whichever expert it is."""
    q = policy.mixture(OBSERVATION)
    logits = policy.params["gating"]["logits"]
    for best in (0, 1):
        bias = jnp.zeros(2).at[best].set(50.0)
        params = {**policy.params, "gating": {
            **policy.params["gating"], "logits": {**logits, "bias": bias}}}
        sure = policy.replace(params=params)
        for how in ("most_likely_mean", "sampled_mean"):
            np.testing.assert_allclose(sure.act(OBSERVATION, KEY, how), q.means[best], rtol=1e-4)


def test_the_least_weight_of_acting(policy, finished_avoiding):
    """It is the configuration's; a rarer expert never acts, and still counts in the density."""
    assert policy_lib.load(finished_avoiding.workdir).min_weight == 0.1
    logits = policy.params["gating"]["logits"]
    bias = jnp.log(jnp.array([0.9, 0.1])) + 0 * logits["bias"]
    params = {**policy.params, "gating": {**policy.params["gating"], "logits": {
        "kernel": 0 * logits["kernel"], "bias": bias}}}
    whole, cut = (policy.replace(params=params, min_weight=w) for w in (0.0, 0.2))
    means = whole.mixture(OBSERVATION).means
    many = np.broadcast_to(OBSERVATION, (200, 1))
    rare = [np.isclose(p.act(many, KEY), means[1], atol=1e-5).all(axis=1).mean()
            for p in (whole, cut)]
    assert 0.03 < rare[0] < 0.2 and rare[1] == 0
    np.testing.assert_array_equal(*(p.log_prob(OBSERVATION, means[1]) for p in (whole, cut)))


def test_randomness_is_the_keys(policy):
    """The same key, the same action; another key, another; every element of a batch its own."""
    many = np.broadcast_to(OBSERVATION, (20, 1))
    for draw in (lambda key: policy.act(many, key, "sample"),
                 lambda key: policy.sample(many, key),
                 lambda key: policy.sample(OBSERVATION, key, (20,))):
        first = np.asarray(draw(KEY))
        np.testing.assert_array_equal(first, draw(KEY))
        assert not np.any(first == np.asarray(draw(jax.random.key(1))))
        assert len(np.unique(first[:, 0])) == 20


def test_shapes_of_samples(policy):
    """`shape` in front of the batch axes."""
    assert policy.sample(BATCH, KEY, (5,)).shape == (5, 2, 3, 2)
    assert policy.sample(OBSERVATION, KEY).shape == (2,)


def test_entropy(policy):
    """Two separate experts: the entropy of one and of the choice."""
    q = policy.mixture(BATCH)
    each = 1 + np.log(2 * np.pi) + np.linalg.slogdet(np.asarray(q.scale_tril))[1]
    weights = np.exp(q.log_weights)
    exact = (weights * each).sum(-1) + mixture.gating_entropy(q)
    found = policy.entropy(BATCH, KEY, 4_000)
    np.testing.assert_allclose(found, exact, atol=0.08)
    np.testing.assert_allclose(policy.gating_entropy(BATCH), mixture.gating_entropy(q), rtol=1e-5)
    lower, upper = policy.entropy_bounds(BATCH)
    assert np.all(lower < found + 0.08) and np.all(found - 0.08 < upper)
    np.testing.assert_allclose(upper, exact, atol=0.02)


@pytest.mark.parametrize("call", [
    lambda p, o: p.act(o, KEY), lambda p, o: p.sample(o, KEY), lambda p, o: p.mixture(o),
    lambda p, o: p.log_prob(o, np.zeros((*np.shape(o)[:-1], 2))), lambda p, o: p.entropy(o, KEY),
    lambda p, o: p.gating_entropy(o), lambda p, o: p.entropy_bounds(o),
])
@pytest.mark.parametrize("observation, words", [
    (np.zeros(2), r"observation has shape \(2,\).*\[\.\.\., 1\]"),
    (jnp.zeros((4, 3)), r"observation has shape \(4, 3\)"),
    (np.zeros((4, 0)), r"observation has shape \(4, 0\)"),
    (0.5, r"observation has shape \(\)"),
    (np.array([np.nan]), "observation holds NaN or infinity"),
    (np.array([[0.0], [np.inf]]), "observation holds NaN or infinity"),
])
def test_bad_observations_are_refused(policy, call, observation, words):
    """A wrong size or NaN is a ValueError that says so, in every method."""
    with pytest.raises(ValueError, match=words):
        call(policy, observation)


@pytest.mark.parametrize("action, words", [
    (np.zeros(1), r"action has shape \(1,\).*\[\.\.\., 2\]"),
    (np.zeros((3, 3)), r"action has shape \(3, 3\)"),
    (np.array([0.0, np.nan]), "action holds NaN"),
])
def test_bad_actions_are_refused(policy, action, words):
    """Actions are checked like observations."""
    with pytest.raises(ValueError, match=words):
        policy.log_prob(OBSERVATION, action)


def test_a_policy_goes_through_jit_and_vmap(policy):
    """It is a pytree: it can be an argument of a compiled function."""
    act = jax.jit(lambda policy, o, key: policy.act(o, key))
    np.testing.assert_allclose(act(policy, jnp.asarray(OBSERVATION), KEY),
                               policy.act(OBSERVATION, KEY), rtol=1e-5)


def test_loading_twice_gives_the_same(policy, finished):
    """A load is a pure function of the directory, which it does not change."""
    before = sorted(p for p in finished.workdir.rglob("*"))
    again = policy_lib.load(str(finished.workdir))
    for a, b in zip(jax.tree.leaves(policy.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert before == sorted(p for p in finished.workdir.rglob("*"))


def test_a_directory_without_a_student_is_refused(tmp_path):
    """Missing, empty, of a teacher alone, of a stage, and with an empty checkpoint directory."""
    (tmp_path / "taught" / "teacher" / "checkpoints").mkdir(parents=True)
    for folder, words in (
            ("missing", "holds no student: there is no such directory"),
            (".", "holds no student; run python -m vdd_jax.main"),
            ("taught", "holds no student, a teacher alone; run .* 'distill' among config.stages"),
            ("taught/teacher", f"one stage; give that of the run, {tmp_path / 'taught'}$")):
        with pytest.raises(CheckpointError, match=words):
            policy_lib.load(tmp_path / folder)
    (tmp_path / "distill" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        policy_lib.load(tmp_path)


@pytest.mark.parametrize("change", [
    lambda stored: stored.pop("config"),
    lambda stored: stored.update(config={"optimizer": {"lr": 1}}),
    lambda stored: stored.update(config=None),
    lambda stored: stored.update(format=99),
    lambda stored: stored["config"]["student"].update(num_experts=5),  # another architecture
])
def test_a_checkpoint_of_something_else_is_refused(finished, tmp_path, change):
    """Whatever the stored configuration lacks or says, it is a CheckpointError with the place."""
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    for file in workdir.glob("distill/checkpoints/*/config/metadata"):
        stored = json.loads(file.read_text())
        change(stored)
        file.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match="distill/checkpoints"):
        policy_lib.load(workdir)


# ---- windows, goals, chunks

SCALER = Scaler(*(jnp.asarray(v) for v in (
    [1.0, -2.0, 1.0, -2.0], [2.0, 0.5, 2.0, 0.5], [3.0, 0.0, -1.0], [4.0, 1.0, 0.5],
    [0.1, 0.2, 0.3])))
WINDOWS = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
GOAL = np.random.default_rng(1).normal(size=(5, 1, 3)).astype(np.float32)


def echo(variables, context):
    """One expert whose mean is what it was shown: four numbers of the newest step, the change,
    the goal, and the number of observations that were made."""
    seen = jnp.stack([
        context.observations[..., -1, 0], context.steps[..., -1, 1],
        context.goal[..., 0].sum(-1), context.valid.sum(-1).astype(jnp.float32)], axis=-1)
    return Mixture(jnp.zeros((*seen.shape[:-1], 1)), seen[..., None, :],
                   jnp.full((*seen.shape[:-1], 1, 4), 0.5))


def windowed(goal=0, chunk=2, apply=echo) -> Policy:
    """Windows of 2 observations of 3 numbers, chunks of 2 actions of 2 numbers."""
    return Policy({}, SCALER, apply, 3, 4 // chunk, window=2, chunk=chunk, goal_length=goal)


def test_shapes_of_chunks():
    """`[..., H, A]` for any batch axes; a chunk of 1 has no axis of its own; the density is one
    of the whole chunk."""
    many = np.broadcast_to(WINDOWS, (6, 5, 2, 3))
    for observation, batch in ((WINDOWS[0], ()), (WINDOWS, (5,)), (many, (6, 5))):
        for chunk, action in ((2, (2, 2)), (1, (4,))):
            policy = windowed(chunk=chunk)
            assert policy.act(observation, KEY).shape == (*batch, *action)
            assert policy.sample(observation, KEY, (7,)).shape == (7, *batch, *action)
            samples = policy.sample(observation, KEY)
            assert policy.log_prob(observation, samples).shape == batch
            assert policy.entropy(observation, KEY, 10).shape == batch
            assert policy.mixture(observation).means.shape == (*batch, 1, 4)
    with pytest.raises(ValueError, match=r"action has shape \(5, 4\).*\[\.\.\., 2, 2\]"):
        windowed().log_prob(WINDOWS, np.zeros((5, 4)))


def test_a_history_by_hand():
    """Scaled as in training, the change 0 where there was no step, the action unscaled and the
    chunk's first action first."""
    valid = np.array([[True, True], [False, True], [True, True], [True, True], [False, True]])
    found = windowed(goal=1).act(History(WINDOWS, valid, goal=GOAL), KEY)
    newest = (WINDOWS[:, 1, 0] - 3) / 4
    step = np.where(valid[:, 0], (WINDOWS[:, 1, 1] - WINDOWS[:, 0, 1]) / 0.2, 0.0)
    goal = (GOAL[:, 0, 0] - 3) / 4
    scaled = np.stack([newest, step, goal, valid.sum(-1)], axis=-1).reshape(5, 2, 2)
    np.testing.assert_allclose(found, scaled * [2, 0.5] + [1, -2], rtol=1e-4, atol=1e-5)


def test_actions_are_within_the_range():
    """Of the scaler, for any way to act; samples and density are of the whole q(a|s)."""
    free = windowed()
    low, high = np.quantile(free.act(WINDOWS, KEY).reshape(5, 4), [0.3, 0.6], axis=0)
    policy = free.replace(scaler=SCALER._replace(action_low=low, action_high=high))
    for how in ("sampled_mean", "most_likely_mean", "sample"):
        expected = np.clip(free.act(WINDOWS, KEY, how).reshape(5, 4), low, high)
        np.testing.assert_allclose(policy.act(WINDOWS, KEY, how).reshape(5, 4), expected, rtol=1e-6)
    samples = policy.sample(WINDOWS, KEY)
    np.testing.assert_array_equal(samples, free.sample(WINDOWS, KEY))
    assert not np.array_equal(np.clip(samples.reshape(5, 4), low, high), samples.reshape(5, 4))
    np.testing.assert_array_equal(policy.log_prob(WINDOWS, samples),
                                  free.log_prob(WINDOWS, samples))


def test_a_sampled_policys_actions_are_within_the_range():
    """Its samples are as without."""
    free = SampledPolicy(
        {}, SCALER, lambda params, seen, key, shape, steps: jax.random.normal(key, shape),
        lambda steps: steps, "noise", 3, 2, 1, window=2, chunk=2)
    drawn = free.act(WINDOWS, KEY)
    low, high = np.quantile(drawn.reshape(5, 4), [0.3, 0.6], axis=0)
    policy = free.replace(scaler=SCALER._replace(action_low=low, action_high=high))
    np.testing.assert_allclose(policy.act(WINDOWS, KEY).reshape(5, 4),
                               np.clip(drawn.reshape(5, 4), low, high), rtol=1e-6)
    np.testing.assert_array_equal(policy.sample(WINDOWS, KEY), drawn)


def test_the_density_of_a_chunk():
    """The product of scipy's densities of its numbers, in the task's units."""
    action = np.random.default_rng(2).normal(size=(5, 2, 2)).astype(np.float32)
    policy = windowed()
    mean = policy.act(WINDOWS, KEY)
    expected = scipy.stats.norm(mean, 0.5 * np.array([2, 0.5])).logpdf(action).sum((-2, -1))
    np.testing.assert_allclose(policy.log_prob(WINDOWS, action), expected, rtol=1e-4)


def test_an_array_is_a_history_of_observations_all_made():
    """And lists and NumPy of any float type are the same."""
    policy = windowed()
    expected = policy.act(WINDOWS, KEY)
    for same in (History(WINDOWS), History(WINDOWS, np.ones((5, 2), bool)), WINDOWS.tolist(),
                 WINDOWS.astype(np.float64), History(WINDOWS, past_actions=np.zeros((5, 1, 2)))):
        np.testing.assert_array_equal(policy.act(same, KEY), expected)


def test_past_actions_are_scaled_like_actions():
    """By the statistics of a single action, whatever the chunk."""
    shown = []

    def apply(variables, context):
        shown.append(context)
        return echo(variables, context)

    past = np.array([[3.0, -1.0]], np.float32)
    with jax.disable_jit():
        windowed(apply=apply).mixture(History(WINDOWS[0], past_actions=past))
    np.testing.assert_allclose(shown[-1].past_actions, [[1.0, 2.0]])


@pytest.mark.parametrize("call", [
    lambda p, o: p.act(o, KEY), lambda p, o: p.sample(o, KEY), lambda p, o: p.mixture(o),
    lambda p, o: p.log_prob(o, np.zeros((5, 2, 2))), lambda p, o: p.entropy(o, KEY)])
@pytest.mark.parametrize("history, words", [
    (WINDOWS[:, 0], r"observation has shape \(5, 3\).*\[\.\.\., 2, 3\]"),
    (WINDOWS[..., :2], r"observation has shape \(5, 2, 2\)"),
    (WINDOWS[0, 0], r"observation has shape \(3,\)"),
    (np.full((2, 3), np.nan), "observation holds NaN"),
    (WINDOWS, r"pursues a goal; give policy.History\(observations, goal=…\).*\[\.\.\., 1, 3\]"),
    (History(WINDOWS), "pursues a goal"),
    (History(WINDOWS, goal=GOAL[:, 0]), r"goal has shape \(5, 3\)"),
    (History(WINDOWS, goal=GOAL * np.inf), "goal holds NaN or infinity"),
    (History(WINDOWS, np.ones((5, 3), bool), goal=GOAL), r"valid has shape \(5, 3\)"),
    (History(WINDOWS, past_actions=np.zeros((5, 2, 2)), goal=GOAL), "past_actions.* has shape"),
])
def test_bad_histories_are_refused(call, history, words):
    """A wrong size of any part, NaN, or no goal where there must be one: a ValueError."""
    with pytest.raises(ValueError, match=words):
        call(windowed(goal=1), history)


def test_a_policy_prints_its_sizes_and_not_its_arrays():
    policy = Policy({"a": jnp.zeros((20, 50)), "b": jnp.zeros(234)}, SCALER, None, 3, 2, window=4)
    assert repr(policy) == ("Policy(observation_dim=3, action_dim=2, window=4, chunk=1, "
                            "goal_length=0, min_weight=0.0, 1,234 parameters)")
