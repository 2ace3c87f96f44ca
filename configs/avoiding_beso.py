"""Avoiding with a BESO teacher of published sizes, distilled our way or the published one.

    python -m vdd_jax.main --config=configs/avoiding_beso.py           published teacher, our bound
    python -m vdd_jax.main --config=configs/avoiding_beso.py:paper     published distillation too
    python -m vdd_jax.main --config=configs/avoiding_beso.py:smoke     a minute, for tests

The causal transformer of 4 layers and 4 heads of width 72 over a window of 5, Karras
preconditioning, σ in [0.1, 1], 8 steps (D3IL; Zhou et al. 2024). For a GPU; hours on a CPU. Give
the official recordings by --config.task.demonstrations=DIR.
"""

from vdd_jax import config as config_lib


def get_config(variant: str = ""):
    config = config_lib.default()
    config.task.name = "avoiding"
    config.task.window = 5
    config.task.episodes_per_mode = 4  # as many as were recorded
    config.stages = ("train_teacher", "distill", "evaluate")
    teacher = config.teacher
    teacher.schedule = "ve"
    teacher.sigma_min, teacher.sigma_max = 0.1, 1.0
    teacher.sigma_data = 0.5
    teacher.noise.density = "log_logistic"
    teacher.noise.mean, teacher.noise.scale = -0.6, 0.5
    teacher.ema = 0.999
    teacher.sampler.kind = "euler_ancestral"
    teacher.sampler.num_steps = 8
    _published_networks(config)
    config.distill.noise.low, config.distill.noise.high = 0.1, 1.0
    if variant == "paper":
        config.teacher.update(gelu="erf", positions="first")  # as its checkpoints
        _published_distillation(config)
        config.distill.noise.kind = "uniform"
        config.distill.noise.low, config.distill.noise.high = 0.2, 0.5
    elif variant == "smoke":
        _smoke(config)
    elif variant:
        raise ValueError(f"this configuration has the variants paper and smoke, not {variant!r}")
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
    distill.num_iterations = 20_001
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
