"""Stacking in MuJoCo (`pip install 'vdd_jax[sim]'`): demonstrations → teacher → student.

    python -m vdd_jax.main --config=configs/stacking.py          small networks, as for Avoiding
    python -m vdd_jax.main --config=configs/stacking.py:vp       the same with a DDPM teacher
    python -m vdd_jax.main --config=configs/stacking.py:beso     published: BESO
    python -m vdd_jax.main --config=configs/stacking.py:ddpm     the same: DDPM
    python -m vdd_jax.main --config=configs/stacking.py:smoke    a minute, for tests

Three boxes are grasped and stacked, in six orders. Without --config.task.demonstrations=DIR
(official recordings) a scripted demonstrator drives, which is recorded once to the user's cache.
The published transformers (6 layers, 6 heads, width 120, window 5, 16 steps) want a GPU; what of
them is known: configs/published.py. None of this has been tuned here; what the small networks reach
stands in experiments/results/planar.md (`vp` has not been measured).
"""

import runpy
from pathlib import Path


def _of(name: str, variant: str = ""):
    return runpy.run_path(str(Path(__file__).with_name(name)))["get_config"](variant)


def get_config(variant: str = ""):
    if variant in ("beso", "ddpm"):
        return _of("published.py", f"stacking_{variant}")
    if variant not in ("", "vp", "smoke"):
        raise ValueError(
            f"configs/stacking.py has the variants vp, beso, ddpm and smoke, not {variant!r}")
    config = _of("planar.py", {"": "block_push", "vp": "block_push_vp"}.get(variant, variant))
    config.task.update(name="stacking", goal_length=0)
    if variant == "smoke":
        config.evaluate.num_episodes = 2
    else:
        config.task.episodes_per_mode = 600
        config.evaluate.num_episodes = 1080  # 18 in each of 60 contexts
        config.policy.acting = "sample"  # by means of experts it keeps to fewer orders
    return config
