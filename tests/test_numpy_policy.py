"""The policy in NumPy alone: it acts, and says its likelihood, as the policy it was made from."""

import jax
import numpy as np
import pytest
import students
from contexts import randomised

from vdd_jax import export, export_parity, numpy_policy
from vdd_jax import policy as policy_lib
from vdd_jax.numpy_policy import History, NumpyPolicy

CONFIGS = students.configs()
RNG = np.random.default_rng


def pair(name: str, **changes):
    """The policy of a student and the same in NumPy."""
    policy = students.student(CONFIGS[name]).replace(**changes)
    return policy, NumpyPolicy(*export.numpy_content(policy))


@pytest.fixture(scope="module")
def windows():
    return pair("windows", min_weight=0.0)


@pytest.fixture(scope="module")
def goal():
    return pair("transformer")


def seen(policy, batch=(), seed=0, kind=History):
    """A history, or an observation, with these batch axes."""
    given = export_parity.random_inputs(policy, int(np.prod(batch)), seed)
    given = {k: v.reshape(*batch, *v.shape[1:]) for k, v in given.items()}
    if not policy.window:
        return given["observation"]
    return kind(given["observations"], given["valid"], goal=given.get("goal"))


def test_likelihood_and_gating_entropy(windows):
    """Those of the policy, with and without batch axes."""
    policy, ours = windows
    for batch in ((2, 3), ()):
        here, there = seen(policy, batch), seen(policy, batch, kind=policy_lib.History)
        action = np.asarray(policy.sample(there, jax.random.key(0)))
        np.testing.assert_allclose(ours.log_prob(here, action), policy.log_prob(there, action),
                                   rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(ours.gating_entropy(here), policy.gating_entropy(there),
                                   rtol=1e-4, atol=1e-5)
        assert ours.mixture(here).scale_tril.shape == (*batch, 3, 2, 2)


def test_the_density_of_a_chunk():
    """`[H, A]` actions, in the order of the mixture's numbers."""
    policy, ours = pair("transformer, absolute")
    here, there = seen(policy, (2,)), seen(policy, (2,), kind=policy_lib.History)
    action = np.asarray(policy.sample(there, jax.random.key(0)))
    assert ours.act(here, RNG(0)).shape == action.shape == (2, 2, 2)
    np.testing.assert_allclose(ours.log_prob(here, action), policy.log_prob(there, action),
                               rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["windows", "transformer", "independent", "diagonal", "toy"])
def test_acting_by_the_mean_of_a_drawn_expert(name):
    """In proportion to the gating; a single action is computed for its expert alone, and a batch
    for each expert's share."""
    policy, ours = pair(name, min_weight=0.0)
    one = seen(policy)
    q = ours.mixture(one)
    many = np.broadcast_to(one, (600, *np.shape(one))) if not policy.window else History(*(
        None if v is None else np.broadcast_to(v, (600, *v.shape)) for v in one))
    rng = RNG(0)
    for drawn in (ours.act(many, rng), np.stack([ours.act(one, rng) for _ in range(600)])):
        away = np.linalg.norm(drawn[:, None] - q.means, axis=-1)
        assert away.min(1).max() < 1e-4
        share = np.bincount(away.argmin(1), minlength=len(q.means)) / 600
        np.testing.assert_allclose(share, np.exp(q.log_weights), atol=0.07)
    np.testing.assert_allclose(ours.act(one, rng, "most_likely_mean"),
                               q.means[q.log_weights.argmax()], rtol=1e-4, atol=1e-5)


def test_samples_have_the_mean_and_covariance_of_the_mixture(windows):
    policy, ours = windows
    one = seen(policy)
    q = ours.mixture(one)
    many = History(*(None if v is None else np.broadcast_to(v, (20_000, *v.shape)) for v in one))
    drawn = ours.act(many, RNG(1), "sample")
    weights = np.exp(q.log_weights)
    mean = weights @ q.means
    apart = q.means - mean
    covariance = np.einsum("z,zij->ij", weights, q.scale_tril @ q.scale_tril.swapaxes(1, 2)
                           + apart[:, :, None] * apart[:, None])
    std = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((drawn.mean(0) - mean) / std, 0, atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T) / np.outer(std, std),
                               covariance / np.outer(std, std), atol=0.06)


def test_experts_below_the_least_weight_are_not_drawn(windows):
    """As `core.mixture.act`: what stays is drawn in proportion."""
    policy, ours = windows
    one = seen(policy)
    weights = np.exp(ours.mixture(one).log_weights)
    cut = float(np.sort(weights)[:2].mean())  # between the rarest and the next
    kept = NumpyPolicy(*export.numpy_content(policy.replace(min_weight=cut)))
    rng, means = RNG(0), kept.mixture(one).means
    drawn = np.stack([kept.act(one, rng) for _ in range(500)])
    share = np.bincount(np.linalg.norm(drawn[:, None] - means, axis=-1).argmin(1),
                        minlength=3) / 500
    expected = np.where(weights < cut, 0, weights) / weights[weights >= cut].sum()
    assert share[weights.argmin()] == 0
    np.testing.assert_allclose(share, expected, atol=0.07)
    with pytest.raises(ValueError, match="sampled_mean, most_likely_mean, sample, not 'mean'"):
        kept.act(one, rng, "mean")


