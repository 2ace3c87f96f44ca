"""Distillation: what each update may touch, how often, at which noise, and that it works."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contexts import context
from tiny_config import tiny, tiny_avoiding

from vdd_jax import checkpoint, distill, distill_losses, noise_levels, problem
from vdd_jax.core import mixture, objectives, schedules
from vdd_jax.core.mixture import Mixture
from vdd_jax.core.objectives import Level
from vdd_jax.data import batch_at
from vdd_jax.metrics import TrainingDiverged
from vdd_jax.models.moe import MixtureOfExperts
from vdd_jax.teachers import Teacher
from vdd_jax.types import Batch

pytest_plugins = "smoke_run"

KEY = jax.random.key(0, impl="unsafe_rbg")  # its random numbers compile quickly


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def random_params(model, observation=None, scale=0.4):
    """Random parameters: zero kernels would hide what is connected."""
    rng = np.random.default_rng(0)
    observation = jnp.zeros((1, 1)) if observation is None else observation
    shapes = jax.eval_shape(model.init, jax.random.key(0), observation)["params"]
    return jax.tree.map(lambda s: jnp.asarray(scale * rng.normal(size=s.shape), s.dtype), shapes)


@pytest.fixture(scope="module")
def task():
    return problem.build(tiny(), Path("nowhere"))


def begin(config, params, step=0) -> distill.State:
    experts, gating = distill.optimisers(config.distill)
    return distill.State(jnp.asarray(step, jnp.int32), params, experts.init(params["experts"]),
                         gating.init(params.get("gating", {})))


def compiled_step(config, task):
    model = problem.student(config)
    return model, jax.jit(distill.make_step(config.distill, model, task.teacher))


def counts(optimiser) -> set[int]:
    return {int(n) for _, n in optax.tree_utils.tree_get_all_with_path(optimiser, "count")}


@pytest.fixture
def plain_descent(monkeypatch):
    """Both optimisers subtract the gradient itself: an update shows it."""
    monkeypatch.setattr(distill, "optimisers", lambda config: (optax.sgd(1.0), optax.sgd(1.0)))


# ---- what an update may touch


@pytest.mark.parametrize("independent", [False, True])
def test_the_bound_of_an_expert_touches_nothing_else(task, independent):
    """Through the whole student: exactly 0 to the gating, and, where experts are independent,
    to every other expert's parameters; for every bound and estimator of the entropy."""
    model = problem.student(tiny(student__independent=independent, student__num_experts=3))
    params = random_params(model)
    batch = jax.tree.map(lambda v: v[:4], task.data)
    noise = jnp.asarray(np.random.default_rng(1).normal(size=(2, 2, 4, 2)), jnp.float32)
    level = Level(*(jnp.full(4, v) for v in (0.5, 1.0, 0.5)))

    def bounds(params, bound, entropy):
        q = model.apply({"params": params}, batch.observation)
        old = objectives.e_step(q, level, bound == "diffused")
        one = jax.vmap(lambda i, mean, tril: objectives.expert_bound(
            i, mean, tril, noise, old, lambda x, t: task.teacher.score(x, batch.observation, t),
            level, bound=bound, entropy=entropy), in_axes=(0, 1, 1))
        return one(jnp.arange(3), q.means, q.scale_tril).mean(axis=1)

    cases = [("diffused", "path"), ("diffused", "closed"), ("published", "closed")]
    found = jax.jit(lambda p: [jax.jacrev(bounds)(p, *case) for case in cases])(params)
    for jacobian in found:
        for leaf in leaves(jacobian["gating"]):
            assert np.all(leaf == 0)
        for leaf in leaves(jacobian["experts"]["experts"]):  # `[Z, Z, …]`: of bound, to expert
            for i, j in np.ndindex(3, 3):
                if i == j:
                    assert np.any(leaf[i, j] != 0)
                elif independent:
                    assert np.all(leaf[i, j] == 0)
        assert independent or all(np.any(leaf != 0)
                                  for leaf in leaves(jacobian["experts"]["trunk"]))


