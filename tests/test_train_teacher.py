"""Training of a teacher: that its score is that of the data, and what each setting does."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contexts import A, B, T, context, randomised
from tiny_config import tiny_avoiding

from vdd_jax import checkpoint, problem, teachers, train_teacher
from vdd_jax import config as config_lib
from vdd_jax.core import keys
from vdd_jax.data import batch_at
from vdd_jax.models import denoiser
from vdd_jax.types import Batch, Context

pytest_plugins = "smoke_run"

KEY = jax.random.key(0)


def settings(**values):
    """`config.teacher` of a small network; `noise` and `sampler` are dictionaries."""
    config = config_lib.default().teacher
    config.update({"width": 8, "depth": 1, "encoder_depth": 0, "fourier": 0, "heads": 2,
                   "batch_size": 8, **values})
    return config


# ---- a target that is known: two Gaussians whose means depend on the observation

STD, WEIGHTS = 0.4, np.array([0.7, 0.3])


def means(s):
    """`[..., 2, 2]` at observations `[...]`."""
    up = np.stack([np.ones_like(s), 0.8 * s], axis=-1)
    return np.stack([up, -up], axis=-2)


def target_data(n=8_192) -> Batch:
    rng = np.random.default_rng(0)
    s = rng.uniform(-1, 1, n)
    first = rng.uniform(size=n) < WEIGHTS[0]
    action = means(s)[np.arange(n), np.where(first, 0, 1)] + STD * rng.normal(size=(n, 2))
    return Batch(seen(s), jnp.asarray(action, jnp.float32))


def seen(s) -> Context:
    s = jnp.asarray(s, jnp.float32)[:, None, None]
    return Context(s, jnp.zeros_like(s), jnp.ones(s.shape[:2], bool),
                   jnp.zeros((len(s), 0, 2)), jnp.zeros((len(s), 0, 1)))


def exact_score(x, s, alpha, sigma):
    """∇ log Σ w N(x; α μ, α² std² + σ²), by hand in float64."""
    gap = alpha * means(s) - x[..., None, :]
    variance = alpha**2 * STD**2 + sigma**2
    log = np.log(WEIGHTS) - (gap**2).sum(-1) / (2 * variance)
    share = np.exp(log - log.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    return (share[..., None] * gap).sum(-2) / variance


LEARNERS = {
    "karras": dict(schedule="ve", prediction="karras"),
    "eps": dict(schedule="ddpm_cosine", num_train_steps=32, prediction="eps",
                noise={"density": "steps"}),
    "velocity": dict(schedule="flow", prediction="velocity", noise={"density": "time"}),
}


@pytest.fixture(scope="module", params=LEARNERS)
def learned(request):
    """A teacher after 800 iterations, and its configuration."""
    config = settings(width=32, batch_size=256, num_iterations=800, learning_rate=5e-3,
                      warmup=20, ema=0.98, weight_decay=0.0, **LEARNERS[request.param])
    data = target_data()
    model = denoiser.build(config, 2)
    step = train_teacher.make_step(config, model)

    @jax.jit
    def train(key):
        state = train_teacher.init(config, model, key, jax.tree.map(lambda v: v[:1], data))
        return jax.lax.scan(lambda s, _: step(s, data, key), state, length=800)

    state, metrics = train(KEY)
    assert int(state.step) == 800
    assert metrics["loss"][-50:].mean() < 0.95 * metrics["loss"][:5].mean()
    return teachers.from_network(config, state.ema, 2), config


@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_the_score_is_that_of_the_data(learned, ratio):
    """At noised actions of the data, at medium noise: near the exact score of the diffused
    target, for each family of schedules and predictions."""
    teacher, _ = learned
    data = target_data(1_000)
    t = teacher.schedule.time(jnp.full(1_000, ratio))
    alpha, sigma = (float(f(t)[0]) for f in (teacher.schedule.alpha, teacher.schedule.sigma))
    x = alpha * data.action + sigma * np.random.default_rng(1).normal(size=(1_000, 2))
    x = jnp.asarray(x, jnp.float32)
    found = np.asarray(jax.jit(teacher.score)(x[None], data.observation, t)[0])
    s = np.asarray(data.observation.observations[:, 0, 0], np.float64)
    exact = exact_score(np.asarray(x, np.float64), s, alpha, sigma)
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.95
    error = np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2))
    assert error < 0.3


def test_samples_are_those_of_the_target(learned):
    """Weights, means and stds of the modes at two observations, by a sampler whose own error is
    small."""
    teacher, config = learned
    config.sampler.update(kind="euler_ancestral", num_steps=64, spacing="log", clip=2.5)
    found = np.asarray(jax.jit(lambda key: teachers.sample(
        teacher, config, seen(np.array([-0.8, 0.8])), key, (2_000, 2), 2))(KEY))
    assert found.shape == (2_000, 2, 2)
    for b, s in enumerate((-0.8, 0.8)):
        up = found[:, b, 0] > 0
        assert abs(up.mean() - 0.7) < 0.08
        for mode, mean in zip((found[up, b], found[~up, b]), means(np.array(s)), strict=True):
            np.testing.assert_allclose(mode.mean(0), mean, atol=0.2)
            np.testing.assert_allclose(mode.std(0), STD, atol=0.12)


# ---- one iteration


def small(**values):
    """A configuration, its network, data, and a state to start from."""
    config = settings(**{"ema": 0.2, "warmup": 0, **values})
    data = Batch(context(batch=(20,)), jnp.asarray(
        np.random.default_rng(3).normal(size=(20, A)), jnp.float32))
    model = denoiser.build(config, A)
    state = jax.eval_shape(lambda: train_teacher.init(
        config, model, KEY, jax.tree.map(lambda v: v[:1], data)))
    params, opt = randomised(state.params), train_teacher.optimiser(config)
    return config, model, data, state._replace(
        step=jnp.asarray(0), params=params, ema=params, best=params, opt=opt.init(params),
        best_loss=jnp.asarray(jnp.inf), since_best=jnp.asarray(0))


def test_the_moving_average():
    """ema ← d·ema + (1 − d)·params with d = min(decay, (1 + k)/(10 + k)): at the start less than
    the decay, later the decay."""
    config, model, data, state = small()
    step = jax.jit(train_teacher.make_step(config, model))
    expected = jax.tree.map(np.asarray, state.ema)
    for decay in (0.1, 2 / 11, 0.2, 0.2):
        state, _ = step(state, data, KEY)
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * np.asarray(p),
                                expected, state.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
                     state.ema, expected)
    assert int(state.step) == 4


def test_an_iteration_is_a_function_of_key_and_step():
    """The same twice, on the batch of that step alone; another step or key, another."""
    config, model, data, state = small()
    step = jax.jit(train_teacher.make_step(config, model))
    norm = step(state, data, KEY)[1]["grad_norm"]
    assert norm == step(state, data, KEY)[1]["grad_norm"]
    assert norm != step(state, data, jax.random.key(1))[1]["grad_norm"]
    assert norm != step(state._replace(step=jnp.asarray(1)), data, KEY)[1]["grad_norm"]
    batch = batch_at(data, jax.random.split(KEY)[0], state.step, config.batch_size)
    used = np.isin(data.action[:, 0], batch.action[:, 0])
    assert 0 < used.sum() < 20
    other = data._replace(action=jnp.where(used[:, None], data.action, 100.0))
    assert norm == step(state, other, KEY)[1]["grad_norm"]


def test_an_output_of_0_has_unit_loss():
    """As an MLP has at the start: the target of `karras` has unit variance for data of its
    spread."""
    config, model, data, state = small(sigma_data=2.0)
    n = 4_000
    action = 2.0 * np.random.default_rng(0).normal(size=(n, A)).astype(np.float32)
    seen = jax.tree.map(lambda v: jnp.broadcast_to(v[:1], (n, *v.shape[1:])), data.observation)
    params = jax.tree.map(jnp.zeros_like, state.params)
    drawn = train_teacher.draw(config, Batch(seen, action), *jax.random.split(KEY))
    loss = train_teacher.make_loss(config, model)(params, drawn, KEY, False)
    np.testing.assert_allclose(loss, 1.0, atol=0.05)


@pytest.mark.parametrize("window", ["last", "all"])
def test_the_loss_by_hand(window):
    """With a network that says 0 and the target x0, the mean square of the actions: of the newest,
    or of those of the window that were made."""
    config, model, _, state = small(backbone="transformer", window=window, prediction="x0")
    c = context(missing=2)
    c = c._replace(valid=c.valid.at[0].set(True))  # one full window, three of one action
    past = np.random.default_rng(1).normal(size=(B, T - 1, A)).astype(np.float32)
    batch = Batch(c._replace(past_actions=jnp.asarray(past)), jnp.full((B, A), 2.0))
    params = jax.tree.map(jnp.zeros_like, state.params)
    drawn = train_teacher.draw(config, batch, *jax.random.split(KEY))
    loss = jax.jit(train_teacher.make_loss(config, model), static_argnums=3)(
        params, drawn, KEY, False)
    squares = np.full((B, T), 4.0)
    squares[:, :-1] = (past**2).mean(-1)
    expected = 4.0 if window == "last" else squares[np.asarray(c.valid)].mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


# ---- the optimiser


def test_weight_decay_is_for_kernels():
    """Without a gradient kernels shrink by rate × decay; biases, norms and position embeddings
    stay, in both networks."""
    for values in ({}, {"backbone": "transformer"}):
        config, _, _, state = small(weight_decay=0.1, learning_rate=0.5, decay="constant",
                                    **values)
        params = state.params
        optimiser = train_teacher.optimiser(config)
        zero = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimiser.update(zero, optimiser.init(params), params)
        kernels = 0
        for (path, update), value in zip(jax.tree_util.tree_leaves_with_path(updates),
                                         jax.tree.leaves(params), strict=True):
            if path[-1].key == "kernel":
                kernels += 1
                np.testing.assert_allclose(update, -0.05 * value, rtol=1e-5)
            else:
                assert np.all(update == 0), path
        assert kernels > 3


@pytest.mark.parametrize("decay, after", [
    ("constant", lambda u: 1.0), ("linear", lambda u: 1 - u),
    ("cosine", lambda u: (1 + np.cos(np.pi * u)) / 2)])
def test_the_learning_rate(decay, after):
    """Up from 0 over the warm-up, then down to 0 over the rest; Adam's step for a gradient that
    does not change is the rate itself."""
    config = settings(num_iterations=12, warmup=4, decay=decay, learning_rate=0.1,
                      weight_decay=0.0, clip_norm=0.0)
    optimiser, params = train_teacher.optimiser(config), {"kernel": jnp.ones(1)}
    state, found = optimiser.init(params), []
    update = jax.jit(optimiser.update)
    for _ in range(12):
        updates, state = update({"kernel": jnp.ones(1)}, state, params)
        found.append(-float(updates["kernel"][0]))
    expected = [k / 4 for k in range(4)] + [after(k / 8) for k in range(8)]
    np.testing.assert_allclose(found, 0.1 * np.array(expected), rtol=1e-3, atol=1e-6)


def test_the_gradient_is_clipped():
    """By its global norm; 0 does not clip. Seen in Adam's first moment."""
    for clip, factor in ((1.0, 0.1), (0.0, 1.0)):
        optimiser = train_teacher.optimiser(settings(clip_norm=clip))
        grads = {"kernel": jnp.array([6.0, 8.0])}
        _, state = optimiser.update(grads, optimiser.init(grads), grads)
        mu = optax.tree_utils.tree_get(state, "mu")["kernel"]
        np.testing.assert_allclose(mu, 0.1 * factor * grads["kernel"], rtol=1e-5)


