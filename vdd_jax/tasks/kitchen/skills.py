"""What the scripted demonstrator can do in the kitchen: one script per sub-task.

A script is a generator that yields the next action `[9]`. It is closed-loop: where to go follows
from where the handle is now. All scripts of an episode share a `Hand`, its traits.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vdd_jax.tasks.kitchen.arm import ARM, OPEN, Arm, Pose, facing, rotation_vector
from vdd_jax.tasks.kitchen.subtasks import NAMES

CLOSED = 0.0
IDLE = 0.08  # of `Arm.action`, in the fastest moves


class Traits(NamedTuple):
    """The traits of one episode; lengths in metres per control step or metres."""

    travel: float  # greatest step through free space
    work: float  # greatest step in touch with something
    swing: float  # greatest rotation of a joint in a step through free space, radians
    turn: float  # greatest rotation in a step, radians
    slow: float  # share of the remaining way that a step takes at most
    noise: float  # standard deviation of a step per axis
    smooth: float  # how much of the noise of the step before is kept
    jitter: float  # standard deviation of a way point per axis
    pause: float  # chance per way point of a moment's rest


def draw_traits(rng: np.random.Generator) -> Traits:
    """Of a demonstrator's episode."""
    return Traits(
        travel=rng.uniform(0.045, 0.06), work=rng.uniform(0.022, 0.03),
        swing=rng.uniform(0.065, 0.085), turn=rng.uniform(0.12, 0.2),
        slow=rng.uniform(0.35, 0.5), noise=rng.uniform(0.001, 0.003), smooth=0.7,
        jitter=rng.uniform(0.002, 0.005), pause=0.15)


class Hand:
    """An arm moved with the traits of a demonstrator."""

    def __init__(self, arm: Arm, rng: np.random.Generator):
        self.arm, self.rng, self.traits = arm, rng, draw_traits(rng)
        self._noise = np.zeros(6)

    def near(self, *place: float) -> np.ndarray:
        """A way point, a little off."""
        return np.array(place) + self.traits.jitter * self.rng.normal(size=3)

    def _action(self, step: np.ndarray, fingers: float) -> np.ndarray:
        traits = self.traits
        fresh = np.sqrt(1 - traits.smooth**2) * self.rng.normal(size=6)
        self._noise = traits.smooth * self._noise + fresh
        # a hand that is slow trembles less
        share = np.linalg.norm(step[:3]) / traits.travel
        size = traits.noise * min(1.0, 2.5 * share)
        noise = size * self._noise * np.array([1.0, 1.0, 1.0, 4.0, 4.0, 4.0])
        # the elbow finds back in moves through free space, not where places have to be met
        return self.arm.action(step + noise, fingers, IDLE * share)

    def reach(self, place, rotation, fingers: float, near: float = 0.04, patience: int = 40,
              from_rest: bool = False):
        """Through free space, all joints at once, until the last has `near` radians to go.

        In a straight line the arm would carry its bend from one corner of the kitchen to the next,
        until joints end.
        """
        joints = self.arm.joints_for(Pose(np.asarray(place), rotation), from_rest)
        noise = np.zeros(ARM)
        for _ in range(patience):
            if np.abs(joints - self.arm.state[:ARM]).max() < near:
                break
            smooth = self.traits.smooth
            noise = smooth * noise + np.sqrt(1 - smooth**2) * self.rng.normal(size=ARM)
            yield self.arm.joint_action(joints, self.traits.swing, fingers,
                                        self.traits.noise * noise)

    def rest(self, steps: int, fingers: float):
        """Stays where it is."""
        pose = self.arm.pose
        for _ in range(steps):
            yield self._action(self._towards(pose.position, pose.rotation, 0.01), fingers)

    def _towards(self, place, rotation, speed: float) -> np.ndarray:
        position, is_rotation = self.arm.pose
        way = np.asarray(place) - position
        size = np.linalg.norm(way)
        way *= min(1.0, speed / max(size, 1e-9), max(self.traits.slow, 0.008 / max(size, 1e-9)))
        turn = rotation_vector(rotation @ is_rotation.T)
        size = np.linalg.norm(turn)
        turn *= min(1.0, self.traits.turn / max(size, 1e-9))
        return np.concatenate([way, turn])

    def go(self, place, rotation, fingers: float, speed: float | None = None,
           precision: float = 0.015, angle: float = np.inf, patience: int = 25,
           until: Callable | None = None):
        """Straight to a place, until it is reached, `until()` holds or patience ends.

        Args:
          place: `[3]`, or a function that returns it anew at every step.
          rotation: `[3, 3]`, or likewise.
          precision, angle: how near is near enough, metres and radians.
        """
        speed = speed or self.traits.travel
        for _ in range(patience):
            at = place() if callable(place) else place
            towards = rotation() if callable(rotation) else rotation
            if until is not None and until():
                break
            position, is_rotation = self.arm.pose
            turned = np.linalg.norm(rotation_vector(towards @ is_rotation.T))
            if np.linalg.norm(at - position) < precision and turned < angle:
                break
            yield self._action(self._towards(at, towards, speed), fingers)
        if self.rng.random() < self.traits.pause:
            yield from self.rest(int(self.rng.integers(1, 4)), fingers)


