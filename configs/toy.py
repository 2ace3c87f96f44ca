"""The 2-D toy: a ring of Gaussians with an exact score, distilled into a mixture of experts.

    python -m vdd_jax.main --config=configs/toy.py            recommended
    python -m vdd_jax.main --config=configs/toy.py:paper      the published settings
    python -m vdd_jax.main --config=configs/toy.py:smoke      seconds, for tests

The recommended settings work in scaled actions and with noise annealed over all scales, so that
they hold for other radii, stds and mode counts. Without --config.student.num_experts the
student has one expert for each of --config.task.num_modes. Scores: experiments/results/toy.md.
"""

from vdd_jax import config as config_lib


def get_config(variant: str = ""):
    config = config_lib.default()
    # one expert a mode unless set: a reference follows --config.task.num_modes
    config.student.num_experts = config.task.get_ref("num_modes") * 1
    config.student.trunk_depth = 2
    if variant == "paper":
        _paper(config)
    elif variant == "smoke":
        config.task.num_demonstrations = 500
        config.distill.num_iterations = 20
        config.run.steps_per_dispatch = 10
        config.run.log_every = 10
        config.run.num_snapshots = 2
        config.evaluate.num_samples = 200
    elif variant:
        raise ValueError(f"configs/toy.py has the variants paper and smoke, not {variant!r}")
    return config


def _paper(config):
    """Zhou et al. 2024: diagonal experts, uniform gating, no trunk, unscaled actions."""
    config.task.scaler = "none"
    config.student.num_experts = 8
    config.student.covariance = "diagonal"
    config.student.gating = "uniform"
    config.student.trunk_depth = 0
    config.student.head = "residual_mlp"
    config.student.head_width = 64
    config.student.head_depth = 2
    config.student.init_spread = 0.5
    config.distill.num_iterations = 600
    config.distill.batch_size = 32
    config.distill.samples_per_state = 64
    config.distill.learning_rate = 5e-4
    config.distill.gating_learning_rate = 5e-4
    config.distill.schedule = "linear"
    config.distill.bound = "published"
    config.distill.entropy = "closed"
    config.distill.gating_diffused = False
    config.distill.gating_start = 0.0
    config.distill.gating_full = 0.0
    config.distill.reallocations = 0
    config.distill.noise.kind = "fixed"
    config.distill.noise.high = 0.1
    config.distill.noise.low = 0.1
    config.run.log_every = 100
