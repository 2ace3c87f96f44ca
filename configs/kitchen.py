"""Relay kitchen (`pip install 'vdd_jax[kitchen]'`): goal-conditioned, up to seven sub-tasks.

    python -m vdd_jax.main --config=configs/kitchen.py             small networks, our distillation
    python -m vdd_jax.main --config=configs/kitchen.py:beso        published teacher and student
    python -m vdd_jax.main --config=configs/kitchen.py:ddpm        the same with a DDPM teacher
    python -m vdd_jax.main --config=configs/kitchen.py:smoke       for tests

Without --config.task.demonstrations=PATH (relay-policy-learning's arrays, Minari or D4RL HDF5) a
scripted demonstrator drives 567 episodes, recorded once to the user's cache. The published settings
are those of BESO and VDD (Zhou et al. 2024); of VDD's DDPM teacher of the kitchen they are not
known: D3IL's. For a GPU; what any of them reaches has not been measured.
"""

from vdd_jax import config as config_lib


def get_config(variant: str = ""):
    config = config_lib.default()
    config.task.name = "kitchen"
    config.task.update(window=4, goal_length=2, goal="future", episodes_per_mode=81, held_out=0.05)
    config.stages = ("train_teacher", "distill", "evaluate")
    config.evaluate.num_episodes = 100
    if variant == "beso":
        _published(config)
    elif variant == "ddpm":
        _published(config)
        _ddpm(config)
    elif variant == "smoke":
        _small(config)
        _smoke(config)
    elif not variant:
        _small(config)
    else:
        raise ValueError("configs/kitchen.py has the variants beso, ddpm and smoke, not "
                         f"{variant!r}")
    return config


def _small(config):
    """As for the planar tasks."""
    config.task.goal = "end"  # what an episode is asked for is what was learned
    config.teacher.update(width=512, fourier=0, num_iterations=40_000)
    config.student.update(
        num_experts=8, trunk="residual_mlp", trunk_width=512, trunk_depth=2, head_depth=0,
        gating_width=128, gating_depth=2, activation="silu", std_floor=0.02, fourier=0,
    )
    config.distill.update(
        num_iterations=20_000, trunk_from_teacher=True, warm_start=0.9, warm_batch_size=512,
        learning_rate=1e-3, gating_learning_rate=1e-3,
        actions="teacher", batch_size=128, samples_per_state=1, likelihood_weight=1.0,
        weight_by_gating=True, gating_start=0.0, gating_full=0.0, reallocations=0, clip_norm=1.0,
    )
    config.distill.noise.update(high=2.0, low=0.05, anneal_broad=0.2)
    config.policy.min_weight = 0.01


def _published(config):
    """BESO's teacher of the kitchen and VDD's student and distillation."""
    config.task.scaler = "none"
    teacher, student, distill = config.teacher, config.student, config.distill
    teacher.update(
        schedule="ve", sigma_min=0.005, sigma_max=1.0, sigma_data=0.5, prediction="karras",
        backbone="transformer", window="all", width=360, depth=6, heads=6, history="absolute",
        fourier=0, attention_dropout=0.3, dropout=0.0, num_iterations=40_000, batch_size=1024,
        learning_rate=1e-4, decay="constant", warmup=0, ema=0.999,
    )
    teacher.noise.update(density="log_logistic", mean=-2.0, scale=0.5)
    teacher.sampler.update(kind="euler_ancestral", num_steps=3, spacing="time")
    student.update(
        num_experts=4, covariance="full", trunk="transformer", trunk_width=240, trunk_depth=6,
        heads=12, history="absolute", fourier=0, attention_dropout=0.1, dropout=0.1,
        head="residual_mlp", head_width=256, head_depth=2, init_spread=1.0, init_std=1.0,
        std_floor=1e-4, gating_width=64, gating_depth=2,
    )
    distill.update(
        window="joint", bound="published", entropy="closed", num_iterations=20_001,
        batch_size=1024, samples_per_state=2, expert_steps=2, learning_rate=1e-4,
        gating_learning_rate=1e-4, schedule="linear", gating_diffused=False, gating_start=0.0,
        gating_full=0.0, reallocations=0,
    )
    distill.noise.update(kind="uniform", low=0.1, high=0.1)


def _ddpm(config):
    """D3IL's DDPM (cosine betas, ε-prediction) on the same networks, 16 steps."""
    teacher = config.teacher
    config.task.scaler = "standard"
    teacher.update(schedule="ddpm_cosine", num_train_steps=16, prediction="eps", sigma_data=1.0,
                   ema=0.995)
    teacher.noise.density = "steps"
    teacher.sampler.update(kind="ddpm", num_steps=16, spacing="time", clip=5.0)
    config.distill.noise.update(kind="discrete", steps=(2, 3, 4, 5, 6), low=0.11, high=3.0)


def _smoke(config):
    config.task.update(episodes_per_mode=1, held_out=0.2)
    config.teacher.update(width=16, depth=1, num_iterations=20, batch_size=16, check_every=10)
    config.teacher.encoder_depth = 1
    config.student.update(num_experts=2, trunk_width=16, trunk_depth=1, gating_width=8)
    config.distill.update(num_iterations=20, batch_size=8, teacher_actions=1_000)
    config.evaluate.num_episodes = 2
    config.run.update(steps_per_dispatch=10, log_every=10, checkpoint_every=20)
