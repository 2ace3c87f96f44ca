"""Avoiding with a DDPM teacher of published sizes, distilled our way or the published one.

    python -m vdd_jax.main --config=configs/avoiding_ddpm.py           published teacher, our bound
    python -m vdd_jax.main --config=configs/avoiding_ddpm.py:paper     published distillation too
    python -m vdd_jax.main --config=configs/avoiding_ddpm.py:smoke     a minute, for tests

The causal transformer of 4 layers and 4 heads of width 72 over a window of 5, cosine betas,
ε-prediction, 8 steps (D3IL; Zhou et al. 2024). For a GPU; hours on a CPU. Give the official
recordings by --config.task.demonstrations=DIR.
"""

from vdd_jax import config as config_lib


def get_config(variant: str = ""):
    config = config_lib.default()
    config.task.name = "avoiding"
    config.task.window = 5
    config.task.episodes_per_mode = 4  # as many as were recorded
    config.stages = ("train_teacher", "distill", "evaluate")
    teacher = config.teacher
    teacher.schedule = "ddpm_cosine"
    teacher.num_train_steps = 8
    teacher.prediction = "eps"
    teacher.noise.density = "steps"
    teacher.ema = 0.995
    teacher.sampler.kind = "ddpm"
    teacher.sampler.num_steps = 8
    teacher.sampler.spacing = "time"
    teacher.sampler.clip = 3.0  # the bounds of the recorded actions, scaled
    _published_networks(config)
    config.student.covariance = "diagonal"
    config.student.attention_dropout = 0.1
    # t = 0 is σ/α = .2 and t = 7 pure noise: the range of the chain but its last step
    config.distill.noise.low = 0.21
    config.distill.noise.high = 3.0
    if variant == "paper":
        _published_distillation(config)
        config.distill.noise.kind = "discrete"
        config.distill.noise.steps = (1, 2, 3, 4)
    elif variant == "smoke":
        _smoke(config)
    elif variant:
        raise ValueError(
            f"configs/avoiding_ddpm.py has the variants paper and smoke, not {variant!r}")
    return config


def _published_networks(config):
    """HYPER-PARAMETERS of D3IL's state tasks and of VDD for avoiding."""
    teacher, student = config.teacher, config.student
    teacher.backbone = "transformer"
    teacher.window = "all"
    teacher.width, teacher.depth, teacher.heads = 72, 4, 4
    teacher.history = "absolute"
    teacher.fourier = 0
    teacher.attention_dropout = 0.2
    teacher.dropout = 0.1
    teacher.num_iterations = 20_000
    teacher.batch_size = 1024
    teacher.learning_rate = 5e-4
    teacher.decay = "constant"
    teacher.warmup = 0
    teacher.weight_decay = 0.0
    student.trunk = "transformer"
    student.trunk_width, student.trunk_depth, student.heads = 72, 4, 4
    student.history = "absolute"
    student.fourier = 0
    student.head_width, student.head_depth = 512, 1
    student.attention_dropout = 0.2
    student.dropout = 0.1
    config.distill.num_iterations = 20_000
    config.distill.batch_size = 256
    config.distill.samples_per_state = 2


def _published_distillation(config):
    """Zhou et al. 2024: joint window, published bound, fixed noise, Adam 1e-4 to 0."""
    distill = config.distill
    distill.window = "joint"
    distill.bound = "published"
    distill.entropy = "closed"
    distill.batch_size = 1024
    distill.expert_steps = 2
    distill.learning_rate = distill.gating_learning_rate = 1e-4
    distill.schedule = "linear"
    distill.gating_diffused = False
    distill.gating_start = distill.gating_full = 0.0
    distill.reallocations = 0


def _smoke(config):
    config.task.episodes_per_mode = 1
    config.teacher.update(width=16, depth=1, num_iterations=20, batch_size=16, check_every=10)
    config.student.update(num_experts=2, trunk_width=16, trunk_depth=1, head_width=8,
                          gating_width=8)
    config.distill.update(num_iterations=20, batch_size=8, reallocations=0)
    config.evaluate.num_episodes = 8
    config.run.update(steps_per_dispatch=10, log_every=10, checkpoint_every=20)