# ---- choosing, stopping, resuming


def test_the_best_so_far_and_how_long_ago():
    """The held-out loss of the average at the same noises each time; the average of the least is
    kept, and counted from."""
    config, model, data, state = small()
    check = jax.jit(train_teacher.make_check(config, model, data, KEY))
    averages = [randomised(state.params, scale=s) for s in (0.6, 0.0, 0.9, 0.3)]
    losses, best = [], []
    for ema, since in zip([*averages, averages[1]], (0, 0, 1, 2, 3), strict=True):
        state, found = check(state._replace(ema=ema))
        losses.append(float(found["held_out_loss"]))
        best.append(state.best)
        assert int(state.since_best) == since
    assert losses[1] < losses[0] < losses[2] and losses[1] < losses[3]
    assert losses[4] == losses[1] == float(state.best_loss)
    jax.tree.map(np.testing.assert_array_equal, best[0], averages[0])
    jax.tree.map(np.testing.assert_array_equal, best[-1], averages[1])


@pytest.mark.parametrize("std", [0.0, 0.2])
def test_the_windows_of_an_update_are_moved(std, monkeypatch):
    """By `state_jitter`, and not at all by default: what the loss is given, update by update."""
    seen = []

    def make_loss(config, model):
        def loss(params, drawn, key, train):
            seen.append(drawn.batch.observation.observations)
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))

        return loss

    monkeypatch.setattr(train_teacher, "make_loss", make_loss)
    config = settings(width=4, batch_size=64, state_jitter=std)
    data = Batch(context(batch=(64,)), jnp.zeros((64, A)))
    model = denoiser.build(config, A)
    step = train_teacher.make_step(config, model)
    state = train_teacher.init(config, model, KEY, jax.tree.map(lambda v: v[:1], data))
    shifts = []
    for number in range(2):
        state, _ = step(state, data, KEY)
        drawn = batch_at(data, jax.random.split(KEY)[0], number, 64).observation.observations
        shifts.append(seen[number] - drawn)
        np.testing.assert_allclose(shifts[-1].std(), std, rtol=0.2)
    assert (std == 0) == bool(np.allclose(*shifts, atol=1e-5))