@pytest.mark.parametrize("bound", ["diffused", "published"])
def test_the_bounds_of_all_experts_are_those_of_one_at_a_time(task, bound):
    """A teacher is asked once, for `[Z V, B, A]`, and every expert hears of its own samples: value
    and gradient are those of a loop over experts, each asking for itself."""
    config = tiny(student__num_experts=3, distill__samples_per_state=2, distill__bound=bound,
                  distill__noise__kind="fixed", distill__noise__high=0.5).distill
    model = problem.student(tiny(student__num_experts=3))
    params = random_params(model)
    batch = jax.tree.map(lambda v: v[:4], task.data)
    asked = []

    def score(x, observation, t):  # of state, place and noise
        asked.append(x.shape)
        return jnp.sin(x) * jnp.arange(1.0, 5.0)[:, None] - x / (1 + t[:, None] ** 2)

    teacher = task.teacher._replace(score=score)
    drawn = distill_losses.draw(config, teacher.schedule, 0, batch, *jax.random.split(KEY, 3))
    bounds = distill_losses.make_losses(config, model, teacher)[0]

    def loop(experts):
        q = model.apply({"params": {**params, "experts": experts}}, batch.observation)
        old = objectives.e_step(q, drawn.level, bound == "diffused")
        noise = jnp.moveaxis(drawn.sample_noise, 0, 2)
        return sum(jnp.mean(objectives.expert_bound(
            z, q.means[:, z], q.scale_tril[:, z], noise, old, lambda x, t: score(x, None, t),
            drawn.level, bound=bound, entropy=config.entropy)) for z in range(3))

    found = jax.value_and_grad(bounds)(params["experts"], drawn, KEY, params)
    assert set(asked) <= {(2, 4, 2), (6, 4, 2)} and (6, 4, 2) in asked
    expected = jax.value_and_grad(loop)(params["experts"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found,
                 expected)


def test_the_gating_loss_touches_no_expert(task):
    """Exactly 0 to the experts and the trunk, through the features and the responsibilities."""
    model = problem.student(tiny())
    batch = jax.tree.map(lambda v: v[:4], task.data)

    @jax.jit
    @jax.grad
    def grads(params):
        q = model.apply({"params": params}, batch.observation)
        return objectives.gating(
            q.log_weights, mixture.log_responsibilities(q, batch.action)).mean()

    found = grads(random_params(model))
    assert all(np.all(leaf == 0) for leaf in leaves(found["experts"]))
    assert all(np.any(leaf != 0) for leaf in leaves(found["gating"]))


def test_the_update_of_the_gating_by_hand(task, plain_descent):
    """The gradient at a bias of the logits is the mean weight less the mean target, which is
    uniform when the gating starts and the responsibilities from `gating_full` on."""
    config = tiny(distill__gating_diffused=False, distill__gating_start=0.2,
                  distill__gating_full=0.6)
    model, step = compiled_step(config, task)
    start = random_params(model)
    start["gating"]["logits"]["bias"] = jnp.array([0.7, -0.5])
    apply = jax.jit(model.apply)

    def moved(at):
        state, _ = step(begin(config, start, at), task.data, KEY)
        bias = state.params["gating"]["logits"]["bias"] - start["gating"]["logits"]["bias"]
        batch = batch_at(task.data, jax.random.split(KEY)[0], at, 8)
        # experts are updated first, and the gating sees the new ones
        params = {**start, "experts": state.params["experts"]}
        q = apply({"params": params}, batch.observation)
        target = np.exp(mixture.log_responsibilities(q, batch.action)).mean(0)
        return np.asarray(bias), np.exp(q.log_weights).mean(0), target

    assert np.all(moved(3)[0] == 0)
    bias, weight, target = moved(4)
    np.testing.assert_allclose(bias, 0.5 - weight, atol=1e-5)
    assert np.abs(target - 0.5).max() > 0.01
    bias, weight, target = moved(8)  # half-way
    np.testing.assert_allclose(bias, (target + 0.5) / 2 - weight, atol=1e-5)
    for at in (12, 19):
        bias, weight, target = moved(at)
        np.testing.assert_allclose(bias, target - weight, atol=1e-5)


def test_steps_are_counted_and_the_gating_starts_late(task):
    """`expert_steps` and `gating_steps` updates an iteration, the gating's only from
    `gating_start` on; until then its parameters are the same bits."""
    config = tiny(distill__num_iterations=4, distill__gating_start=0.5, distill__gating_full=0.5,
                  distill__expert_steps=2, distill__gating_steps=3)
    model, step = compiled_step(config, task)
    state = begin(config, random_params(model))
    for i in range(4):
        before = state.params
        state, metrics = step(state, task.data, KEY)
        assert same(before["gating"], state.params["gating"]) == (i < 2)
        assert all(np.any(a != b) for a, b in zip(
            leaves(before["experts"]), leaves(state.params["experts"]), strict=True))
        assert (metrics["gating_loss"] > 0) == (i >= 2)
        assert int(state.step) == i + 1
        assert counts(state.expert_opt) == {2 * (i + 1)}
        assert counts(state.gating_opt) == {3 * max(i - 1, 0)}
    assert set(metrics) == {"expert_surrogate", "expert_grad_norm", "noise", "gating_loss"}


def test_together_is_the_gradient_of_each_in_its_own_parameters(task):
    """One pass for both: the experts' gradient is that of their bounds, the gating's that of its
    loss, to which a likelihood in the bounds adds nothing."""
    config = tiny(distill__likelihood_weight=1.0, distill__weight_by_gating=True)
    model = problem.student(config)
    params = random_params(model)
    batch = batch_at(task.data, KEY, 0, 8)
    keys = jax.random.split(KEY, 4)
    noise = distill_losses.draw(config.distill, task.teacher.schedule, 3, batch, *keys[:3])
    bounds, _, gating, both = distill_losses.make_losses(config.distill, model, task.teacher)

    @jax.jit
    def gradients(params):
        one = jax.grad(bounds)(params["experts"], noise, keys[3], params)
        other = jax.grad(gating)(params["gating"], noise, keys[3], params, 0.3)
        return {"experts": one, "gating": other}, jax.grad(
            both, has_aux=True)(params, noise, keys[3], 0.3)[0]

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                 *gradients(params))


