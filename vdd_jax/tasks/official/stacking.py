"""D3IL's stacking (ALRhub/d3il): a whole arm, driven by joint positions.

Found as D3IL's other simulators are (`d3il.py`); it imports OpenCV too (`opencv-python`).

Its input of 20 numbers is the commanded joints (7), the gripper's width, and x, y, z, tan(yaw) of
the red, the green and the blue box; its action of 8 the changes of the joints and the width. A
policy of this library sees and moves the pose of the hand in place of the joints (17 and 5): the
commanded joints become a pose by forward kinematics, a commanded pose becomes joints by inverse
kinematics with the hand pointing down, from the joints commanded last. Poses are kept within the
bounds of the task's own simulator. An episode ends when the simulator says so, one step after
success; success and orders are those of its last step. With images it does not tell where the boxes
are. Tried on stand-ins alone.
"""

import contextlib
import io

import numpy as np

from vdd_jax.tasks.official import d3il
from vdd_jax.tasks.official.episode import drive, padded
from vdd_jax.tasks.planar.d3il import raw_contexts
from vdd_jax.tasks.planar.engine import Episodes, asking
from vdd_jax.tasks.stacking.kinematics import hand_pose, joints_at
from vdd_jax.tasks.stacking.physics import snapped
from vdd_jax.tasks.stacking.rules import NUM_BOXES, SCENE, TARGET, order_mode

ABOUT = d3il.ABOUT
JOINTS, SIZE = 7, 5
LETTERS = "rgb"  # of the boxes, in the simulator's modes


def rollout(task, actor, key, num_episodes: int, encode=None) -> Episodes:
    """Episodes of a policy; the contexts of `task.contexts` in turn, drawn where there are none."""
    simulator, shown, found = d3il.start(task.name), d3il.looking(encode), []
    contexts = raw_contexts(task.contexts) if task.contexts else None
    ask = asking(actor, 1, SIZE, task.execute_steps)
    for i in range(num_episodes):
        context = None if contexts is None else contexts[i % len(contexts)]
        found.append(drive(Stepped(simulator, context, shown), ask, key, i, task.window,
                           task.execute_steps))
    success, events, boxes = (
        np.array(column) for column in zip(*(steps.last for steps in found), strict=True))
    index, num = np.arange(num_episodes), num_episodes if contexts is None else len(contexts)
    return Episodes(success=success, timed_out=~success, mode=order_mode(events, NUM_BOXES),
                    context=index % num, events=events, final_boxes=boxes,
                    targets=np.tile([[*TARGET, 0.0]], (num_episodes, 1, 1)), **padded(found))


def ours(state: np.ndarray) -> np.ndarray:
    """The benchmark's input `[20]` → this library's `[17]`."""
    pose = hand_pose(state[None, :JOINTS])[0]
    return np.concatenate([pose, [snapped(state[JOINTS])], state[JOINTS + 1 :]])


class Stepped:
    """The environment as `episode.drive` takes it."""

    size = SIZE

    def __init__(self, simulator, context, shown):
        self.simulator, self.context, self.shown = simulator, context, shown

    def reset(self) -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):
            seen = self.simulator.reset(random=self.context is None, context=self.context)
        arm = np.asarray(self.simulator.robot_state()[0], float)  # joints and width as measured
        self.joints, self.count = arm[:JOINTS], 0
        self.events = np.full((NUM_BOXES, 1), -1)
        first = ours(np.concatenate([arm, self.shown(seen)]))
        self.desired = first[:SIZE]
        return first

    def step(self, action: np.ndarray):
        """One control step → observation, done, what happened."""
        moved = np.append(self.desired[:4] + action[:4], snapped(action[4]))
        self.desired = np.clip(moved, *SCENE.bounds)
        self.joints = joints_at(self.desired[:4], self.joints)
        seen, _, done, info = self.simulator.step(np.append(self.joints, self.desired[4]))
        self.count += 1
        for letter in info["mode"]:  # those that have come, in their order
            box = LETTERS.index(letter)
            if self.events[box, 0] < 0:
                self.events[box, 0] = self.count
        poses = np.full((NUM_BOXES, 3), np.nan)
        if not isinstance(seen, tuple):
            boxes = np.reshape(np.asarray(seen, float), (NUM_BOXES, 4))
            poses = np.concatenate([boxes[:, :2], np.arctan(boxes[:, 3:])], 1)
        return (np.concatenate([self.desired, self.shown(seen)]), bool(done),
                (bool(info["success"]), self.events.copy(), poses))
