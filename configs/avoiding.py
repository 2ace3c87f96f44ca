"""Avoiding: demonstrations → diffusion teacher → mixture-of-experts student → episodes of both.

    python -m vdd_jax.main --config=configs/avoiding.py           recommended
    python -m vdd_jax.main --config=configs/avoiding.py:vp        with a DDPM teacher
    python -m vdd_jax.main --config=configs/avoiding.py:recorded --config.task.demonstrations=DIR
                                                                  for the official recordings
    python -m vdd_jax.main --config=configs/avoiding.py:smoke     a minute, for tests

Without --config.task.demonstrations=DIR (official D3IL pickles) a scripted demonstrator drives
480 episodes, 20 in each of the 24 modes. There are 96 recordings: `recorded` keeps the teacher from
learning them by heart. Times and scores: README.md.
"""

from vdd_jax import config as config_lib


def get_config(variant: str = ""):
    config = config_lib.default()
    config.task.name = "avoiding"
    config.task.window = 5
    config.stages = ("train_teacher", "distill", "evaluate")
    # Shared features, linear heads: experts differ by what the gating does with them, and the
    # gating, which decides when a course is changed, has a network of its own.
    config.student.update(
        num_experts=16, trunk="residual_mlp", trunk_width=256, trunk_depth=2, head_depth=0,
        gating_width=128, gating_depth=2, activation="silu",
        std_floor=0.02,  # about what the teacher, trained down to 0.05, can tell apart
    )
    # The student's trunk starts as the teacher's. It is fitted to samples of the teacher first,
    # which finds the rare actions by which ways part, then its bounds are minimised beside that;
    # each expert counts where it is used. More steps than the teacher acts with are nearer to its
    # law, in which rare ways are less rare.
    config.distill.update(
        num_iterations=15_000, trunk_from_teacher=True, warm_start=0.9, warm_batch_size=512,
        learning_rate=1e-3, gating_learning_rate=1e-3,
        actions="teacher", teacher_actions=225_000, actions_steps=18, state_jitter=0.03,
        batch_size=128, samples_per_state=1, likelihood_weight=1.0, weight_by_gating=True,
        gating_start=0.0, gating_full=0.0, reallocations=0, clip_norm=1.0,
    )
    # what the rivals of the student are given: the same actions of the teacher, or demonstrations
    config.consistency.update(num_iterations=8_000, batch_size=256, teacher_steps=3,
                              actions="teacher", teacher_actions=225_000, actions_steps=18,
                              state_jitter=0.03)
    config.from_scratch.update(num_iterations=15_000, batch_size=512, learning_rate=1e-3,
                               pacing=0.1)
    config.policy.min_weight = 0.01  # rarer experts are the ones that end at a cylinder
    config.distill.noise.update(high=2.0, low=0.05, anneal_broad=0.2)
    if variant == "recorded":
        config.teacher.state_jitter = 0.03
    elif variant == "vp":
        with_ddpm_teacher(config)
        config.teacher.sampler.clip = 3.0
    elif variant == "smoke":
        config.task.episodes_per_mode = 1
        config.teacher.update(width=16, depth=1, num_iterations=20, batch_size=16, check_every=10)
        config.teacher.encoder_depth = 1
        config.student.update(num_experts=2, trunk_width=16, trunk_depth=1, gating_width=8)
        config.distill.update(num_iterations=20, batch_size=8, reallocations=2,
                              teacher_actions=2_000)
        config.consistency.update(num_iterations=20, batch_size=8, num_scales=4,
                                  teacher_actions=2_000)
        config.from_scratch.update(num_iterations=20, batch_size=8)
        config.evaluate.num_episodes = 8
        config.run.update(steps_per_dispatch=10, log_every=10, checkpoint_every=20)
    elif variant:
        raise ValueError(
            f"configs/avoiding.py has the variants vp, recorded and smoke, not {variant!r}")
    return config


def with_ddpm_teacher(config):
    """A chain of 32 steps, in place of a teacher of BESO's kind."""
    config.teacher.update(schedule="ddpm_cosine", num_train_steps=32, prediction="x0")
    # uniform over the steps it would learn too little where ways part, σ/α of .2 to 1
    config.teacher.noise.update(density="log_logistic", mean=-0.4, scale=1.0)
    config.teacher.sampler.update(kind="ddpm", spacing="time")
    config.distill.noise.low = 0.06  # t = 0 of the chain
    # by more steps it solves fewer episodes of pushing (experiments/results/planar.md)
    config.distill.actions_steps = config.consistency.actions_steps = 0
