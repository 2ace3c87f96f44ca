"""The published settings: BESO or DDPM teachers of D3IL and BESO, distilled as VDD was.

    python -m vdd_jax.main --config=configs/published.py               pushing_beso
    python -m vdd_jax.main --config=configs/published.py:TASK_beso     with a BESO teacher
    python -m vdd_jax.main --config=configs/published.py:TASK_ddpm     with a DDPM teacher
    python -m vdd_jax.main --config=configs/published.py:smoke_beso    a minute, for tests
    python -m vdd_jax.main --config=configs/published.py:smoke_ddpm    the same, DDPM

TASK is avoiding, pushing, block_push, aligning, sorting_2, sorting_4, sorting_6, stacking,
kitchen, sorting_image or stacking_image. Causal transformers over the window, joint distillation by
the published bound (Zhou et al. 2024). For a GPU; what any of them reaches has not been measured
here.

Known of teachers: D3IL's of all its tasks, BESO's of block push and kitchen. Known of students:
with BESO avoiding, block push and kitchen; with DDPM avoiding, aligning and pushing. Not known, so
that something else stands here:

* the student of pushing and aligning with BESO: that of DDPM, at Avoiding's noise levels;
* DDPM teacher and student of block push and kitchen: BESO's networks, D3IL's chain of 16 steps,
  noise as of pushing;
* students of sorting and stacking, with images too: Avoiding's heads on a trunk of the teacher's
  sizes, noise as of Avoiding with BESO, as of pushing with DDPM;
* the number of updates of D3IL's teachers, which is told in epochs (aligning and sorting_2 500,
  sorting_4, sorting_6 and stacking 200) of recordings that are not here: Avoiding's 20,000.

Otherwise as published but: D3IL gives its chain for pushing 64 steps, VDD distils one of 16; a goal
of block push is shown whole, not the blocks alone; chains are clipped at the largest action of the
scripted demonstrators, scaled; images are cropped at random, and stacking is shown 180
demonstrations with images (1,095 were recorded), which are 2.6 GiB in memory. Official recordings:
--config.task.demonstrations=PATH.
"""

import runpy
from pathlib import Path

LARGE = {"width": 120, "depth": 6, "heads": 6}
TRUNK = {"trunk_width": 120, "trunk_depth": 6, "heads": 6}
# BESO's two tasks, both conditioned on goals
BESO_BLOCK_PUSH = {"width": 240, "depth": 4, "heads": 12, "attention_dropout": 0.05,
                   "dropout": 0.05, "num_iterations": 60_000, "learning_rate": 1e-4}
BESO_KITCHEN = {"width": 360, "depth": 6, "heads": 6, "attention_dropout": 0.3, "dropout": 0.0,
                "num_iterations": 40_000, "learning_rate": 1e-4, "weight_decay": 1e-4}
GOALS = {"num_experts": 4, "covariance": "full", "heads": 12, "trunk_width": 240,
         "head": "residual_mlp", "head_depth": 2}

BOTH = {  # task → what differs from Avoiding with either teacher
    "avoiding": {},
    "pushing": {
        "task": {"episodes_per_mode": 500},
        "student": {"covariance": "full", "head_depth": 2}},
    "aligning": {
        "task": {"episodes_per_mode": 500},
        "student": {"covariance": "full", "head": "residual_mlp", "head_depth": 2,
                    "attention_dropout": 0.2, "init_spread": 0.2}},
    "sorting_2": {"task": {"episodes_per_mode": 250}},
    "sorting_4": {
        "task": {"episodes_per_mode": 250}, "teacher": LARGE, "student": TRUNK,
        "evaluate": {"num_episodes": 1080}},
    "sorting_6": {
        "task": {"episodes_per_mode": 250}, "teacher": LARGE, "student": TRUNK,
        "evaluate": {"num_episodes": 1200}},
    "stacking": {
        "task": {"episodes_per_mode": 180}, "teacher": LARGE, "student": TRUNK,
        "evaluate": {"num_episodes": 1080}},
    "block_push": {
        "task": {"episodes_per_mode": 250, "held_out": 0.05, "goal_length": 1, "goal": "future",
                 "scaler": "min_max"},
        "teacher": BESO_BLOCK_PUSH,
        "student": {**GOALS, "trunk_depth": 4, "attention_dropout": 0.05, "dropout": 0.05},
        "evaluate": {"num_episodes": 100}},
    "kitchen": {
        "task": {"episodes_per_mode": 81, "held_out": 0.05, "goal_length": 2, "goal": "future",
                 "window": 4},
        "teacher": BESO_KITCHEN,
        "student": {**GOALS, "trunk_depth": 6, "head_width": 256, "attention_dropout": 0.1},
        "evaluate": {"num_episodes": 100}},
}
# D3IL's of tasks with images: networks of Avoiding's sizes, and 100 demonstrations of sorting
SEEN = {"learning_rate": 1e-4, "weight_decay": 1e-6, "batch_size": 64}
BOTH |= {f"{task}_image": {
    "task": {"episodes_per_mode": episodes}, "teacher": SEEN, "evaluate": {"num_episodes": 1080}}
    for task, episodes in (("sorting", 17), ("stacking", 30))}