def test_steps_together_are_counted_and_the_gating_starts_late(task):
    """The experts move as if the gating were updated after them; it has one update an iteration,
    from `gating_start` on."""
    values = dict(distill__num_iterations=4, distill__gating_start=0.5, distill__gating_full=0.5,
                  distill__expert_steps=2)
    model, step = compiled_step(tiny(distill__gating_update="together", **values), task)
    _, after = compiled_step(tiny(**values), task)
    state = begin(tiny(**values), random_params(model))
    for i in range(4):
        expected, _ = after(state, task.data, KEY)
        before = state.params["gating"]
        state, metrics = step(state, task.data, KEY)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                     state.params["experts"], expected.params["experts"])
        assert same(before, state.params["gating"]) == (i < 2)
        assert (metrics["gating_loss"] > 0) == (i >= 2)
        assert counts(state.expert_opt) == {2 * (i + 1)}
        assert counts(state.gating_opt) == {max(i - 1, 0)}
    assert set(metrics) == {"expert_surrogate", "expert_grad_norm", "noise", "gating_loss"}


def test_a_step_is_a_pure_function(task):
    """Nothing but state, data and key: the same twice; another key or step, another update. The
    noise level of an iteration, which is logged, falls with the state's step."""
    config = tiny(student__gating="uniform", distill__noise__anneal_broad=0.0)
    model, step = compiled_step(config, task)
    state = begin(config, random_params(model))
    first = step(state, task.data, KEY)
    assert same(first, step(state, task.data, KEY))
    for other in (step(state, task.data, jax.random.key(1, impl="unsafe_rbg")),
                  step(state._replace(step=jnp.asarray(5)), task.data, KEY)):
        assert not same(first[0].params, other[0].params)
    # the same states, the same level: only what is drawn from the student differs
    one_pair = jax.tree.map(lambda v: jnp.broadcast_to(v[:1], v.shape), task.data)
    late = [step(state._replace(step=jnp.asarray(at)), one_pair, KEY)[0] for at in (15, 16)]
    assert not same(late[0].params, late[1].params)
    assert set(first[0].params) == {"experts"} and "gating_loss" not in first[1]
    for at in (0, 7, 14, 19):
        _, metrics = step(state._replace(step=jnp.asarray(at)), task.data, KEY)
        expected = 2.0 * (0.005 / 2.0) ** min(at / 20 / 0.7, 1.0)
        np.testing.assert_allclose(metrics["noise"], expected, rtol=1e-4)


INDEPENDENT = dict(student__independent=True, distill__gating_steps=0)


