"""How configuration keys must fit together; what one key may be stands in `config_keys.py`."""

from typing import Any

from vdd_jax.config_keys import OFFICIAL, STUDENTS, WITH_IMAGES


def inconsistencies(c: dict[str, Any]) -> list[str]:
    """What is wrong with values `c` by dotted key, each fine by itself; one sentence each."""
    errors = []
    weights, modes = c["task.mode_weights"], c["task.num_modes"]
    if weights and len(weights) != modes:
        errors.append(
            f"config.task.mode_weights has {len(weights)} numbers, but config.task.num_modes is "
            f"{modes}"
        )
    if c["distill.noise.low"] > c["distill.noise.high"]:
        errors.append("config.distill.noise.low is above config.distill.noise.high")
    if c["distill.noise.kind"] == "discrete" and not c["distill.noise.steps"]:
        errors.append("config.distill.noise.kind is 'discrete', but config.distill.noise.steps "
                      "is empty; give the times, e.g. (1, 2, 3, 4)")
    if c["student.independent"] and c["student.trunk_depth"] == 0 and c["task.observation_dim"]:
        errors.append("config.student.independent asks for a trunk in every expert, but "
                      "config.student.trunk_depth is 0")
    learned = c["task.name"] not in ("toy", "toy1d")
    transformer = c["teacher.backbone"] == "transformer"
    if c["task.name"] in WITH_IMAGES:
        if c["task.goal_length"]:
            errors.append(f"{c['task.name']} has no goals: config.task.goal_length stays 0")
        if c["teacher.given"]:
            errors.append("config.teacher.given: a teacher that is given in Python sees no images")
    if c["task.contexts"] and not c["task.name"].startswith(
            ("pushing", "aligning", "sorting", "stacking")):
        errors.append(f"config.task.contexts is given, but {c['task.name']} has no contexts")
    if c["task.simulator"] == "official" and c["task.name"] not in OFFICIAL:
        errors.append(f"config.task.simulator is 'official', which {c['task.name']} has not; of "
                      f"{', '.join(OFFICIAL)} this library drives the official one")
    if learned and not transformer and c["teacher.window"] == "all":
        errors.append("config.teacher.window is 'all', which needs config.teacher.backbone = "
                      "'transformer'")
    if c["task.execute_steps"] > c["task.chunk"]:
        errors.append(f"config.task.execute_steps is {c['task.execute_steps']}, but a chunk "
                      f"(config.task.chunk) has {c['task.chunk']} action(s)")
    if c["teacher.window"] == "all" and c["task.chunk"] > 1:
        errors.append("config.teacher.window is 'all', but config.task.chunk is "
                      f"{c['task.chunk']}; one or the other")
    if c["distill.gating_update"] == "together" and c["distill.gating_steps"] != 1:
        errors.append("config.distill.gating_update is 'together', which is one update in an "
                      f"iteration; config.distill.gating_steps is {c['distill.gating_steps']}")
    if c["distill.window"] != "last" and not (
            c["teacher.window"] == "all" and c["student.trunk"] == "transformer"):
        errors.append(f"config.distill.window is {c['distill.window']!r}, which needs "
                      "config.teacher.window = 'all' and config.student.trunk = 'transformer'")
    for who, width in (("teacher", "teacher.width"), ("student", "student.trunk_width")):
        kind = c["teacher.backbone"] if who == "teacher" else c["student.trunk"]
        if kind == "transformer" and c[width] % c[f"{who}.heads"]:
            errors.append(f"config.{width} is {c[width]}, which {c[f'{who}.heads']} heads "
                          f"(config.{who}.heads) cannot share evenly")
    if not learned and (c["task.window"], c["task.chunk"], c["task.goal_length"]) != (1, 1, 0):
        errors.append(f"{c['task.name']} has no time: config.task.window and config.task.chunk "
                      "stay 1, config.task.goal_length 0")
    if not learned and c["task.hidden"]:
        errors.append(f"config.task.hidden is given, but {c['task.name']} hides nothing; leave it "
                      "empty: ()")
    if c["task.window"] > 32 and "transformer" in (c["teacher.backbone"], c["student.trunk"]):
        errors.append("config.task.window is above 32, the most that a transformer has places for")
    if c["teacher.workdir"] and "train_teacher" in c["stages"]:
        errors.append("config.teacher.workdir names a trained teacher; take 'train_teacher' out of "
                      "config.stages")
    given = c["teacher.given"]
    if given and not learned:
        errors.append(f"the teacher of {c['task.name']} is exact; none can be given "
                      "(config.teacher.given)")
    if given and c["teacher.workdir"]:
        errors.append("config.teacher.workdir names a teacher, and another one is given "
                      "(config.teacher.given); one or the other")
    if given:
        errors += [f"config.stages has {stage!r}, which a teacher that is given in Python has no "
                   "use for" for stage in ("train_teacher", "consistency") if stage in c["stages"]]
        if c["distill.trunk_from_teacher"]:
            errors.append("config.distill.trunk_from_teacher needs a teacher of this library, not "
                          "one that is given in Python")
    if learned and not given and not c["teacher.workdir"] and c["teacher.schedule"] == "ve" and (
            c["distill.noise.kind"] != "discrete"):
        for name in ("low", "high"):
            level = c[f"distill.noise.{name}"]
            if not c["teacher.sigma_min"] <= level <= c["teacher.sigma_max"]:
                errors.append(
                    f"config.distill.noise.{name} is {level:g}; the teacher is trained at noise "
                    f"levels from {c['teacher.sigma_min']:g} to {c['teacher.sigma_max']:g} "
                    "(config.teacher.sigma_min, sigma_max)")
    students = [stage for stage in STUDENTS if stage in c["stages"]]
    if len(students) > 1:
        errors.append(f"config.stages has both {students[0]!r} and {students[1]!r}, two ways to "
                      "one student; give each a workdir of its own")
    if not learned and "consistency" in c["stages"]:
        if transformer:
            errors.append("config.teacher.backbone is 'transformer', which needs a task with "
                          "windows")
        if c["consistency.actions"] == "teacher":
            errors.append("config.consistency.actions is 'teacher', but the demonstrations of "
                          f"{c['task.name']} are samples of its teacher already")
    if "from_scratch" in c["stages"] and c["student.gating"] != "learned":
        errors.append("config.stages has 'from_scratch', which needs config.student.gating = "
                      "'learned'")
    if c["student.trunk"] == "transformer" and c["student.independent"]:
        errors.append("config.student.independent needs an MLP trunk")
    if c["student.trunk"] == "transformer" and not learned:
        errors.append("config.student.trunk is 'transformer', which needs a task with windows")
    if not learned and c["distill.actions"] == "teacher":
        errors.append(f"config.distill.actions is 'teacher', but the demonstrations of "
                      f"{c['task.name']} are samples of its teacher already")
    if c["distill.visits"]:
        errors += [f"config.distill.visits is given, {text}" for wrong, text in (
            (learned and c["distill.actions"] != "teacher",
             "which needs config.distill.actions = 'teacher'"),
            (not learned or c["task.name"] == "recorded",
             f"but {c['task.name']} has no simulator in which a student could drive"),
            (c["task.name"] in WITH_IMAGES, "but of episodes with images none are kept"),
        ) if wrong]
    if not learned and "train_teacher" in c["stages"]:
        errors.append(f"the teacher of {c['task.name']} is exact; take 'train_teacher' out of "
                      "config.stages")
    if c["teacher.sigma_min"] >= c["teacher.sigma_max"]:
        errors.append("config.teacher.sigma_min is not below config.teacher.sigma_max")
    if c["teacher.noise.density"] == "steps" and not c["teacher.schedule"].startswith("ddpm"):
        errors.append("config.teacher.noise.density is 'steps', which needs a 'ddpm_…' schedule")
    if c["teacher.noise_embedding"] == "sinusoidal":
        if not c["teacher.schedule"].startswith("ddpm"):
            errors.append("config.teacher.noise_embedding is 'sinusoidal', which needs a 'ddpm_…' "
                          "schedule")
        if c["teacher.width"] % 2:
            errors.append(f"config.teacher.width is {c['teacher.width']}; with "
                          "config.teacher.noise_embedding = 'sinusoidal' it is an even number")
    if c["task.name"] == "recorded" and not c["task.demonstrations"] and not (
            c["task.observation_dim"] and c["task.action_dim"]):
        errors.append("config.task.name is 'recorded', which needs a file or directory: "
                      "config.task.demonstrations (see docs/data.md)")
    if c["task.name"] != "recorded":
        errors += [f"config.task.{key} is given, but the data of {c['task.name']} have a format of "
                   "their own; config.task.name = 'recorded' reads others"
                   for key in ("observation_keys", "action_keys", "subset") if c[f"task.{key}"]]
    if c["policy.min_weight"] * c["student.num_experts"] >= 1:
        errors.append(f"config.policy.min_weight is {c['policy.min_weight']:g}, but equal weights "
                      f"of {c['student.num_experts']} experts (config.student.num_experts) are not "
                      "above it: none might be left")
    if c["distill.gating_full"] < c["distill.gating_start"]:
        errors.append("config.distill.gating_full is before config.distill.gating_start")
    if c["distill.reallocate_until"] < c["distill.reallocate_from"]:
        errors.append("config.distill.reallocate_until is before config.distill.reallocate_from")
    if c["student.gating"] == "learned" and c["distill.gating_steps"] == 0:
        errors.append("config.student.gating is 'learned', but config.distill.gating_steps is 0")
    return errors
