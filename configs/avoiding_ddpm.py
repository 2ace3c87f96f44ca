"""Avoiding with a DDPM teacher of published sizes, distilled our way or the published one.

    python -m vdd_jax.main --config=configs/avoiding_ddpm.py           published teacher, our bound
    python -m vdd_jax.main --config=configs/avoiding_ddpm.py:paper     published distillation too
    python -m vdd_jax.main --config=configs/avoiding_ddpm.py:smoke     a minute, for tests

The causal transformer of 4 layers and 4 heads of width 72 over a window of 5, cosine betas,
ε-prediction, 8 steps (D3IL; Zhou et al. 2024). For a GPU; hours on a CPU. Give the official
recordings by --config.task.demonstrations=DIR.
"""

import runpy
from pathlib import Path


def get_config(variant: str = ""):
    """Networks, lengths and smoke sizes are those of the BESO teacher."""
    beso = runpy.run_path(str(Path(__file__).with_name("avoiding_beso.py")))
    config = beso["get_config"](variant)
    teacher = config.teacher
    teacher.update(schedule="ddpm_cosine", num_train_steps=8, prediction="eps", sigma_data=1.0,
                   ema=0.995)
    teacher.noise.density = "steps"
    teacher.sampler.update(
        kind="ddpm", num_steps=8, spacing="time",
        clip=3.0,  # the bounds of the recorded actions, scaled
    )
    config.student.update(covariance="diagonal", attention_dropout=0.1)
    # t = 0 is σ/α = .2 and t = 7 pure noise: the range of the chain but its last step
    config.distill.noise.update(low=0.21, high=3.0)
    if variant == "paper":
        teacher.noise_embedding = "sinusoidal"
        config.distill.noise.update(kind="discrete", steps=(1, 2, 3, 4))
    return config
