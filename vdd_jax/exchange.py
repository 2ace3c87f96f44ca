"""Things that are alike exchange their numbers: boxes of a colour are told apart by their places in
an observation alone, and which of them is the first means nothing."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vdd_jax.types import Alike, Batch


def orders(alike: Alike, size: int) -> np.ndarray:
    """All ways to number what is alike, the given one first: `[P, O]` positions, O = `size`.

    Args:
      alike: of each kind the things, of each thing the positions of its numbers: two boxes with
        three numbers each after two of something else are `(((2, 3, 4), (5, 6, 7)),)`.
    """
    found = []
    for chosen in itertools.product(*(itertools.permutations(things) for things in alike)):
        order = np.arange(size)
        for things, permuted in zip(alike, chosen, strict=True):
            order[np.concatenate(things)] = np.concatenate(permuted)
        found.append(order)
    return np.array(found)


def with_differences(alike: Alike, relative: tuple[tuple[int, int], ...], size: int) -> Alike:
    """The same where behind `size` numbers of an observation stand the differences of `relative`
    (see `TaskSpec`): those of its numbers go with a thing."""
    return tuple(tuple(
        (*thing, *(size + r for r, (one, _) in enumerate(relative) if one in thing))
        for thing in things) for things in alike)


def rotations(alike: Alike, size: int) -> np.ndarray:
    """The fewest orders `[P, O]` in which each thing has had the place of every other alike one."""
    found = np.tile(np.arange(size), (max(map(len, alike), default=1), 1))
    for turn, order in enumerate(found):
        for things in alike:
            by = turn % len(things)
            order[np.concatenate(things)] = np.concatenate((*things[by:], *things[:by]))
    return found


def exchanged(batch: Batch, alike: Alike, key: jax.Array) -> Batch:
    """A batch with the windows of each row in an order that is drawn for it; actions stay."""
    seen = batch.observation
    table = jnp.asarray(orders(alike, seen.observations.shape[-1]))
    drawn = jax.random.randint(key, (len(batch.action),), 0, len(table))
    return batch._replace(observation=seen._replace(**{
        name: jnp.take_along_axis(getattr(seen, name), table[drawn][:, None], -1)
        for name in ("observations", "steps", "goal")}))


def drawing(draw: Callable[..., Batch], alike: Alike) -> Callable[..., Batch]:
    """`draw`, as `data.batch_at`, of `exchanged` batches; itself where nothing is alike."""
    if not alike:
        return draw

    def drawn(data, key, step, batch_size):
        batch = draw(data, key, step, batch_size)
        own = jax.random.fold_in(jax.random.fold_in(key, step), 1)
        return exchanged(batch, alike, own)

    return drawn
