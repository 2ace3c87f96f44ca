"""Random keys of a cheaper generator, for what only has to be noise."""

import jax
import jax.numpy as jnp


def for_dropout(key: jax.Array) -> jax.Array:
    """A key of XLA's own generator (`rbg`), seeded by a Threefry key; any other one as it is.

    Masks take as many random bits as there are features, and Threefry computes each of them in a
    hundred operations where an accelerator has an instruction.
    """
    data = jax.random.key_data(key)
    if data.shape != (2,):
        return key
    return jax.random.wrap_key_data(jnp.concatenate([data, data]), impl="rbg")
