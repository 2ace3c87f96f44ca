"""MJCF of the planar tasks, written from primitives: a table, boxes, and a rod on slides.

The rod hangs vertically from two (or three) slide joints, each with a position servo; a real arm
is not simulated. Everything is in metres, kilograms and seconds.
"""

from typing import NamedTuple

import numpy as np

from vdd_jax.tasks.cameras import CAGE, LIGHT, hand_camera


class Servo(NamedTuple):
    """How one axis of the rod follows its command: a spring and damper on a heavy mass.

    x'' = ω² (command + lead − x) − 2 ζ ω x', where lead = feedforward · (2 ζ / ω) · the rate of
    the command. With feedforward 1 the rod keeps up with a command that moves steadily.
    """

    frequency: float  # ω, rad/s
    damping: float  # ζ
    feedforward: float = 0.0


class Box(NamedTuple):
    """A free body made of axis-aligned cuboids around its origin."""

    name: str
    mass: float
    # Of each cuboid: centre (3) and half sizes (3), and its share of the mass.
    parts: tuple[tuple[tuple[float, ...], tuple[float, ...], float], ...]
    rgba: str
    rest: float  # height of the origin above the table
    friction: float = 1.0  # sliding, against the table
    rod_friction: float = 1.0


class Scene(NamedTuple):
    """Everything that the physics of a task needs to know."""

    boxes: tuple[Box, ...]
    servos: tuple[Servo, ...]  # of x, y and, where the rod can be lifted, z
    rod_radius: float
    rod_below: float  # from the tcp down to the tip of the rod
    control_seconds: float
    substeps: int  # physics steps per control step
    table: float = 0.0  # height of the table's surface
    # The command is clipped to these corners, as `(low, high)`; None where it is not.
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    # Painted on the table, for the eye alone: centre x, y, half sizes x, y, colour.
    marks: tuple[tuple[float, float, float, float, str], ...] = ()


ROD_MASS = 20.0  # so heavy that no box slows the rod down, as with a stiffly driven arm
ROD_LENGTH = 0.3
CAMERA = 0.225  # of the hand's camera above the tcp
AXES = ("1 0 0", "0 1 0", "0 0 1")


def cube(name: str, half: float, mass: float, rgba: str, **options) -> Box:
    """A solid cube; `half` of its side, metres."""
    return Box(name, mass, (((0.0, 0.0, 0.0), (half, half, half), 1.0),), rgba, half, **options)


def numbers(values) -> str:
    return " ".join(f"{v:.9g}" for v in values)


def bodies(boxes: tuple[Box, ...], table: float) -> str:
    """The boxes as MuJoCo XML, at rest on a table of that height: one free joint each."""
    found = []
    for box in boxes:
        parts = "".join(
            f'<geom type="box" pos="{numbers(centre)}" size="{numbers(half)}" '
            f'mass="{box.mass * share:.9g}" rgba="{box.rgba}" contype="1" conaffinity="7" '
            f'friction="{box.friction} 0.005 0.0001"/>'
            for centre, half, share in box.parts)
        found.append(f'<body name="{box.name}" pos="0 0 {table + box.rest:.9g}"><freejoint/>'
                     f"{parts}</body>")
    return "".join(found)


def mjcf(scene: Scene) -> str:
    """The scene as MuJoCo XML: joints of the rod first, then one free joint per box."""
    timestep = scene.control_seconds / scene.substeps
    names = "xyz"[: len(scene.servos)]
    slides, actuators = [], []
    for name, axis, servo in zip(names, AXES, scene.servos, strict=False):
        damping = 2 * servo.damping * servo.frequency * ROD_MASS
        slides.append(f'<joint name="{name}" type="slide" axis="{axis}" damping="{damping:.9g}"/>')
        actuators.append(f'<position joint="{name}" kp="{servo.frequency**2 * ROD_MASS:.9g}"/>')
    low = scene.rod_radius - scene.rod_below
    # The rod's priority lets it choose the friction of its contacts; the table has no say in
    # friction either: a pair takes the larger of two numbers, and the table's is 0.
    rod_friction = scene.boxes[0].rod_friction if scene.boxes else 1.0
    marks = "".join(
        f'<geom type="box" pos="{x} {y} {scene.table:.9g}" size="{a} {b} 0.0005" rgba="{rgba}" '
        'contype="0" conaffinity="0"/>' for x, y, a, b, rgba in scene.marks)
    return f"""<mujoco>
  <option timestep="{timestep:.9g}" integrator="implicitfast" cone="elliptic" impratio="3"
    iterations="20" tolerance="1e-8"/>
  <size memory="1M"/>
  <worldbody>
    {LIGHT}{CAGE.mjcf()}{marks}
    <geom name="table" type="plane" pos="0 0 {scene.table:.9g}" size="2 2 0.1" contype="2"
      conaffinity="0" friction="0 0.005 0.0001"/>
    <body name="rod" pos="0 0 0" gravcomp="1">
      <inertial pos="0 0 0" mass="{ROD_MASS}" diaginertia="1 1 1"/>
      {"".join(slides)}
      {hand_camera(CAMERA)}
      <geom type="capsule" size="{scene.rod_radius:.9g}" contype="4" conaffinity="0" priority="1"
        fromto="0 0 {low:.9g} 0 0 {low + ROD_LENGTH:.9g}" friction="{rod_friction} 0.005 0.0001"/>
    </body>
    {bodies(scene.boxes, scene.table)}
  </worldbody>
  <actuator>{"".join(actuators)}</actuator>
</mujoco>"""


def leads(scene) -> np.ndarray:
    """What is added to a command per metre that it moved in a control step, of each servo."""
    return np.array([2 * s.damping / s.frequency * s.feedforward / scene.control_seconds
                     for s in scene.servos])
