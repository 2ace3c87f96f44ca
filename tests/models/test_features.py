"""What a network is shown of a context, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import OBS, B, T, context

from vdd_jax.models import features


def test_fourier_by_hand():
    """sin and cos of π x/2, π x, 2π x, number by number; none asked for, none given."""
    x = np.array([[0.5, -1.0]], np.float32)
    angle = np.array([0.25, 0.5, 1.0, -0.5, -1.0, -2.0]) * np.pi
    np.testing.assert_allclose(features.fourier(x, 3)[0], [*np.sin(angle), *np.cos(angle)],
                               atol=1e-6)
    assert features.fourier(x, 0).shape == (1, 0)


@pytest.mark.parametrize("goal", [0, 2])
@pytest.mark.parametrize("window", [1, T])
def test_flat_differences(window, goal):
    """[newest, its Fourier features, steps between neighbours, goal, flags of the past]."""
    c = context(window=window, goal=goal, missing=1 if window > 1 else 0)
    newest = c.observations[:, -1]
    expected = np.concatenate([
        newest, features.fourier(newest, 2), *(c.steps[:, i] for i in range(1, window)),
        *(c.goal[:, i] for i in range(goal)), c.valid[:, : window - 1]], axis=-1)
    found = features.flat(c, "differences", 2)
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (B, 5 * OBS + (window - 1) * (OBS + 1) + goal * OBS)


def test_flat_absolute():
    """The observations before the newest in place of the steps; zeros where none was made."""
    c = context(goal=1, missing=1)
    expected = np.concatenate([c.observations[:, -1], np.zeros((B, OBS)), c.observations[:, 1],
                               c.goal[:, 0], c.valid[:, :-1]], axis=-1)
    np.testing.assert_array_equal(features.flat(c, "absolute", 0), expected)


@pytest.mark.parametrize("history, width", [("absolute", 5 * OBS), ("differences", 6 * OBS)])
def test_per_step(history, width):
    """A row for each observation; the steps only where they are asked for."""
    c = context()
    found = features.per_step(c, history, 2)
    assert found.shape == (B, T, width)
    np.testing.assert_array_equal(found[..., :OBS], c.observations)
    np.testing.assert_array_equal(found[..., OBS : 5 * OBS], features.fourier(c.observations, 2))
    np.testing.assert_array_equal(found[..., 5 * OBS :],
                                  c.steps if history == "differences" else c.steps[..., :0])


@pytest.mark.parametrize("history", ["absolute", "differences"])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_any_batch_axes(history, batch):
    """The same rows for one context, or a batch of batches."""
    c = context(batch=batch, goal=1)
    for of in (features.flat, features.per_step):
        found = of(c, history, 1)
        assert found.shape[: len(batch)] == batch
        if batch:
            one = of(jax.tree.map(lambda v: jnp.asarray(v[1, 2]), c), history, 1)
            np.testing.assert_array_equal(one, found[1, 2])
