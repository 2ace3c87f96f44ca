"""The causal transformer: prefixes, causality, masks, and the student's trunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import B, T, context, randomised

from vdd_jax.models.transformer import ContextTransformer, Transformer

WIDTH, SIZE = 8, 5
RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(B, SIZE, WIDTH)).astype(np.float32)
VALID = np.ones((B, SIZE), bool)
VALID[1, :2] = VALID[2, 0] = False

MODEL = Transformer(WIDTH, depth=2, heads=2)
VARIABLES = randomised(jax.eval_shape(MODEL.init, jax.random.key(0), TOKENS, VALID))
RUN = jax.jit(MODEL.apply)


def behind(*args, **static):
    return jax.jit(lambda *given: MODEL.apply(
        VARIABLES, *given, method=MODEL.behind, **static))(*args)


@pytest.mark.parametrize("prefix", [1, 3, 4])
def test_sequences_behind_a_prefix_equal_whole_ones(prefix):
    """N of them `[B, N, S, D]`, each as if it were alone, with tokens that are not valid."""
    rest = RNG.normal(size=(B, 6, SIZE - prefix, WIDTH)).astype(np.float32)
    rest[:, 0] = TOKENS[:, prefix:]
    together = behind(TOKENS[:, :prefix], VALID[:, :prefix], VALID[:, None, None, :prefix], rest,
                      VALID[:, None, prefix:])
    assert together.shape == (B, 6, SIZE - prefix, WIDTH)
    for n in (0, 5):
        whole = RUN(VARIABLES, np.concatenate([TOKENS[:, :prefix], rest[:, n]], axis=1), VALID)
        np.testing.assert_allclose(together[:, n], whole[:, prefix:], rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(together[:, 0]) - together[:, 1]).min() > 0


def test_single_tokens_that_have_seen_different_parts_of_the_prefix():
    """Token n behind the first n + 1 tokens equals a sequence of them and it."""
    queries = RNG.normal(size=(B, SIZE, 1, WIDTH)).astype(np.float32)
    seen = VALID[:, None, None, :] & np.tri(SIZE, dtype=bool)[:, None]
    together = behind(TOKENS, VALID, seen, queries, np.ones((1, 1), bool))
    for n in range(SIZE):
        tokens = np.concatenate([TOKENS[:, : n + 1], queries[:, n]], axis=1)
        ends = np.concatenate([VALID[:, : n + 1], np.ones((B, 1), bool)], axis=1)
        whole = RUN(VARIABLES, tokens, ends)
        np.testing.assert_allclose(together[:, n, 0], whole[:, -1], rtol=1e-5, atol=1e-5)


def test_the_last_block_is_for_tokens_that_are_asked_for():
    """The outputs are those of the whole."""
    whole, ask = RUN(VARIABLES, TOKENS, VALID), slice(1, None, 2)
    some = jax.jit(lambda: MODEL.apply(VARIABLES, TOKENS, VALID, ask))()
    np.testing.assert_allclose(some, whole[:, ask], rtol=1e-5, atol=1e-5)
    args = TOKENS, VALID, VALID[:, None, None], TOKENS[:, None], VALID[:, None]
    apart, everything = behind(*args, ask=ask), behind(*args)
    assert apart.shape == (B, 1, 2, WIDTH)
    np.testing.assert_allclose(apart, everything[..., ask, :], rtol=1e-5, atol=1e-5)


def test_causality():
    """A change of one token changes its own output and later ones, and no earlier one."""
    whole = RUN(VARIABLES, TOKENS, np.ones_like(VALID))
    for i in range(SIZE):
        changed = TOKENS.copy()
        changed[:, i] += 1.0 + np.arange(WIDTH)
        found = RUN(VARIABLES, changed, np.ones_like(VALID))
        gap = np.abs(np.asarray(found) - whole).max(axis=(0, 2))
        assert np.all(gap[:i] == 0) and np.all(gap[i:] > 1e-3)


def test_tokens_that_are_not_valid_have_no_influence():
    """Whatever they are, all valid tokens' outputs are the same, and finite."""
    whole = RUN(VARIABLES, TOKENS, VALID)
    changed = np.where(VALID[..., None], TOKENS, 100.0 * RNG.normal(size=TOKENS.shape))
    found = RUN(VARIABLES, changed.astype(np.float32), VALID)
    np.testing.assert_array_equal(np.asarray(found)[VALID], np.asarray(whole)[VALID])
    assert np.all(np.isfinite(found))
    unmasked = RUN(VARIABLES, TOKENS, np.ones_like(VALID))
    assert np.abs(np.asarray(unmasked) - whole)[1, 2:].max() > 1e-3