def slide_cabinet(hand: Hand):
    """Pushes the door's handle to the right from its left side."""
    arm, rng, work = hand.arm, hand.rng, hand.traits.work
    front, far = facing(yaw=rng.uniform(-0.1, 0.2)), rng.uniform(0.22, 0.34)
    height, side = rng.uniform(-0.08, 0.06), rng.uniform(0.06, 0.08)
    x, y, z = arm.site("slide_site")
    yield from hand.reach(hand.near(x - side, y - 0.12, z + height), front, CLOSED)
    yield from hand.go(hand.near(x - side, y - 0.03, z + height), front, CLOSED)
    yield from hand.go(
        lambda: arm.site("slide_site") + [0.03, -0.03, height], front, CLOSED, work, patience=40,
        until=lambda: arm.state[19] > far)
    x, y, z = arm.pose.position
    yield from hand.go(hand.near(x - 0.02, y - 0.12, z), front, CLOSED, precision=0.04)


def light_switch(hand: Hand):
    """Pushes the lever to the left from its right side."""
    arm, rng, work = hand.arm, hand.rng, hand.traits.work
    front = facing(yaw=rng.uniform(-0.15, 0.1))  # more to the left the wrist ends
    x, y, z = arm.site("light_site")
    side = rng.uniform(0.06, 0.075)
    yield from hand.reach(hand.near(x + side, y - 0.13, z), front, CLOSED)
    yield from hand.go(hand.near(x + side, y - 0.04, z), front, CLOSED)
    yield from hand.go(
        lambda: arm.site("light_site") + [-0.03, -0.045, 0.0], front, CLOSED, work, patience=25,
        until=lambda: arm.state[17] < -0.62)
    x, y, z = arm.pose.position
    yield from hand.go(hand.near(x + 0.02, y - 0.1, z), front, CLOSED, precision=0.04)


def _burner(hand: Hand, site: str, joint: int):
    """Turns a knob by pushing the upper end of its bar to the right, and around."""
    arm, rng = hand.arm, hand.rng
    front = facing(yaw=rng.uniform(-0.15, 0.05), pitch=-0.2)
    x, y, z = arm.site(site)
    side, lever = rng.uniform(0.047, 0.055), rng.uniform(0.036, 0.043)

    def beside(ahead: float):
        # follows the bar's end: straight on, the fingers would leave it before it is turned
        def place():
            s, c = np.sin(-arm.state[joint]), np.cos(arm.state[joint])
            return np.array([x + lever * s + ahead * c, y - 0.024, z + lever * c - ahead * s])
        return place

    yield from hand.reach(hand.near(x - side, y - 0.14, z + lever), front, CLOSED)
    yield from hand.go(beside(-side), front, CLOSED, precision=0.008)
    yield from hand.go(beside(0.1), front, CLOSED, 0.08, patience=30,
                       until=lambda: arm.state[joint] < -0.75)
    x, y, z = arm.pose.position
    yield from hand.go(hand.near(x, y - 0.1, z), front, CLOSED, precision=0.04)


def bottom_burner(hand: Hand):
    """Turns the knob of the bottom left burner."""
    yield from _burner(hand, "knob2_site", 11)


def top_burner(hand: Hand):
    """Turns the knob of the top left burner."""
    yield from _burner(hand, "knob4_site", 15)


