"""Relay kitchen (`pip install 'vdd_jax[kitchen]'`): goal-conditioned, up to seven sub-tasks.

    python -m vdd_jax.main --config=configs/kitchen.py             small networks, our distillation
    python -m vdd_jax.main --config=configs/kitchen.py:vp          the same with a DDPM teacher
    python -m vdd_jax.main --config=configs/kitchen.py:beso        published: BESO
    python -m vdd_jax.main --config=configs/kitchen.py:ddpm        the same: DDPM
    python -m vdd_jax.main --config=configs/kitchen.py:smoke       for tests

Without --config.task.demonstrations=PATH (relay-policy-learning's arrays, Minari or D4RL HDF5) a
scripted demonstrator drives 1,400 episodes, recorded once to the user's cache. The small networks
are those of the planar tasks, wider. The published ones, and what of them is known:
configs/published.py. For a GPU; what a small run reaches stands in experiments/results/kitchen.md
(`vp` has not been measured).
"""

import runpy
from pathlib import Path


def _of(name: str) -> dict:
    """What another configuration file defines."""
    return runpy.run_path(str(Path(__file__).with_name(name)))


def get_config(variant: str = ""):
    if variant in ("beso", "ddpm"):
        return _of("published.py")["get_config"](f"kitchen_{variant}")
    if variant not in ("", "vp", "smoke"):
        raise ValueError("configs/kitchen.py has the variants vp, beso, ddpm and smoke, not "
                         f"{variant!r}")
    planar = _of("planar.py")
    config = planar["get_config"]("block_push_vp" if variant == "vp" else "block_push")
    # what an episode is asked for is what was learned
    config.task.update(name="kitchen", window=4, goal_length=2, goal="end", episodes_per_mode=200,
                       held_out=0.05, scaler="bounded")  # things that are seldom moved
    config.teacher.update(width=512, fourier=0, num_iterations=40_000)
    config.student.update(num_experts=8, trunk_width=512, fourier=0)
    config.distill.num_iterations = 20_000
    config.evaluate.num_episodes = 100
    if variant == "smoke":
        planar["smoke"](config)
        config.evaluate.num_episodes = 2
    return config