@pytest.mark.parametrize("name", ["windows", "transformer, absolute"])
def test_it_acts_within_the_range(name):
    """Of the policy's scaler, one action and many; what it says of its density is as without."""
    policy, free = pair(name)
    here, one = seen(policy, (50,)), seen(policy)
    action = free.act(here, RNG(0), "sample").reshape(50, -1)
    low, high = np.quantile(action, [0.2, 0.7], axis=0)
    policy, ours = pair(name, scaler=policy.scaler._replace(action_low=low, action_high=high))
    for how in numpy_policy.ACTING:
        for given in (here, one):
            found = ours.act(given, RNG(0), how)
            expected = free.act(given, RNG(0), how)
            flat = np.clip(expected.reshape(-1, len(low)), low, high)
            np.testing.assert_allclose(found.ravel(), flat.ravel(), rtol=1e-6)
    assert not np.array_equal(np.clip(action, low, high), action)
    np.testing.assert_array_equal(ours.mixture(one).means, free.mixture(one).means)


def test_it_acts_in_the_policys_own_way(windows):
    """Which the file says; by means where it is older."""
    policy, _ = windows
    one = seen(policy)
    header, arrays = export.numpy_content(policy.replace(acting="sample"))
    ours = NumpyPolicy(header, arrays)
    sample, mean = (ours.act(one, RNG(0), how) for how in ("sample", "sampled_mean"))
    np.testing.assert_array_equal(ours.act(one, RNG(0)), sample)
    older = NumpyPolicy({k: v for k, v in header.items() if k != "acting"}, arrays)
    np.testing.assert_array_equal(older.act(one, RNG(0)), mean)
    assert not np.array_equal(sample, mean)


def test_the_end_of_the_unit_interval_draws_the_last_that_may_act():
    """Whatever the generator gives, no expert that has no weight."""
    class Given:
        def __init__(self, value):
            self.value = value

        def random(self, shape):
            return np.full(shape, self.value)

    log_weights = np.log(np.float32([[0.005, 0.5, 0.49, 0.005]]))
    for value, expert in ((0.0, 1), (np.nextafter(1, 0), 2)):
        assert numpy_policy._draw(log_weights, Given(value), 0.01) == [expert]


def test_what_is_kept_of_a_goal_is_of_that_goal(goal):
    """Another goal, another batch, the first goal again: each as from scratch."""
    policy, ours = goal
    fresh = [NumpyPolicy(*export.numpy_content(policy)) for _ in range(4)]
    first, other, many = seen(policy), seen(policy, (), 1), seen(policy, (4,), 2)
    for given, new in zip((first, other, many, first), fresh, strict=True):
        np.testing.assert_array_equal(ours.mixture(given).means, new.mixture(given).means)
    changed = first.goal.copy()
    before = ours.mixture(first._replace(goal=changed)).means
    changed[0, 0] += 1.0  # in place, as a robot's buffer
    assert np.abs(ours.mixture(first._replace(goal=changed)).means - before).max() > 1e-3


def test_products_that_are_cut_are_the_same():
    """Wide layers of few rows are multiplied in parts, of which the last may be narrower."""
    x, kernel = (randomised(np.empty(s, np.float32)) for s in ((6, 300), (300, 1_333)))
    x, kernel = np.asarray(x), np.asarray(kernel)
    assert len(x) * kernel.size > 2 * numpy_policy._SMALL
    np.testing.assert_allclose(numpy_policy._product(x, kernel), x @ kernel, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change, words", [
    (lambda h: h.observations[:, :3], r"observation has shape \(3, 3\).*\[\.\.\., 3, 4\]"),
    (lambda h: h._replace(goal=None), r"pursues a goal; .*\[\.\.\., 2, 4\]"),
    (lambda h: h._replace(goal=h.goal * np.nan), "goal holds NaN or infinity"),
    (lambda h: h._replace(valid=np.ones(2)), r"observation's valid has shape \(2,\)"),
])
def test_bad_observations_are_refused(goal, change, words):
    policy, ours = goal
    for call in (lambda h: ours.act(h, RNG(0)), ours.mixture, ours.gating_entropy,
                 lambda h: ours.log_prob(h, np.zeros(2))):
        with pytest.raises(ValueError, match=words):
            call(change(seen(policy)))


def test_bad_actions_and_files_are_refused(goal, windows, tmp_path):
    policy, ours = goal
    with pytest.raises(ValueError, match=r"action has shape \(3,\).*\[\.\.\., 2\]"):
        ours.log_prob(seen(policy), np.zeros(3))
    with pytest.raises(ValueError, match="has no goal; leave it out"):
        windows[1].act(seen(windows[0])._replace(goal=np.zeros((1, 4))), RNG(0))
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="was not written by vdd_jax.export"):
        numpy_policy.load(tmp_path / "other.npz")
    np.savez(tmp_path / "future.npz", header='{"format": 99}')
    with pytest.raises(ValueError, match="has format 99; .* reads format 1"):
        numpy_policy.load(tmp_path / "future.npz")
