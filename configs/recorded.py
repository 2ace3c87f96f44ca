"""Your own demonstrations → diffusion teacher → mixture-of-experts student, judged by its teacher.

    python -m vdd_jax.main --config=configs/recorded.py --config.task.demonstrations=PATH
    python -m vdd_jax.main --config=configs/recorded.py:smoke --config.task.demonstrations=PATH
                                                                  to try a data set out

PATH is a file or directory in one of the formats of docs/data.md, which also says how observations
and actions are chosen. The settings are those that were found on Avoiding, with fewer iterations:
a start, not tuned to anything. Hardware: any.
"""

from vdd_jax import config as config_lib


def get_config(variant: str = ""):
    config = config_lib.default()
    config.task.name = "recorded"
    config.task.window = 2
    config.stages = ("train_teacher", "distill", "evaluate")
    config.teacher.state_jitter = 0.03  # few demonstrations are learned by heart otherwise
    config.student.update(
        num_experts=16, trunk="residual_mlp", trunk_width=256, trunk_depth=2, head_depth=0,
        gating_width=128, gating_depth=2, activation="silu", std_floor=0.02,
    )
    config.distill.update(
        num_iterations=10_000, trunk_from_teacher=True, warm_start=0.9, warm_batch_size=512,
        learning_rate=1e-3, gating_learning_rate=1e-3,
        actions="teacher", state_jitter=0.03, batch_size=128,
        samples_per_state=1, likelihood_weight=1.0, weight_by_gating=True, gating_start=0.0,
        gating_full=0.0, reallocations=0, clip_norm=1.0,
    )
    config.policy.min_weight = 0.01
    config.distill.noise.update(high=2.0, low=0.05, anneal_broad=0.2)
    if variant == "smoke":
        config.teacher.update(width=16, depth=1, encoder_depth=1, num_iterations=20, batch_size=16,
                              check_every=10)
        config.student.update(num_experts=2, trunk_width=16, trunk_depth=1, gating_width=8)
        config.distill.update(num_iterations=20, batch_size=8, teacher_actions=200)
        config.run.update(steps_per_dispatch=10, log_every=10, checkpoint_every=20)
    elif variant:
        raise ValueError(f"configs/recorded.py has the variant smoke, not {variant!r}")
    return config
