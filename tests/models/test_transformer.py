"""The causal transformer: caches, causality, masks, and the student's trunk."""

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


@pytest.mark.parametrize("prefix", [1, 3])
def test_a_cached_prefix_and_the_rest_equal_the_whole(prefix):
    """Outputs of the later tokens, with tokens of the prefix that are not valid."""
    whole, _ = RUN(VARIABLES, TOKENS, VALID)
    start, caches = RUN(VARIABLES, TOKENS[:, :prefix], VALID[:, :prefix])
    rest, _ = RUN(VARIABLES, TOKENS[:, prefix:], VALID[:, prefix:], caches, VALID[:, :prefix])
    np.testing.assert_allclose(start, whole[:, :prefix], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rest, whole[:, prefix:], rtol=1e-4, atol=1e-5)


def test_many_queries_over_one_prefix_equal_as_many_sequences():
    """V single tokens `[V, B, 1, D]`; each is as if it were alone behind the prefix."""
    queries = RNG.normal(size=(6, B, 1, WIDTH)).astype(np.float32)
    _, caches = RUN(VARIABLES, TOKENS, VALID)
    together, _ = RUN(VARIABLES, queries, np.ones((6, B, 1), bool), caches, VALID)
    assert together.shape == (6, B, 1, WIDTH)
    ends = np.concatenate([VALID, np.ones((B, 1), bool)], axis=1)
    for v in (0, 5):
        whole, _ = RUN(VARIABLES, np.concatenate([TOKENS, queries[v]], axis=1), ends)
        np.testing.assert_allclose(together[v], whole[:, -1:], rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(together[0]) - together[1]).min() > 0


def test_causality():
    """A change of one token changes its own output and later ones, and no earlier one."""
    whole, _ = RUN(VARIABLES, TOKENS, np.ones_like(VALID))
    for i in range(SIZE):
        changed = TOKENS.copy()
        changed[:, i] += 1.0 + np.arange(WIDTH)
        found, _ = RUN(VARIABLES, changed, np.ones_like(VALID))
        gap = np.abs(np.asarray(found) - whole).max(axis=(0, 2))
        assert np.all(gap[:i] == 0) and np.all(gap[i:] > 1e-3)


def test_tokens_that_are_not_valid_have_no_influence():
    """Whatever they are, all valid tokens' outputs are the same, and finite."""
    whole, _ = RUN(VARIABLES, TOKENS, VALID)
    changed = np.where(VALID[..., None], TOKENS, 100.0 * RNG.normal(size=TOKENS.shape))
    found, _ = RUN(VARIABLES, changed.astype(np.float32), VALID)
    np.testing.assert_array_equal(np.asarray(found)[VALID], np.asarray(whole)[VALID])
    assert np.all(np.isfinite(found))
    unmasked, _ = RUN(VARIABLES, TOKENS, np.ones_like(VALID))
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
    q, k, v = (dense(h, block[name]) for name in ("query", "key", "value"))
    logits = np.where(np.tri(SIZE, dtype=bool), q @ k.T / np.sqrt(WIDTH), -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    x = x + dense(weights @ v, block["project"])
    up = jnp.asarray(dense(norm(x, block["norm_2"]), block["up"]), jnp.float32)
    x = x + dense(np.asarray(jax.nn.gelu(up), np.float64), block["down"])
    found, _ = model.apply(variables, TOKENS[:1], np.ones((1, SIZE), bool))
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