def experts_moved(config, task, params):
    """Minus the gradient that one iteration applies to the experts."""
    model, step = compiled_step(config, task)
    state, _ = step(begin(config, params), task.data, KEY)
    return jax.tree.map(lambda a, b: np.asarray(b - a), params["experts"],
                        state.params["experts"])["experts"]


def test_losses_are_summed_over_experts(task, plain_descent):
    """An expert far from all others learns as if it were alone: not by 1/Z of it (METHOD 4.5)."""
    two = tiny(**INDEPENDENT)
    params = random_params(problem.student(two))
    bias = params["experts"]["experts"]["mean"]["bias"]
    params["experts"]["experts"]["mean"]["bias"] = bias.at[1].add(200.0)
    alone = {"experts": {"experts": jax.tree.map(lambda v: v[:1], params["experts"]["experts"])}}
    of_two = experts_moved(two, task, params)
    of_one = experts_moved(
        tiny(student__num_experts=1, student__gating="uniform", **INDEPENDENT), task, alone)
    for a, b in zip(leaves(of_two), leaves(of_one), strict=True):
        assert np.abs(b).max() > 1e-6
        np.testing.assert_allclose(a[0], b[0], rtol=1e-3, atol=1e-4 * np.abs(b).max())


def test_weighting_by_the_gating(task, plain_descent):
    """With `weight_by_gating` the gradient of each expert is q(z|s) times that without."""
    params = random_params(problem.student(tiny(**INDEPENDENT)))
    params["gating"]["logits"]["kernel"] *= 0.0  # the same weights at every state
    params["gating"]["logits"]["bias"] = jnp.log(jnp.array([0.8, 0.2]))
    plain = experts_moved(tiny(**INDEPENDENT), task, params)
    weighted = experts_moved(tiny(distill__weight_by_gating=True, **INDEPENDENT), task, params)
    for a, b in zip(leaves(weighted), leaves(plain), strict=True):
        for z, weight in enumerate((0.8, 0.2)):
            assert np.abs(b[z]).max() > 1e-6
            np.testing.assert_allclose(a[z], weight * b[z], rtol=1e-3,
                                       atol=1e-4 * np.abs(b[z]).max())


# ---- learning rates


