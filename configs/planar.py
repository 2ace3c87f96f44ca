"""Planar manipulation in MuJoCo (`pip install 'vdd_jax[sim]'`): demonstrations → teacher → student.

    python -m vdd_jax.main --config=configs/planar.py              pushing
    python -m vdd_jax.main --config=configs/planar.py:pushing      two boxes into two targets
    python -m vdd_jax.main --config=configs/planar.py:block_push   the same at 10 Hz
    python -m vdd_jax.main --config=configs/planar.py:aligning     a hollow box, from inside or out
    python -m vdd_jax.main --config=configs/planar.py:sorting_2    boxes by colour
    python -m vdd_jax.main --config=configs/planar.py:sorting_4    four of them
    python -m vdd_jax.main --config=configs/planar.py:sorting_6    six
    python -m vdd_jax.main --config=configs/planar.py:TASK_vp      any of them with a DDPM teacher
    python -m vdd_jax.main --config=configs/planar.py:smoke        a minute, for tests

Without --config.task.demonstrations=DIR (official recordings) a scripted demonstrator drives, which
is recorded once to the user's cache. The settings are those of Avoiding but for the window and
that every expert acts, however rare, and the number of demonstrations; where four boxes and more
are sorted, networks are wider, learn longer, are not shown how far the rod is behind its command,
but where boxes are as seen from there, and see boxes of a colour in every order. What was measured
stands in experiments/results/planar.md, with a DDPM teacher pushing alone. The published ones:
configs/published.py.
"""

import runpy
from pathlib import Path

from vdd_jax import config as config_lib

TASKS = {"pushing": 4, "block_push": 4, "aligning": 2, "sorting_2": 2, "sorting_4": 6,
         "sorting_6": 20}  # modes
MANY = {"aligning": 3_000, "sorting_4": 10_800, "sorting_6": 10_800}  # demonstrations


def get_config(variant: str = ""):
    asked, variant = variant, variant.removesuffix("_vp")
    if variant not in ("", "smoke", *TASKS):
        raise ValueError(f"configs/planar.py has the variants {', '.join(TASKS)}, these with _vp, "
                         f"and smoke, not {asked!r}")
    config = config_lib.default()
    # with a window of 5 a teacher of pushing predicts better and acts worse
    config.task.window = 1
    config.stages = ("train_teacher", "distill", "evaluate")
    # the features of a box are many: half of Avoiding's frequencies
    config.teacher.update(fourier=2, num_iterations=12_000)
    config.student.update(
        num_experts=16, trunk="residual_mlp", trunk_width=256, trunk_depth=2, head_depth=0,
        gating_width=128, gating_depth=2, activation="silu", std_floor=0.02, fourier=2,
    )
    config.distill.update(
        num_iterations=10_000, trunk_from_teacher=True, warm_start=0.9, warm_batch_size=512,
        learning_rate=1e-3, gating_learning_rate=1e-3,
        actions="teacher", teacher_actions=400_000, actions_steps=18,
        batch_size=128, samples_per_state=1, likelihood_weight=1.0, weight_by_gating=True,
        gating_start=0.0, gating_full=0.0, reallocations=0, clip_norm=1.0,
    )
    config.distill.noise.update(high=2.0, low=0.05, anneal_broad=0.2)
    # rivals of the student: as of Avoiding, not tried here
    config.consistency.update(num_iterations=8_000, batch_size=256, teacher_steps=3,
                              actions="teacher", teacher_actions=400_000, actions_steps=18)
    config.from_scratch.update(num_iterations=15_000, batch_size=512, learning_rate=1e-3,
                               pacing=0.1)
    config.task.name = {"": "pushing", "smoke": "block_push"}.get(variant, variant)
    # of 500 demonstrations a teacher learns much by heart
    total = MANY.get(config.task.name, 2_000)
    config.task.episodes_per_mode = total // TASKS[config.task.name]
    if config.task.name in ("pushing", "aligning"):
        config.distill.visits = (0.4, 0.7)  # a student comes to where no demonstration was
    if config.task.name == "aligning":
        # with one linear layer it lost more of its teacher (measured together with visits)
        config.student.update(head_depth=1, head_width=128)
    if config.task.name.startswith("sorting"):
        config.policy.acting = "sample"  # by means of experts it keeps to fewer orders
    if config.task.name in ("sorting_4", "sorting_6"):
        config.task.hidden = (2, 3)  # the rod: behind its command it shows the way it went
        config.task.exchange = True  # else demonstrations are learned by heart
        config.task.relative = True  # else less is learned, and slower
        config.teacher.width = config.student.trunk_width = 512
        config.teacher.num_iterations = 20_000
    if config.task.name == "sorting_6":
        # after 20,000 demonstrations are not learned yet; where six boxes are, a student has to
        # learn which way to go above all, and comes to where no demonstration was
        config.teacher.num_iterations = 40_000
        config.student.update(gating_width=1024, gating_depth=3, head_depth=1, head_width=128)
        config.distill.update(visits=(0.4, 0.7), visited_episodes=400)
    if asked.endswith("_vp"):
        avoiding = runpy.run_path(str(Path(__file__).with_name("avoiding.py")))
        avoiding["with_ddpm_teacher"](config)
    if variant == "smoke":
        config.task.goal_length = 1
        smoke(config)
    return config


def smoke(config):
    """Sizes that run in a minute, of whatever networks and task; heads of 4, 6 and 12 fit."""
    config.task.update(episodes_per_mode=1, window=2, held_out=0.2)
    config.teacher.update(width=24, depth=1, encoder_depth=1, num_iterations=20, batch_size=16,
                          check_every=10)
    config.student.update(num_experts=2, trunk_width=24, trunk_depth=1, head_width=8,
                          gating_width=8)
    config.distill.update(num_iterations=20, batch_size=8, teacher_actions=1_000)
    config.consistency.update(num_iterations=20, batch_size=8, num_scales=4,
                              teacher_actions=1_000)
    config.from_scratch.update(num_iterations=20, batch_size=8)
    config.evaluate.num_episodes = 4
    config.run.update(steps_per_dispatch=10, log_every=10, checkpoint_every=20)
