"""Flax networks: the only folder that imports `flax.linen`."""