def updates_of(optimiser, num):
    """Sizes of Adam's updates for a gradient of constantly 1: its learning rates."""
    def step(state, _):
        updates, state = optimiser.update(jnp.ones(()), state)
        return state, -updates

    return np.asarray(jax.lax.scan(step, optimiser.init(jnp.zeros(())), length=num)[1])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_learning_rate_ends_at_0_with_the_last_update(schedule):
    """Over all `expert_steps` × iterations, not twice as fast (METHOD 4.5): half-way the rate is
    half, the last update is still one, the next would be none. The gating counts from its start.
    """
    config = tiny(distill__schedule=schedule, distill__expert_steps=2, distill__gating_steps=3,
                  distill__gating_start=0.5, distill__gating_full=0.5,
                  distill__learning_rate=0.5, distill__gating_learning_rate=0.25).distill
    for optimiser, rate, total in zip(
            distill.optimisers(config), (0.5, 0.25), (40, 30), strict=True):
        found = updates_of(optimiser, total + 1)
        u = np.arange(total + 1) / total
        shape = {"constant": 1 + 0 * u, "linear": 1 - u, "cosine": (1 + np.cos(np.pi * u)) / 2}
        np.testing.assert_allclose(found, rate * shape[schedule], rtol=1e-3, atol=1e-6)
        assert found[-2] > 0
        if schedule != "constant":
            np.testing.assert_allclose(found[total // 2], rate / 2, rtol=1e-3)
            np.testing.assert_allclose(found[-1], 0.0, atol=1e-6)


def test_clipping():
    """`clip_norm` bounds the gradient's norm over all parameters; 0 leaves it alone."""
    gradient = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
    for clip, expected in ((1.0, [0.6, 0.8]), (0.0, [30.0, 40.0])):
        optimiser, _ = distill.optimisers(tiny(distill__clip_norm=clip).distill)
        _, state = optimiser.update(gradient, optimiser.init(gradient))
        mu = optax.tree_utils.tree_get(state, "mu")
        np.testing.assert_allclose([10 * mu["a"][0], 10 * mu["b"][0]], expected, rtol=1e-5)


# ---- noise levels


VE, VP = schedules.ve(), schedules.vp_cosine()


def level(schedule, progress=0.0, batch=6, **values) -> Level:
    noise = tiny(**{f"distill__noise__{k}": v for k, v in values.items()}).distill.noise
    found = noise_levels.noise_level(noise, schedule, jnp.asarray(progress), KEY, batch)
    for part in found:
        assert part.shape == (batch,)
    np.testing.assert_allclose(found.alpha, schedule.alpha(found.t), rtol=1e-6)
    np.testing.assert_allclose(found.sigma, schedule.sigma(found.t), rtol=1e-6)
    return found


def ratio(found: Level):
    return np.asarray(found.sigma / found.alpha)


@pytest.mark.parametrize("schedule", [VE, VP], ids=["VE", "VP"])
def test_noise_fixed(schedule):
    """`high` for every state and all the time; for a VP schedule it is σ/α."""
    for progress in (0.0, 0.9):
        found = level(schedule, progress, kind="fixed", high=0.5, low=0.1)
        np.testing.assert_allclose(ratio(found), 0.5, rtol=1e-4)
    if schedule is VP:  # α² + σ² = 1
        np.testing.assert_allclose(found.alpha, 1 / np.sqrt(1.25), rtol=1e-4)
        np.testing.assert_allclose(found.sigma, 0.5 / np.sqrt(1.25), rtol=1e-4)


@pytest.mark.parametrize("schedule", [VE, VP], ids=["VE", "VP"])
def test_noise_uniform(schedule):
    """In [low, high], one for each state, evenly."""
    found = ratio(level(schedule, 0.5, 4_000, kind="uniform", high=0.5, low=0.2))
    assert len(np.unique(found)) > 3_000
    assert found.min() > 0.2 - 1e-4 and found.max() < 0.5 + 1e-4
    np.testing.assert_allclose(np.quantile(found, [0.25, 0.5, 0.75]), [0.275, 0.35, 0.425],
                               atol=0.02)


def test_noise_discrete():
    """Times of the teacher's own schedule, each about equally often."""
    schedule = schedules.vp_discrete(schedules.cosine_betas(16))
    found = level(schedule, 0.5, 3_000, kind="discrete", steps=(1, 4, 9))
    values, counts = np.unique(found.t, return_counts=True)
    np.testing.assert_array_equal(values, [1, 4, 9])
    assert counts.min() > 850


@pytest.mark.parametrize("schedule", [VE, VP], ids=["VE", "VP"])
@pytest.mark.parametrize("shape, expected", [
    # high 2, low 0.02, end 0.8: at progress 0, 0.2, 0.4, 0.8, 1
    ("geometric", [2.0, 2.0 * 0.01**0.25, 0.2, 0.02, 0.02]),
    ("linear", [2.0, 1.505, 1.01, 0.02, 0.02]),
])
def test_noise_annealed(schedule, shape, expected):
    """From high to low until `anneal_end`, then low; the same for all states."""
    for progress, value in zip((0.0, 0.2, 0.4, 0.8, 1.0), expected, strict=True):
        found = level(schedule, progress, kind="annealed", high=2.0, low=0.02, anneal_end=0.8,
                      anneal_shape=shape, anneal_broad=0.0)
        np.testing.assert_allclose(ratio(found), value, rtol=1e-3)


def test_noise_annealed_broadly():
    """A share of the states is log-uniform between the path and high, the rest on the path."""
    found = ratio(level(VE, 0.4, 4_000, kind="annealed", high=2.0, low=0.02, anneal_end=0.8,
                        anneal_shape="geometric", anneal_broad=0.25))
    on_path = np.isclose(found, 0.2, rtol=1e-5)
    np.testing.assert_allclose(on_path.mean(), 0.75, atol=0.03)
    position = np.log(found[~on_path] / 0.2) / np.log(2.0 / 0.2)
    assert position.min() > 0 and position.max() < 1
    np.testing.assert_allclose(np.quantile(position, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75],
                               atol=0.06)


# ---- held-out metrics


class Exact:
    """In place of a student: the one Gaussian N(params, ¼)."""

    def apply(self, variables, observation):
        n = observation.shape[0]
        return Mixture(jnp.zeros((n, 1)), variables["params"] * jnp.ones((n, 1, 1)),
                       jnp.full((n, 1, 1), 0.5))


def test_health_by_hand():
    """nll, Fisher divergence and gating entropy of a Gaussian against another."""
    class Teacher:
        schedule = VE

        @staticmethod
        def score(x, observation, t):
            return -x / (0.25 + t[:, None] ** 2)

    held_out = Batch(jnp.zeros((4, 1)), jnp.array([[0.5], [0.5], [-0.5], [-0.5]]))
    health = jax.jit(distill.make_health(Exact(), Teacher, held_out, 0.3, KEY))
    found = health(jnp.asarray(0.0))
    np.testing.assert_allclose(found["nll"], 0.5 + np.log(0.5) + 0.5 * np.log(2 * np.pi), rtol=1e-5)
    np.testing.assert_allclose(found["fisher"], 0.0, atol=1e-10)
    np.testing.assert_allclose(found["entropy_gating"], 0.0, atol=1e-6)
    found = health(jnp.asarray(0.2))  # scores differ by 0.2/0.34 everywhere
    np.testing.assert_allclose(found["fisher"], 0.3**2 * (0.2 / 0.34) ** 2, rtol=1e-3)


# ---- whole runs


def test_a_distilled_student_is_the_teacher(finished):
    """A few hundred iterations on two modes: both KLs far below 0.1 nats, both modes found."""
    student = finished.report["student"]
    assert student["kl_teacher_student"] < 0.1
    assert student["kl_student_teacher"] < 0.1
    records = [json.loads(line)
               for line in (finished.workdir / "metrics.jsonl").read_text().splitlines()]
    assert {r["step"] for r in records} == {400, 800}
    assert records[-1]["fisher"] < 1e-3
    assert {"stage", "step", "nll", "fisher", "entropy_gating", "noise", "expert_grad_norm",
            "gating_loss"} == set(records[-1])


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(task, tmp_path, monkeypatch):
    """The step and what was NaN are named; what was saved before can be restored and is finite."""
    config = tiny(distill__noise__anneal_broad=0.0, distill__noise__anneal_end=1.0)
    levels = 2.0 * (0.005 / 2.0) ** (np.arange(20) / 20)
    threshold = float(np.sqrt(levels[9] * levels[10]))  # the 11th iteration is the first below

    def score(x, observation, t):
        bad = (t < threshold)[:, None]
        return jnp.where(bad, jnp.nan, task.teacher.score(x, observation, t))

    broken = task._replace(teacher=task.teacher._replace(score=score))
    monkeypatch.setattr(distill.problem, "build", lambda *_: broken)
    with pytest.raises(TrainingDiverged, match="distill stopped at step 11: .*expert_.* = nan"):
        distill.run(config, tmp_path)
    with checkpoint.Checkpoints(tmp_path / "distill" / "checkpoints", read_only=True) as saved:
        assert saved.latest_step() == 8
        params = saved.restore_params(abstract_state(config).params)
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves(params))
    assert not distill.finished(config, tmp_path)


def abstract_state(config) -> distill.State:
    model = problem.student(config)
    shapes = jax.eval_shape(
        lambda: distill.init(config.distill, model, jax.random.key(0), jnp.zeros((1, 1))))
    return checkpoint.abstract(shapes, jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def test_broad_noise_lies_between_the_path_and_the_highest_level():
    """A share `anneal_broad` of the states is log-uniform above the path, the rest on it."""
    values = {"kind": "annealed", "low": 0.01, "high": 1.0, "anneal_end": 1.0}
    found = level(VE, 0.5, batch=4000, anneal_broad=0.25, **values).sigma
    on_path = np.isclose(found, 0.1, rtol=1e-4)
    assert 0.7 < on_path.mean() < 0.8
    broad = np.log(np.asarray(found)[~on_path])
    assert broad.min() >= np.log(0.1) - 1e-3 and broad.max() <= 1e-3
    np.testing.assert_allclose(broad.mean(), 0.5 * np.log(0.1), atol=0.1)
    assert np.isclose(level(VE, 0.5, batch=50, anneal_broad=0.0, **values).sigma, 0.1).all()


def test_an_expert_is_moved_while_distilling_and_a_resume_repeats_it(tmp_path, capsys):
    """Overlapping experts are moved and the run says so; stopping at that step changes nothing."""
    settings = {"task__num_modes": 2, "task__mode_std": 0.05, "student__num_experts": 4,
                "distill__reallocations": 3, "distill__num_iterations": 40,
                "distill__noise__high": 0.05}
    config = tiny(**settings)
    steps = distill.reallocation_steps(config.distill)
    assert steps == [12, 19, 26]
    distill.run(config, tmp_path / "whole")
    assert "a redundant expert was moved" in capsys.readouterr().out
    distill.run(config, tmp_path / "parts", stop_at=steps[1])
    distill.run(config, tmp_path / "parts")
    found = []
    for name in ("whole", "parts"):
        model = problem.student(config)
        shapes = jax.eval_shape(lambda m=model: m.init(KEY, jnp.zeros((1, 0)))["params"])
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        with checkpoint.Checkpoints(tmp_path / name / "distill" / "checkpoints",
                                    read_only=True) as checkpoints:
            found.append(checkpoints.restore_params(checkpoint.abstract(shapes, place)))
    jax.tree.map(np.testing.assert_array_equal, *found)


# ---- all actions of a window


def window_case(window, **values):
    """A student of whole windows, data of which some windows have steps that were not made, and
    a teacher that is a Gaussian of std 0.5 about the newest two numbers seen at each step."""
    config = tiny_avoiding(
        task__window=3, student__trunk="transformer", distill__window=window,
        distill__samples_per_state=4, teacher__backbone="transformer", teacher__window="all",
        **values).distill
    seen = context(batch=(64,))
    valid = np.arange(3) >= np.random.default_rng(0).integers(0, 3, 64)[:, None]
    data = Batch(seen._replace(valid=jnp.asarray(valid)), jnp.zeros((64, 2)))
    model = MixtureOfExperts(
        action_dim=2, num_experts=1, trunk="transformer", trunk_width=16, trunk_depth=1, heads=2,
        history="absolute", fourier=0, head_width=16, gating="learned", covariance="diagonal")

    def score(x, seen, t):
        assert x.shape[1:] == (config.batch_size, 3, 2) and t.shape == (config.batch_size,)
        return (seen.observations[..., :2] - x) / (0.25 + t[:, None, None] ** 2)

    teacher = Teacher(None, schedules.ve(0.05, 5.0), **{SCORES[window]: score})
    return config, model, data, teacher


SCORES = {"all": "each_score", "joint": "joint_score"}


@pytest.mark.parametrize("window", SCORES)
def test_distillation_of_windows_finds_the_teacher_at_every_step(window):
    """The mixture of each step of a window goes to the teacher's Gaussian at that step."""
    config, model, data, teacher = window_case(
        window, distill__num_iterations=400, distill__batch_size=32, distill__learning_rate=1e-2)
    step = distill.make_step(config, model, teacher)

    @jax.jit
    def train(key):
        state = distill.init(config, model, key, data.observation)
        return jax.lax.scan(lambda s, _: step(s, data, key), state, length=400)[0]

    q = model.clone(per_step=True).apply({"params": train(KEY).params}, data.observation)
    valid = np.asarray(data.observation.valid)
    gap = np.asarray(q.means)[:, :, 0] - data.observation.observations[..., :2]
    assert q.means.shape == (64, 3, 1, 2)
    assert np.sqrt(np.mean(gap[valid] ** 2)) < 0.25
    np.testing.assert_allclose(np.mean(np.asarray(q.scale_tril)[valid]), 0.5, atol=0.1)


@pytest.mark.parametrize("window", SCORES)
def test_steps_before_the_episode_teach_nothing(window, plain_descent):
    """Whatever the teacher says of steps that were not made, the update is the same."""
    config, model, data, teacher = window_case(window)
    asked = getattr(teacher, SCORES[window])
    params = random_params(model, data.observation)

    def moved(wrong):
        def score(x, seen, t):
            there = seen.valid[..., None]
            return asked(x, seen, t) + jnp.where(there, *wrong)

        step = jax.jit(distill.make_step(
            config, model, teacher._replace(**{SCORES[window]: score})))
        experts, gating = distill.optimisers(config)
        state = distill.State(jnp.asarray(10, jnp.int32), params,
                              experts.init(params["experts"]), gating.init(params["gating"]))
        return step(state, data, KEY)[0].params

    plain = moved((0.0, 0.0))
    assert same(plain, moved((0.0, 50.0)))
    assert not same(plain, moved((50.0, 0.0)))
