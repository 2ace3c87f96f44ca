"""Avoiding: demonstrations → diffusion teacher → mixture-of-experts student → episodes of both.

    python -m vdd_jax.main --config=configs/avoiding.py           recommended
    python -m vdd_jax.main --config=configs/avoiding.py:smoke     a minute, for tests

Without --config.task.demonstrations=DIR (official D3IL pickles) a scripted demonstrator drives
480 episodes, 20 in each of the 24 modes. Times and scores: README.md.
"""

from vdd_jax import config as config_lib


def get_config(variant: str = ""):
    config = config_lib.default()
    config.task.name = "avoiding"
    config.task.window = 5
    config.stages = ("train_teacher", "distill", "evaluate")
    config.student.update(trunk="residual_mlp", trunk_width=256, head_width=128, gating_width=128)
    config.distill.update(num_iterations=4_000, batch_size=128, samples_per_state=2,
                          learning_rate=1e-3, gating_learning_rate=1e-3, clip_norm=1.0)
    config.distill.noise.update(high=2.0, low=0.05)
    if variant == "smoke":
        config.task.episodes_per_mode = 1
        config.teacher.update(width=16, depth=1, num_iterations=20, batch_size=16)
        config.student.update(num_experts=2, trunk_width=16, trunk_depth=1, head_width=8,
                              gating_width=8)
        config.distill.update(num_iterations=20, batch_size=8, reallocations=2)
        config.evaluate.num_episodes = 8
        config.run.update(steps_per_dispatch=10, log_every=10, checkpoint_every=20)
    elif variant:
        raise ValueError(f"configs/avoiding.py has the variant smoke, not {variant!r}")
    return config
