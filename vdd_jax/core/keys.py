"""Random keys of a cheaper generator, for what only has to be noise."""

import jax
import jax.numpy as jnp


def for_dropout(key: jax.Array) -> jax.Array:
    """A key of XLA's own generator (`rbg`) where that is faster than Threefry, seeded by the key; a
    key of another generator than Threefry as it is.

    Masks take as many random bits as there are features. Threefry computes them in a hundred
    operations where an accelerator has an instruction; on a CPU it is the faster one.
    """
    data = jax.random.key_data(key)
    if data.shape != (2,) or jax.default_backend() == "cpu":
        return key
    return jax.random.wrap_key_data(jnp.concatenate([data, data]), impl="rbg")