BESO = {  # task → its BESO teacher, its noise levels
    "pushing": {"teacher": {"sampler": {"num_steps": 64}}},
    "aligning": {
        "teacher": {"sigma_min": 0.01, "sigma_max": 3.0, "sampler": {"num_steps": 16}}},
    "sorting_2": {"teacher": {"sampler": {"num_steps": 16}}},
    "sorting_4": {"teacher": {"sampler": {"num_steps": 16}}},
    "sorting_6": {"teacher": {"sampler": {"num_steps": 16}}},
    "stacking": {"teacher": {"sigma_min": 0.01, "sampler": {"num_steps": 16}}},
    "sorting_image": {"teacher": {"sampler": {"num_steps": 16}}},
    "stacking_image": {"teacher": {"sigma_min": 0.01, "sampler": {"num_steps": 16}}},
    "block_push": {"teacher": {
        "sigma_min": 0.05, "sampler": {"kind": "ddim", "num_steps": 3, "spacing": "time"}}},
    "kitchen": {
        "task": {"scaler": "none"},
        "teacher": {"sigma_min": 0.005, "noise": {"mean": -2.0},
                    "sampler": {"num_steps": 3, "spacing": "time"}},
        "distill": {"noise": {"low": 0.1, "high": 0.1}}},
}
STEPS = {"aligning": (4,)}  # task → those of the chain at which it is distilled
OTHERS = (2, 3, 4, 5, 6)
# largest scaled action; of sorting_2 and sorting_4 it is below Avoiding's 3, of kitchen not known
CLIPS = {"pushing": 3.5, "aligning": 5.2, "stacking": 3.8, "stacking_image": 3.8,
         "block_push": 1.0, "kitchen": 5.0}
TASKS = tuple(f"{task}_{family}" for task in BOTH for family in ("beso", "ddpm"))


def get_config(variant: str = ""):
    variant = variant or "pushing_beso"
    if variant in ("smoke_beso", "smoke_ddpm"):
        config = _config("block_push", variant.removeprefix("smoke_"))
        _of("planar.py")["smoke"](config)
    elif variant in TASKS:
        config = _config(*variant.rsplit("_", 1))
    else:
        raise ValueError(f"configs/published.py has the variants {', '.join(TASKS)}, smoke_beso "
                         f"and smoke_ddpm, not {variant!r}")
    return config


def _of(name: str) -> dict:
    """What another configuration file defines."""
    return runpy.run_path(str(Path(__file__).with_name(name)))


def _config(task: str, family: str):
    """Avoiding's, and what differs from it."""
    config = _of(f"avoiding_{family}.py")["get_config"]("paper")
    config.task.name = task
    config.update(BOTH[task])
    if family == "beso":
        config.update(BESO.get(task, {}))
    elif task != "avoiding":
        config.teacher.num_train_steps = config.teacher.sampler.num_steps = 16
        config.teacher.sampler.clip = CLIPS.get(task, 3.0)
        config.distill.noise.steps = STEPS.get(task, OTHERS)
    return config