def test_attention_by_hand():
    """One head, one block: softmax(q kᵀ/√d) v with the lower triangle, in NumPy."""
    model = Transformer(WIDTH, depth=1, heads=1)
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), TOKENS, VALID))
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), variables["params"])

    def norm(x, layer):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * layer["scale"] + layer["bias"]

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    block, x = p["block_0"], TOKENS[0].astype(np.float64)
    h = norm(x, block["norm_1"])
    q, k, v = np.split(dense(h, block["query_key_value"]), 3, axis=-1)
    logits = np.where(np.tri(SIZE, dtype=bool), q @ k.T / np.sqrt(WIDTH), -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    x = x + dense(weights @ v, block["project"])
    up = jnp.asarray(dense(norm(x, block["norm_2"]), block["up"]), jnp.float32)
    x = x + dense(np.asarray(jax.nn.gelu(up), np.float64), block["down"])
    found = model.apply(variables, TOKENS[:1], np.ones((1, SIZE), bool))
    np.testing.assert_allclose(found[0], norm(x, p["norm"]), rtol=1e-3, atol=1e-3)


def trunk(per_step=False, **values):
    model = ContextTransformer(WIDTH, 2, 2, "differences", 1, per_step=per_step, **values)
    shapes = jax.eval_shape(model.init, jax.random.key(0), context(goal=2))
    return jax.jit(model.apply), randomised(shapes)


def test_the_trunk_gives_the_newest_or_every_step():
    """`per_step` has one row for each observation, the last of them that of the newest; a row
    knows no later observation, and every row knows the goal."""
    (last, variables), (every, _) = trunk(), trunk(per_step=True)
    c = context(goal=2)
    rows = every(variables, c)
    assert rows.shape == (B, T, WIDTH)
    np.testing.assert_allclose(rows[:, -1], last(variables, c), rtol=1e-5, atol=1e-6)
    later = c._replace(observations=c.observations.at[:, -1].add(1.0))
    gap = np.abs(np.asarray(every(variables, later)) - rows).max(axis=(0, 2))
    assert np.all(gap[:-1] == 0) and gap[-1] > 1e-3
    other = c._replace(goal=c.goal.at[:, 0].add(1.0))
    assert np.all(np.abs(np.asarray(every(variables, other)) - rows).max(axis=(0, 2)) > 1e-3)


def test_the_trunk_tells_places_apart():
    """The same observations in another order are another history."""
    apply, variables = trunk()
    c = context(goal=2)
    for field in ("observations", "goal"):
        values = getattr(c, field)
        swapped = c._replace(**{field: values.at[:, :2].set(values[:, 1::-1])})
        assert np.abs(np.asarray(apply(variables, swapped)) - apply(variables, c)).max() > 1e-3


def test_dropout_only_in_training():
    """With dropout the key matters in training, and nothing is random otherwise."""
    apply, variables = trunk(dropout=0.3)
    train = jax.jit(lambda key: ContextTransformer(
        WIDTH, 2, 2, "differences", 1, dropout=0.3).apply(
            variables, context(goal=2), train=True, rngs={"dropout": key}))
    plain = apply(variables, context(goal=2))
    np.testing.assert_array_equal(plain, trunk()[0](variables, context(goal=2)))
    first, second = train(jax.random.key(0)), train(jax.random.key(1))
    assert np.abs(np.asarray(first) - second).max() > 1e-3
    np.testing.assert_array_equal(first, train(jax.random.key(0)))


def test_a_window_without_a_place_is_refused():
    """33 observations, or 33 of a goal, are one too many."""
    model = ContextTransformer(WIDTH, 1, 1, "absolute", 0)
    for values in ({"window": 33}, {"goal": 33}):
        with pytest.raises(ValueError, match="places for 32 observations"):
            jax.eval_shape(model.init, jax.random.key(0), context(**values))
    jax.eval_shape(model.init, jax.random.key(0), context(window=32, goal=32))