def saved(workdir, step):
    """Every array of a checkpoint, by its place."""
    config = tiny_avoiding()
    model = denoiser.build(config.teacher, 2)
    state = jax.eval_shape(lambda: train_teacher.init(
        config.teacher, model, KEY, problem.example(config)))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    trees = train_teacher.stage(config.teacher).split(state)
    with checkpoint.Checkpoints(workdir / "teacher" / "checkpoints", read_only=True) as found:
        assert found.latest_step() == step
        restored = found.restore_training(*(checkpoint.abstract(t, place) for t in trees))
    return {jax.tree_util.keystr(k): np.asarray(v)
            for k, v in jax.tree_util.tree_leaves_with_path(restored)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("teacher")
    train_teacher.run(tiny_avoiding(), workdir)
    return workdir


def test_stopping_and_resuming_is_bit_equal(uninterrupted, tmp_path):
    """Parameters, average, best, optimiser and patience, stopped on and off the beat."""
    config = tiny_avoiding()
    for stop in (8, 13):
        train_teacher.run(config, tmp_path, stop_at=stop)
        found = saved(tmp_path, stop)
        assert not train_teacher.finished(config, tmp_path)
    expected = saved(uninterrupted, 20)
    assert any(np.any(found[k] != v) for k, v in expected.items())
    train_teacher.run(config, tmp_path)
    found = saved(tmp_path, 20)
    assert set(found) == set(expected) and len(found) > 50
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_finished(uninterrupted, tmp_path):
    """Only when there is nothing left to do; then a run changes no parameter and no metric."""
    config = tiny_avoiding()
    assert not train_teacher.finished(config, tmp_path)
    assert train_teacher.finished(config, uninterrupted)
    said = json.loads((uninterrupted / "teacher" / "finished.json").read_text())
    assert (said["step"], said["why"]) == (20, "all iterations done")
    records = [json.loads(line)
               for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in records] == [("teacher", n) for n in (8, 16, 20)]
    assert said["held_out_loss"] == pytest.approx(min(r["held_out_loss"] for r in records))
    before, metrics = saved(uninterrupted, 20), (uninterrupted / "metrics.jsonl").read_bytes()
    train_teacher.run(config, uninterrupted)
    after = saved(uninterrupted, 20)
    assert all(np.array_equal(before[k], after[k]) for k in before)
    assert (uninterrupted / "metrics.jsonl").read_bytes() == metrics


def test_killed_before_it_could_say_that_it_is_finished(uninterrupted, tmp_path):
    """With the last checkpoint and without the note, a run writes the note."""
    import shutil

    shutil.copytree(uninterrupted, tmp_path / "run")
    (tmp_path / "run" / "teacher" / "finished.json").unlink()
    assert not train_teacher.finished(tiny_avoiding(), tmp_path / "run")
    train_teacher.run(tiny_avoiding(), tmp_path / "run")
    assert train_teacher.finished(tiny_avoiding(), tmp_path / "run")


def test_patience(tmp_path):
    """A teacher that learns nothing is stopped after as many lines without a better loss; it is
    finished, and stays so."""
    config = tiny_avoiding(teacher__patience=1, teacher__learning_rate=1e-12)
    train_teacher.run(config, tmp_path)
    said = json.loads((tmp_path / "teacher" / "finished.json").read_text())
    assert (said["step"], said["why"]) == (16, "no better held-out loss")
    before = (tmp_path / "metrics.jsonl").read_bytes()
    train_teacher.run(config, tmp_path)
    assert train_teacher.finished(config, tmp_path)
    assert json.loads((tmp_path / "teacher" / "finished.json").read_text()) == said
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_masks_are_of_xlas_own_generator(monkeypatch):
    """On an accelerator dropout draws by `rbg`, the noise of the loss does not."""
    monkeypatch.setattr(keys.jax, "default_backend", lambda: "tpu")

    def program(dropout):
        config, model, data, state = small(dropout=dropout)
        return str(jax.make_jaxpr(train_teacher.make_step(config, model))(
            state, data, jax.random.key(0)))

    with_masks, without = (program(rate).count("key<rbg>") for rate in (0.5, 0.0))
    assert with_masks > without == 1  # the key itself, unused
    assert "key<fry>" in program(0.5)
