"""Stacking in MuJoCo (`pip install 'vdd_jax[sim]'`): demonstrations → teacher → student.

    python -m vdd_jax.main --config=configs/stacking.py          small networks, as for Avoiding
    python -m vdd_jax.main --config=configs/stacking.py:beso     teacher of published sizes: BESO
    python -m vdd_jax.main --config=configs/stacking.py:ddpm     the same: DDPM
    python -m vdd_jax.main --config=configs/stacking.py:smoke    a minute, for tests

Three boxes are grasped and stacked, in six orders. Without --config.task.demonstrations=DIR
(official recordings) a scripted demonstrator drives, which is recorded once to the user's cache.
The published transformers (D3IL; 6 layers, 6 heads, width 120, window 5, 16 steps) want a GPU; the
published distillation of stacking is not known, so that the student's settings are Avoiding's. None
of this has been tuned here, and what it reaches has not been measured.
"""

import runpy
from pathlib import Path


def _as(name: str, variant: str = ""):
    """The settings of another configuration file, for stacking."""
    file = runpy.run_path(str(Path(__file__).with_name(name)))
    config = file["get_config"](variant)
    config.task.update(name="stacking", window=5, goal_length=0)
    config.task.episodes_per_mode = 180  # 18 for each of 60 contexts, as recorded
    config.evaluate.num_episodes = 1080  # 60 contexts, 18 each
    return config


def _published(name: str):
    config = _as(name)
    config.teacher.update(width=120, depth=6, heads=6)
    config.teacher.sampler.num_steps = 16
    config.student.update(trunk_width=120, trunk_depth=6, heads=6)
    return config


def get_config(variant: str = ""):
    if variant == "beso":
        config = _published("avoiding_beso.py")
        config.teacher.update(sigma_min=0.01, sigma_max=1.0)
        config.distill.noise.low = 0.02
    elif variant == "ddpm":
        config = _published("avoiding_ddpm.py")
        config.teacher.num_train_steps = 16
        config.distill.noise.low = 0.11  # t = 0 of the chain
    elif variant == "smoke":
        config = _as("planar.py", variant)
        config.task.update(episodes_per_mode=1, window=2)
        config.evaluate.num_episodes = 2
    elif variant:
        raise ValueError(
            f"configs/stacking.py has the variants ddpm, beso and smoke, not {variant!r}")
    else:
        config = _as("planar.py")
    return config
