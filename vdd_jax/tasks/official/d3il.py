"""D3IL's simulators (ALRhub/d3il), driven by its rules.

They are found if the checkout and its folder `environments/d3il` are on PYTHONPATH. With current
packages (mujoco 3.3.7, pin 4.1, gymnasium 1.4, numpy 2.4) its commit 0046bec runs after four
changes: `gym` → `gymnasium`, `np.NAN` → `np.nan` (Controller.py), no import of mujoco_py, pybullet
and sl (d3il_sim/sims/__init__.py), no `collision="all"` (surroundings/base.xml).

A policy's input is the desired position (the last command) and what the simulator observes; the
command is the desired position moved by the action, at the height of the start, the gripper facing
down. An episode ends when the simulator says so; success and mode are those of its last step.
"""

import contextlib
import importlib
import io
from typing import NamedTuple

import numpy as np

from vdd_jax.data import encoded
from vdd_jax.tasks.official.episode import Steps, drive, padded
from vdd_jax.tasks.planar.d3il import raw_contexts
from vdd_jax.tasks.planar.engine import asking
from vdd_jax.tasks.planar.sorting import orders

ABOUT = "official D3IL simulator"
DOWNWARD = (0.0, 1.0, 0.0, 0.0)  # quaternion of the gripper, held throughout
ENVIRONMENTS = {  # task → module, class, its arguments, numbers of a command that a policy gives
    "avoiding": ("avoiding", "ObstacleAvoidanceEnv", {}, 2),
    "aligning": ("aligning", "Robot_Push_Env", {}, 3),
    "pushing": ("pushing", "Block_Push_Env", {}, 2),
    **{f"sorting_{n}": ("sorting", "Sorting_Env", {"num_boxes": n, "max_steps_per_episode": most},
                        2) for n, most in ((2, 500), (4, 700), (6, 1200))},
    **{name: ("sorting", "Sorting_Env", {
        "num_boxes": n, "max_steps_per_episode": most, "if_vision": True}, 2)
       for name, n, most in (("sorting_image", 4, 700), ("sorting_2_image", 2, 500))},
}
TASKS = tuple(ENVIRONMENTS)
ENVIRONMENTS |= {  # driven by stacking.py
    "stacking": ("stacking", "CubeStacking_Env", {"max_steps_per_episode": 1000}, 5),
    "stacking_image": ("stacking", "CubeStacking_Env", {
        "max_steps_per_episode": 1200, "if_vision": True}, 5),
}
PUSHED = (0, 3, 1, 2)  # the simulator's modes of pushing → 2 · first box + its target
WAYS = (2, 3, 4)  # through each row of avoiding; the simulator's code has one bit for each


class Episodes(NamedTuple):
    """N episodes, as the scores of the tasks take them."""

    success: np.ndarray  # `[N]` bool
    timed_out: np.ndarray  # `[N]` bool
    collided: np.ndarray  # `[N]` bool; avoiding alone
    left_corridor: np.ndarray  # `[N]` bool: never, the official rules know no corridor
    steps: np.ndarray  # `[N]` int
    mode: np.ndarray  # `[N]` int
    context: np.ndarray  # `[N]` int
    observations: np.ndarray  # `[N, L, O]`, before each action; repeats the last one after the end
    actions: np.ndarray  # `[N, L, D]` as executed; 0 after the end
    mask: np.ndarray  # `[N, L]` bool, whether the action was executed


def start(name: str):
    """The environment of a task, started, without a window.

    Raises:
      ImportError: it is not installed.
    """
    module, kind, arguments, _ = ENVIRONMENTS[name]
    where = f"envs.gym_{module}_env.gym_{module}.envs.{module}"
    try:
        environment = getattr(importlib.import_module(where), kind)
    except ImportError as error:
        raise ImportError(
            f"the official simulator of {name} cannot be imported ({error}): put a checkout of "
            "ALRhub/d3il and its folder environments/d3il on PYTHONPATH, see the head of "
            "vdd_jax/tasks/official/d3il.py") from error
    with contextlib.redirect_stdout(io.StringIO()):
        simulator = environment(render=False, **arguments)
        simulator.start()
    return simulator


