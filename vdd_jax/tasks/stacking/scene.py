"""MJCF of stacking, written from primitives: a table, boxes, and a hand on a gantry.

The hand hangs from three slide joints and a hinge about the vertical, each with a position servo; a
real arm is not simulated. Two fingers on slides, driven as one by a force-limited servo, hold a box
by friction alone. Everything is in metres, kilograms and seconds; the origin of the hand (its tcp)
lies between the fingertips.
"""

from typing import NamedTuple

from vdd_jax.tasks.cameras import CAGE, LIGHT, hand_camera
from vdd_jax.tasks.planar.scene import AXES, Box, Servo, bodies, numbers


class Scene(NamedTuple):
    """Everything that the physics needs to know."""

    boxes: tuple[Box, ...]
    servos: tuple[Servo, ...]  # of x, y, z and yaw
    control_seconds: float
    substeps: int  # physics steps per control step
    table: float  # height of the table's surface
    bounds: tuple[tuple[float, ...], tuple[float, ...]]  # low and high of x, y, z, yaw, width
    target: tuple[float, float]  # centre of the target zone, for the eye alone
    target_half: float


MASS = 20.0  # of the hand, so heavy that no box slows it down
INERTIA = 1.0
STROKE = 0.04  # of a finger: the gripper opens twice as far
GRIP = 20.0  # newtons of each finger, as the benchmark's
FINGER = (0.01, 0.004, 0.0275)  # half sizes: width, thickness, length
TIP = 0.01  # from the tcp down to the fingertips
CAMERA = 0.105  # of the hand's camera above the tcp
PALM = (0.03, 0.1, 0.03)  # half sizes; its lower side is where the fingers begin


def mjcf(scene: Scene) -> str:
    """The scene as MuJoCo XML; joints of the hand first: x, y, z, yaw, left and right finger."""
    timestep = scene.control_seconds / scene.substeps
    joints, actuators = [], []
    for name, kind, axis, servo, mass in zip(
            ("x", "y", "z", "yaw"), ("slide",) * 3 + ("hinge",), (*AXES, AXES[2]), scene.servos,
            (MASS,) * 3 + (INERTIA,), strict=True):
        damping = 2 * servo.damping * servo.frequency * mass
        joints.append(f'<joint name="{name}" type="{kind}" axis="{axis}" '
                      f'damping="{damping:.9g}"/>')
        actuators.append(f'<position joint="{name}" kp="{servo.frequency**2 * mass:.9g}"/>')
    width, thickness, length = FINGER
    low = length - TIP  # of the finger's centre above the tcp
    fingers = "".join(
        f'<body name="{name}" pos="0 {side * thickness:.9g} {low:.9g}" gravcomp="1">'
        f'<joint name="{name}" type="slide" axis="0 {side} 0" range="0 {STROKE}" damping="50"/>'
        f'<geom type="box" size="{numbers(FINGER)}" mass="0.1" contype="4" conaffinity="2" '
        'condim="4" priority="1" friction="2 0.05 0.0001" rgba="0.3 0.3 0.3 1"/></body>'
        for name, side in (("left", 1), ("right", -1)))
    x, y = scene.target
    half = scene.target_half
    return f"""<mujoco>
  <option timestep="{timestep:.9g}" integrator="implicitfast" cone="elliptic" impratio="10"
    iterations="30" tolerance="1e-8"/>
  <size memory="1M"/>
  <worldbody>
    {LIGHT}{CAGE.mjcf()}
    <geom name="table" type="plane" pos="0 0 {scene.table:.9g}" size="2 2 0.1" contype="2"
      conaffinity="0" friction="0 0.005 0.0001"/>
    <geom name="target" type="box" pos="{x} {y} {scene.table:.9g}" size="{half} {half} 0.001"
      contype="0" conaffinity="0" rgba="1 0.65 0 1"/>
    <body name="hand" pos="0 0 0" gravcomp="1">
      <inertial pos="0 0 0" mass="{MASS}" diaginertia="{INERTIA} {INERTIA} {INERTIA}"/>
      {"".join(joints)}
      {hand_camera(CAMERA)}
      <geom type="box" pos="0 0 {2 * length - TIP + PALM[2]:.9g}" size="{numbers(PALM)}"
        contype="4" conaffinity="0" rgba="0.9 0.9 0.9 1"/>
      {fingers}
    </body>
    {bodies(scene.boxes, scene.table)}
  </worldbody>
  <tendon><fixed name="width"><joint joint="left" coef="1"/><joint joint="right" coef="1"/>
    </fixed></tendon>
  <equality><joint joint1="left" joint2="right" solref="0.005 1"/></equality>
  <actuator>{"".join(actuators)}
    <position tendon="width" kp="500" forcerange="-{GRIP} {GRIP}"/></actuator>
</mujoco>"""
