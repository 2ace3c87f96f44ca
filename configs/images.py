"""Tasks seen by two cameras (`pip install 'vdd_jax[sim]'`): demonstrations → teacher → student.

    python -m vdd_jax.main --config=configs/images.py              sorting four boxes
    python -m vdd_jax.main --config=configs/images.py:stacking     stacking three
    python -m vdd_jax.main --config=configs/images.py:small        sorting two, a smaller network
    python -m vdd_jax.main --config=configs/images.py:vp           sorting four, a DDPM teacher
    python -m vdd_jax.main --config=configs/images.py:stacking_vp  stacking three, a DDPM teacher
    python -m vdd_jax.main --config=configs/images.py:smoke        for tests
    python -m vdd_jax.main --config=configs/images.py:smoke_vp     for tests, a DDPM teacher

A ResNet-18 for each camera learns with the teacher; the student takes it over, and what it sees is
encoded once. The scripted demonstrator is recorded and drawn once to the user's cache, 54 KiB a
step, and all of it is held in memory: 60 demonstrations for each of six modes are between 5 and 6
GiB. The settings are those of `configs/planar.py`, and of the encoder those of D3IL (AdamW, weight
decay 1e-6, crops) but for the learning rate: its batches are a quarter of these. What they reached
on a GPU stands in experiments/results/images.md; a DDPM teacher has not been measured. For a GPU
(--config.precision=bfloat16), but `small`.
"""

import runpy
from pathlib import Path


def get_config(variant: str = ""):
    if variant not in ("", "vp", "stacking", "stacking_vp", "small", "smoke", "smoke_vp"):
        raise ValueError("configs/images.py has the variants stacking, small, vp, stacking_vp, "
                         f"smoke and smoke_vp, not {variant!r}")
    asked, variant = variant, variant.removesuffix("vp").removesuffix("_")
    planar = runpy.run_path(str(Path(__file__).with_name("planar.py")))["get_config"]
    config = planar(("smoke" if variant == "smoke" else "block_push") + "_vp" * (asked != variant))
    config.task.update(name="sorting_image", episodes_per_mode=60, goal_length=0)
    config.teacher.update(fourier=0, learning_rate=3e-4, weight_decay=1e-6, batch_size=256)
    config.student.fourier = 0
    if variant == "stacking":
        config.task.name = "stacking_image"
    elif variant == "small":
        config.task.update(name="sorting_2_image", episodes_per_mode=150)
        config.teacher.update(batch_size=64, learning_rate=5e-4, num_iterations=6_000)
        config.teacher.vision.update(channels=(16, 32, 64), width=32)
        config.distill.num_iterations = 5_000
        config.evaluate.num_episodes = 36
    elif variant == "smoke":
        config.task.update(episodes_per_mode=1, window=2)
        config.teacher.batch_size = 8
        config.teacher.vision.update(channels=(16,), width=4)
        config.evaluate.update(num_episodes=1, teacher_steps=())
    return config