def looking(encode):
    """`shown(what the simulator observes) → numbers beside the robot's`: those of the boxes, or
    where `encode`, `[1, C, S, S, 3] → [1, F]`, is given the features of its two images, whose
    colours come with blue first."""
    if encode is None:
        return lambda observed: observed

    def shown(observed):
        _, *frames = observed
        return np.asarray(encoded(np.stack(frames)[None, ..., ::-1], encode))[0]

    return shown


def rollout(task, actor, key, num_episodes: int, encode=None) -> Episodes:
    """Episodes of a policy; the contexts of `task.contexts` in turn, drawn where there are none."""
    simulator, shown, found = start(task.name), looking(encode), []
    contexts = raw_contexts(task.contexts) if task.contexts else None
    ask = asking(actor, 1, ENVIRONMENTS[task.name][3], task.execute_steps)
    for i in range(num_episodes):
        begin = {}
        if task.name != "avoiding":  # which always begins alike
            begin = {"random": contexts is None,
                     "context": None if contexts is None else contexts[i % len(contexts)]}
        steps = drive(Stepped(simulator, task.name, begin, shown), ask, key, i, task.window,
                      task.execute_steps)
        found.append((steps, i % len(contexts) if contexts is not None else i))
    return episodes(task.name, found)


class Stepped:
    """An environment as `episode.drive` takes it."""

    def __init__(self, simulator, name: str, begin: dict, shown):
        self.simulator, self.name, self.begin, self.shown = simulator, name, begin, shown
        self.size = ENVIRONMENTS[name][3]

    def reset(self) -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints at every reset
            seen = self.simulator.reset(**self.begin)
        pose = np.asarray(self.simulator.robot_state(), float)
        self.desired, self.height = pose[: self.size], pose[self.size :]
        return np.concatenate([self.desired, self.shown(seen)])

    def step(self, action: np.ndarray):
        """One control step → observation, done, what happened."""
        self.desired = self.desired + action
        avoiding = self.name == "avoiding"
        # contact is looked at once per step, before its physics
        touched = avoiding and bool(self.simulator.check_failure())
        seen, _, done, info = self.simulator.step(
            np.concatenate([self.desired, self.height, DOWNWARD]))
        mode, success = info if avoiding else (info["mode"], info["success"])
        return (np.concatenate([self.desired, self.shown(seen)]), bool(done),
                (mode, bool(success), touched))


def episodes(name: str, found: list[tuple[Steps, int]]) -> Episodes:
    """Lists of (steps, context) → arrays."""
    success = np.array([steps.last[1] for steps, _ in found])
    collided = np.array([steps.last[2] for steps, _ in found]) & ~success
    return Episodes(
        success=success, timed_out=~success & ~collided, collided=collided,
        left_corridor=np.zeros(len(found), bool),
        mode=np.array([mode_of(name, steps.last[0]) for steps, _ in found]),
        context=np.array([context for _, context in found]),
        **padded([steps for steps, _ in found]))


def mode_of(name: str, mode) -> int:
    """The simulator's mode → the number that the task's own simulator gives; −1 for none."""
    if name == "avoiding":
        rows = np.split(np.asarray(mode, bool), np.cumsum(WAYS)[:-1])
        if not all(row.sum() == 1 for row in rows):
            return -1
        return int(np.ravel_multi_index([int(row.argmax()) for row in rows], WAYS))
    if name == "pushing":
        return PUSHED[int(mode)] if mode >= 0 else -1
    if name == "aligning":
        return int(mode)
    n = ENVIRONMENTS[name][2]["num_boxes"]
    colours = tuple(int(bit) for bit in np.unpackbits(np.uint8(mode))[:n])  # the first box first
    return orders(n).index(colours) if colours in orders(n) else -1
