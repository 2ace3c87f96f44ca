"""The denoisers: one prefix for many queries, two ways of running that are one function, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import SCALER, A, B, T, context, randomised, raw

from vdd_jax import config as config_lib
from vdd_jax.models import denoiser, features
from vdd_jax.models.backbones import ResidualMLP
from vdd_jax.models.denoiser import MLPDenoiser, TransformerDenoiser, encoder_as_trunk
from vdd_jax.types import Batch

V, G = 6, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(V, B, A)).astype(np.float32)
NOISE = RNG.normal(size=B).astype(np.float32)
PAST = RNG.normal(size=(B, T - 1, A)).astype(np.float32)
WINDOW = RNG.normal(size=(V, B, T, A)).astype(np.float32)
CONTEXT = context(goal=G)
MODELS = {
    "mlp": MLPDenoiser(A, width=8, depth=1, encoder_depth=1, fourier=1),
    "last": TransformerDenoiser(A, width=8, depth=2, heads=2, fourier=1),
    "all": TransformerDenoiser(A, width=8, depth=2, heads=2, window="all",
                               history="differences"),
}


def _variables(name):
    model, method = MODELS[name], None
    args = X[0], NOISE, CONTEXT
    if name == "all":
        args, method = (WINDOW[0], NOISE, CONTEXT), model.all_actions
    return randomised(jax.eval_shape(
        lambda: model.init(jax.random.key(0), *args, method=method)))


VARIABLES = {name: _variables(name) for name in MODELS}


@jax.jit
def all_actions(x, noise, context):
    model = MODELS["all"]
    return model.apply(VARIABLES["all"], x, noise, context, method=model.all_actions)


def _caller(name, **static):
    def call(x, noise, context):
        extra = {"past": PAST} if name == "all" else {}
        return MODELS[name].apply(VARIABLES[name], x, noise, context, **extra, **static)

    return jax.jit(call)


CALLS = {name: _caller(name) for name in MODELS}
every_network = pytest.mark.parametrize("name", MODELS)
close = {"rtol": 1e-4, "atol": 1e-5}


def gap(a, b, keep=0):
    """Largest difference along all but the first `keep` axes."""
    difference = np.abs(np.asarray(a) - np.asarray(b))
    return difference.max(axis=tuple(range(keep, difference.ndim)))


@every_network
def test_many_actions_at_once_equal_one_by_one(name):
    """V actions at B contexts, the prefix computed once, equal V calls."""
    together = CALLS[name](X, NOISE, CONTEXT)
    assert together.shape == (V, B, A)
    for v in range(V):
        np.testing.assert_allclose(together[v], CALLS[name](X[v], NOISE, CONTEXT), **close)
    assert gap(together[0], together[1]) > 1e-2


@every_network
def test_a_state_is_not_told_of_another(name):
    """Each row of a batch depends on its own action, noise and context alone."""
    whole = CALLS[name](X, NOISE, CONTEXT)
    changed = X.copy()
    changed[:, 0] += 1
    other = context(goal=G, seed=5)
    mixed = jax.tree.map(lambda a, b: a.at[1].set(b[1]), CONTEXT, other)
    noise = NOISE.copy()
    noise[2] += 1
    found = CALLS[name](changed, noise, mixed)
    moved = gap(np.swapaxes(found, 0, 1), np.swapaxes(whole, 0, 1), keep=1)
    assert np.all(moved[:3] > 1e-3) and moved[3] < 1e-6


@pytest.mark.parametrize("name", ["last", "all"])
def test_training_is_the_same_function(name):
    """Without dropout the one pass of training equals the cached prefix, with invalid steps."""
    c = context(goal=G, missing=1)
    np.testing.assert_allclose(_caller(name, train=True)(X[0], NOISE, c),
                               CALLS[name](X[0], NOISE, c), **close)


def test_the_newest_of_all_actions_is_the_call():
    """`all_actions(…)[..., -1, :]` equals `__call__` with the past given, for samples too."""
    past_of_each = np.concatenate([np.broadcast_to(PAST, (V, *PAST.shape)), X[:, :, None]], axis=2)
    found = all_actions(past_of_each, NOISE, CONTEXT)
    assert found.shape == (V, B, T, A)
    np.testing.assert_allclose(found[..., -1, :], CALLS["all"](X, NOISE, CONTEXT), **close)
    np.testing.assert_allclose(all_actions(past_of_each[0], NOISE, CONTEXT), found[0], **close)


def test_samples_of_whole_windows_equal_one_by_one():
    """Every sample has a past of its own."""
    together = all_actions(WINDOW, NOISE, CONTEXT)
    for v in (0, 3):
        np.testing.assert_allclose(together[v], all_actions(WINDOW[v], NOISE, CONTEXT), **close)


@pytest.mark.parametrize("missing", [0, 2])
def test_each_action_behind_the_given_past_equals_a_sequence_of_its_own(missing):
    """Sample v of step i is row i of a whole pass over [past…, sample]; as many passes as there
    are samples and steps, with steps that were not made too."""
    c, model = context(goal=G, missing=missing), MODELS["all"]
    found = jax.jit(lambda x: model.apply(
        VARIABLES["all"], x, NOISE, c, PAST, method=model.each_action))(WINDOW)
    assert found.shape == WINDOW.shape
    for i in range(T):
        x = np.concatenate([np.broadcast_to(PAST, (V, *PAST.shape)), X[:, :, None]], axis=2)
        x[:, :, i] = WINDOW[:, :, i]
        for v in (0, 5):
            np.testing.assert_allclose(
                found[v, :, i], all_actions(x[v], NOISE, c)[:, i], rtol=1e-5, atol=1e-5)
    assert gap(found[0], found[1]) > 1e-2


def test_an_action_of_the_window_sees_what_came_before_it():
    """F of action i changes with action j iff j ≤ i, with state j iff j ≤ i."""
    whole = all_actions(WINDOW[0], NOISE, CONTEXT)
    for j in range(T):
        x = WINDOW[0].copy()
        x[:, j] += 1
        seen = CONTEXT._replace(observations=CONTEXT.observations.at[:, j].add(1.0))
        for found in (all_actions(x, NOISE, CONTEXT), all_actions(WINDOW[0], NOISE, seen)):
            moved = gap(np.swapaxes(found, 0, 1), np.swapaxes(whole, 0, 1), keep=1)
            assert np.all(moved[:j] == 0) and np.all(moved[j:] > 1e-4)


@every_network
def test_everything_given_matters(name):
    """Action, noise, every observation and every observation of the goal change the output."""
    whole = CALLS[name](X[0], NOISE, CONTEXT)
    assert gap(CALLS[name](X[0] + 1, NOISE, CONTEXT), whole) > 1e-2
    assert gap(CALLS[name](X[0], NOISE + 1, CONTEXT), whole) > 1e-3
    for i in range(G):
        other = CONTEXT._replace(goal=CONTEXT.goal.at[:, i].add(1.0))
        assert gap(CALLS[name](X[0], NOISE, other), whole) > 1e-2
    for i in range(T):
        values = raw(goal=G)
        values["observations"][:, i] += 1
        assert gap(CALLS[name](X[0], NOISE, SCALER.context(**values)), whole) > 1e-2


@every_network
def test_observations_that_were_not_made_do_not_leak(name):
    """Whatever stands before the beginning of the episode changes nothing; nor does, where it is
    not an action of the window, what was done then."""
    values = raw(goal=G, missing=2)
    whole = CALLS[name](X, NOISE, SCALER.context(**values))
    values["observations"][:, :2] += 10
    values["past_actions"] = values["past_actions"] + 10
    np.testing.assert_allclose(CALLS[name](X, NOISE, SCALER.context(**values)), whole, **close)
    values["valid"] = np.ones_like(values["valid"])
    assert gap(CALLS[name](X, NOISE, SCALER.context(**values)), whole) > 1e-2


def test_the_mlp_takes_a_noise_for_every_action():
    """Noise `[V, B]`, `[B]` or one number."""
    noise = RNG.normal(size=(V, B)).astype(np.float32)
    found = CALLS["mlp"](X, noise, CONTEXT)
    for v in (0, 4):
        np.testing.assert_allclose(found[v], CALLS["mlp"](X[v], noise[v], CONTEXT), **close)
    np.testing.assert_allclose(CALLS["mlp"](X, np.float32(0.3), CONTEXT),
                               CALLS["mlp"](X, np.full(B, 0.3, np.float32), CONTEXT), **close)


def settings(**values):
    config = config_lib.default().teacher
    config.update(width=8, depth=1, heads=2, encoder_depth=1, **values)
    return config


@pytest.mark.parametrize("values, model", [
    ({}, MLPDenoiser), ({"backbone": "transformer"}, TransformerDenoiser),
    ({"backbone": "transformer", "window": "all"}, TransformerDenoiser)])
def test_the_network_of_a_configuration(values, model):
    """Its sizes are those asked for, and parameters come from a batch of one; the MLP starts
    from the output 0."""
    config = settings(**values)
    network = denoiser.build(config, A)
    assert type(network) is model and network.action_dim == A
    for name in {"width", "depth", "history", "fourier", "dropout"}:
        assert getattr(network, name) == config[name]
    whole = config.backbone == "transformer" and config.window == "all"
    assert denoiser.whole_window(config) is whole
    one = jax.tree.map(lambda v: v[:1], Batch(CONTEXT, X[0]))
    params = jax.jit(lambda: denoiser.init(config, network, jax.random.key(0), one))()
    if model is MLPDenoiser:
        assert np.all(network.apply({"params": params}, X[0], NOISE, CONTEXT) == 0)
    elif whole:  # what it needs for one action is there
        found = network.apply({"params": params}, X[0], NOISE, CONTEXT, past=PAST)
        assert found.shape == (B, A) and np.all(np.isfinite(found))


def test_actions_of_a_window():
    """The past ones, then the action, `[B, T, A]`."""
    found = denoiser.window_actions(Batch(CONTEXT, jnp.asarray(X[0])))
    np.testing.assert_array_equal(found[:, :-1], CONTEXT.past_actions)
    np.testing.assert_array_equal(found[:, -1], X[0])


@pytest.mark.parametrize("name", ["mlp", "last"])
def test_dropout_is_for_training(name):
    """Random by its key in training, and never otherwise."""
    model = MODELS[name].clone(dropout=0.5)

    def call(key, train):
        return model.apply(VARIABLES[name], X[0], NOISE, CONTEXT, train=train,
                           rngs={"dropout": jax.random.key(key)})

    np.testing.assert_allclose(call(0, False), CALLS[name](X[0], NOISE, CONTEXT), **close)
    np.testing.assert_array_equal(call(0, True), call(0, True))
    assert gap(call(0, True), call(1, True)) > 1e-2


def test_the_encoder_is_a_residual_mlp():
    """As a student's trunk it gives the code that the teacher's body is given."""
    model = MLPDenoiser(2, width=8, depth=1, encoder_depth=2, fourier=2, activation="silu")
    seen = context()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((4, 2)), jnp.zeros(4), seen)
    params = randomised(shapes["params"])
    row = features.flat(seen, "differences", 2)
    trunk = ResidualMLP(8, 2, "silu")
    ours = trunk.apply({"params": encoder_as_trunk(params)}, row)

    def code(model, row):
        return jax.nn.silu(model._residual(model.first(row), model.encoder, False))

    np.testing.assert_allclose(
        ours, model.apply({"params": params}, row, method=code), atol=1e-5)
