"""Planar manipulation with a rod, simulated in MuJoCo: block push, pushing, aligning, sorting.

Rules, sizes, observations and scores are those of the benchmarks (see each module); the scenes
are our own, of primitives, and a rod on servos takes the place of the arm. MuJoCo is imported
when the first episode starts, not before: `pip install 'vdd_jax[sim]'`.
"""