def kettle(hand: Hand):
    """Grasps the handle from above, lifts the kettle a little and carries it to the back."""
    arm, rng, traits = hand.arm, hand.rng, hand.traits
    down = facing(pitch=rng.uniform(1.1, 1.4), roll=np.pi / 2)
    x, y, z = arm.site("kettle_site")
    # the elbow as at rest: bent otherwise, joints end while the kettle is lifted
    yield from hand.reach(hand.near(x, y, z + 0.14), down, OPEN, from_rest=True)
    # the open fingers are hardly wider than the handle
    yield from hand.go(lambda: arm.site("kettle_site") + [0.0, 0.0, 0.1], down, OPEN,
                       precision=0.008, angle=0.05, patience=15)
    yield from hand.go(lambda: arm.site("kettle_site") + [0.0, 0.0, 0.02], down, OPEN,
                       traits.work, precision=0.01)
    yield from hand.rest(5, CLOSED)
    far, high = rng.uniform(0.49, 0.56), rng.uniform(0.06, 0.08)
    # off the ground first: a kettle that drags falls over
    yield from hand.go(hand.near(x, y + 0.01, z + 0.02 + high), down, CLOSED, traits.work,
                       patience=12, until=lambda: arm.state[25] > 1.62 + 0.6 * high)
    yield from hand.go(hand.near(-0.25, far + 0.06, z + 0.02 + high), down, CLOSED,
                       patience=25, until=lambda: arm.state[24] > far)
    x, y, _ = arm.pose.position
    yield from hand.go(hand.near(x, y, z + 0.02), down, CLOSED, traits.work, patience=8,
                       until=lambda: arm.state[25] < 1.63)
    yield from hand.rest(4, OPEN)
    x, y, z = arm.pose.position
    yield from hand.go(hand.near(x, y - 0.05, z + 0.12), down, OPEN, precision=0.05)


def _pull(hand: Hand, site: str, joint: int, yaw: float, tangent: float, far: float, deep: float,
          share: float):
    """Grasps an upright handle from the front and pulls its door open along the arc.

    Args:
      yaw: in which the gripper faces the closed door.
      tangent: yaw against which the handle starts to move.
      far: angle of the door at which to stop; its sign is the joint's.
      deep: how far before the handle's middle the gripper grasps, metres.
      share: of the hand's `work`, with which it pulls: faster a grip slips.
    """
    arm, traits = hand.arm, hand.traits

    def rotation():
        return facing(yaw=yaw + 0.6 * arm.state[joint])

    def before(distance: float, angle: float, share: float):
        def place():
            turned = angle + share * arm.state[joint]
            return arm.site(site) - distance * np.array([-np.sin(turned), np.cos(turned), 0.0])
        return place

    def opened() -> bool:
        return arm.state[joint] * np.sign(far) > abs(far)

    def lost() -> bool:
        return np.linalg.norm(arm.site(site) - arm.pose.position) > 0.07

    yield from hand.reach(before(0.14, yaw, 0.6)(), rotation(), OPEN)
    for _ in range(3):  # a grip that slips is taken again
        yield from hand.go(before(0.09, yaw, 0.6), rotation, OPEN, precision=0.012, patience=8)
        yield from hand.go(before(deep, yaw, 0.6), rotation, OPEN, traits.work, precision=0.01)
        yield from hand.rest(4, CLOSED)
        yield from hand.go(before(deep + 0.1, tangent, 1.0), rotation, CLOSED, share * traits.work,
                           precision=0.001, patience=50, until=lambda: opened() or lost())
        yield from hand.rest(3, OPEN)
        if opened():
            break
    yield from hand.go(before(0.13, yaw, 0.6), rotation, OPEN, precision=0.03)


def microwave(hand: Hand):
    """Pulls the door open by its handle."""
    uniform = hand.rng.uniform
    yield from _pull(hand, "microhandle_site", 22, uniform(0.05, 0.25), 0.08, -uniform(0.48, 0.6),
                     0.0, 0.75)
    x, y, z = hand.arm.pose.position  # over the open door, which the arm would close again
    yield from hand.go(hand.near(x + 0.06, y - 0.02, z + 0.27), facing(), CLOSED, precision=0.05)


def hinge_cabinet(hand: Hand):
    """Pulls the right door open by its handle, and leaves below it."""
    uniform = hand.rng.uniform
    yield from _pull(hand, "hinge_site2", 21, uniform(-0.1, 0.1), 0.4, uniform(1.33, 1.43), 0.0,
                     0.85)
    (x, y, z), rotation = hand.arm.pose  # down first: to the left is the door
    yield from hand.go([x + 0.03, y, z - 0.24], rotation, CLOSED, precision=0.05, patience=12)
    x, y, z = hand.arm.site("knob1_site")  # to the right of the open door, and below it
    yield from hand.reach(hand.near(x + 0.02, y - 0.22, z + 0.02), facing(), CLOSED, near=0.15)


SKILLS = dict(zip(NAMES, (bottom_burner, top_burner, light_switch, slide_cabinet, hinge_cabinet,
                          microwave, kettle), strict=True))
