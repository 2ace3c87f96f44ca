"""The tasks, and the keys by which a method is chosen: what tables and figures are made of."""

# task → variant → family of the teacher → configuration, and keys set beside it
TASKS = {
    "avoiding": {
        "": {"beso": ("configs/avoiding.py",), "ddpm": ("configs/avoiding.py:vp",)},
        "recorded": {
            "beso": ("configs/avoiding.py:recorded",),
            "ddpm": ("configs/avoiding.py:vp", "--config.teacher.state_jitter=0.03"),
        },
        "smoke": {"beso": ("configs/avoiding.py:smoke",), "ddpm": ("configs/avoiding.py:smoke",)},
    },
}
FAMILIES = ("ddpm", "beso")


def _stage(name: str, method: str) -> tuple[str, ...]:
    return f"--config.stages=('{name}','evaluate')", f"--config.{name}.method={method}"


VDD = "vdd"  # makes the teacher that the other methods share, and comes before them
METHODS = {  # the keys that a method sets
    VDD: (),
    **{method: _stage("consistency", method) for method in ("cd", "ctm")},
    **{method: _stage("from_scratch", method) for method in ("em", "imc", "bc_gmm")},
}
DISTIL_ANEW = "--config.stages=('distill','evaluate')"  # with the teacher of a vdd run
