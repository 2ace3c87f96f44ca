"""The tasks, and the keys by which a method is chosen: what tables and figures are made of."""

# rivals do not drive as a student can in its distillation: all learn at the same states
LEVEL = "--config.distill.visits=()"


def _families(config: str, *keys: str) -> dict[str, tuple[str, ...]]:
    """`config` with a FAMILY in it, for each."""
    return {family: (config.replace("FAMILY", family), *keys) for family in FAMILIES}


def _with_ddpm(config: str) -> str:
    """The variant of a configuration with small networks that has a DDPM teacher."""
    return f"{config}_vp" if ":" in config else f"{config}:vp"


def _variants(task: str, small: str, *keys: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Small networks, the published settings, sizes for tests."""
    return {
        "": {"beso": (small, *keys), "ddpm": (_with_ddpm(small), *keys)},
        "published": _families(f"configs/published.py:{task}_FAMILY"),
        "smoke": _families("configs/published.py:smoke_FAMILY", f"--config.task.name={task}"),
    }


def _images(task: str, small: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """As `_variants`; the sizes for tests are of cameras too."""
    smoke = "configs/images.py:smoke"
    keys = f"--config.task.name={task}", "--config.evaluate.teacher_steps=(1,)"
    return _variants(task, small) | {
        "smoke": {"beso": (smoke, *keys), "ddpm": (_with_ddpm(smoke), *keys)}}


FAMILIES = ("ddpm", "beso")
# task → variant → family of the teacher → configuration, and keys set beside it
TASKS = {
    "avoiding": {
        "": {"beso": ("configs/avoiding.py",), "ddpm": ("configs/avoiding.py:vp",)},
        "recorded": {
            "beso": ("configs/avoiding.py:recorded",),
            # its student wants longer than that of BESO: experiments/results/avoiding.md
            "ddpm": ("configs/avoiding.py:vp", "--config.teacher.state_jitter=0.03",
                     "--config.distill.actions_steps=18", "--config.distill.num_iterations=30000"),
        },
        "published": _families("configs/published.py:avoiding_FAMILY"),
        "smoke": {"beso": ("configs/avoiding.py:smoke",), "ddpm": ("configs/avoiding.py:smoke",)},
    },
    # the paper's score is of goals
    "block_push": _variants("block_push", "configs/planar.py:block_push",
                            "--config.task.goal_length=1"),
    **{task: _variants(task, f"configs/planar.py:{task}", LEVEL)
       for task in ("pushing", "aligning", "sorting_2", "sorting_4", "sorting_6")},
    "stacking": _variants("stacking", "configs/stacking.py"),
    "kitchen": _variants("kitchen", "configs/kitchen.py"),
    "sorting_image": _images("sorting_image", "configs/images.py"),
    "stacking_image": _images("stacking_image", "configs/images.py:stacking"),
}
# task → measure → how `paper.json` calls it, where it is not the success
PRINTED = {
    "block_push": {"goal_reached": "block_push"},
    "stacking": {"success_1": "stacking_1", "success_2": "stacking_2"},
    "stacking_image": {"success_1": "stacking_image"},  # how many boxes, is not told
    "kitchen": {"subtasks_of_goal": "kitchen"},
}


def _stage(name: str, method: str) -> tuple[str, ...]:
    return f"--config.stages=('{name}','evaluate')", f"--config.{name}.method={method}"


VDD = "vdd"  # makes the teacher that the other methods share, and comes before them
METHODS = {  # the keys that a method sets
    VDD: (),
    **{method: _stage("consistency", method) for method in ("cd", "ctm")},
    **{method: _stage("from_scratch", method) for method in ("em", "imc", "bc_gmm")},
}
DISTIL_ANEW = "--config.stages=('distill','evaluate')"  # with the teacher of a vdd run
