"""What the D3IL tasks pushing, aligning and sorting have in common: robot, recordings, contexts.

All run at 1000 / 35 Hz. A command is a desired position of the tcp, an action its change; an
observation pairs each new command with the state at the moment when it is given, before the
physics that it causes. A box's rotation is given as tan(yaw): it jumps at ±90°.

The rod is not the benchmark's arm under inverse kinematics. Its servos are second-order systems
fitted per axis to the recorded Avoiding demonstrations, free-running (frequency, damping, how far
they foresee a steady motion; root mean square of the remaining error 1.5 cm along x and 0.9 cm
along y; a rod that moves steadily keeps up with its command, one that starts or stops swings).
Table, boxes, friction and gravity follow the benchmark; the rod ends 5 mm above the table.
"""

from pathlib import Path

import numpy as np

from vdd_jax.formats.pickles import read_pickle
from vdd_jax.tasks.planar.physics import World
from vdd_jax.tasks.planar.scene import Scene, Servo
from vdd_jax.types import Trajectory

CONTROL_SECONDS = 0.035
SUBSTEPS = 7  # of 5 ms; the benchmark takes 35 of 1 ms
SERVOS = (Servo(14.6, 0.80, 0.97), Servo(6.5, 0.37, 0.98))
TABLE = -0.019
ROD = 0.01
ROD_TIP = 0.225  # below the tcp, where the rod can be lifted
BOX_HALF = 0.03
BOX_MASS = 0.05


def flat_scene(boxes, marks=()) -> Scene:
    """A scene whose rod stays at its height, with its tip 5 mm above the table."""
    return Scene(tuple(boxes), SERVOS, ROD, -TABLE - 0.005, CONTROL_SECONDS, SUBSTEPS, TABLE,
                 marks=tuple(marks))


def observe_flat(world: World) -> np.ndarray:
    """Desired xy, tcp xy, and xy and tan(yaw) of each box: `[N, 4 + 3 K]`."""
    boxes = np.concatenate([world.positions[..., :2], np.tan(world.yaw)[..., None]], -1)
    return np.concatenate([world.desired, world.tcp, boxes.reshape(len(boxes), -1)], -1)


def relative_flat(num_boxes: int) -> tuple[tuple[int, int], ...]:
    """Of such an observation: each box's xy from the desired one, see `TaskSpec.relative`."""
    return tuple((4 + 3 * k + i, i) for k in range(num_boxes) for i in (0, 1))


def draw_poses(rng: np.random.Generator, num: int, areas) -> np.ndarray:
    """Contexts of K poses, each within its area and turned by up to ±90°, `[C, K, 3]` x, y, yaw.

    `areas` `[K, 2, 2]`: the corners of each, metres.
    """
    low, high = np.moveaxis(np.array(areas), 1, 0)
    return np.concatenate([rng.uniform(low, high, (num, *low.shape)),
                           rng.uniform(-np.pi / 2, np.pi / 2, (num, len(low), 1))], -1)


def past_actions(observations):
    """What was done between the observations of a window of a flat task, `[..., T - 1, 2]`."""
    return observations[..., 1:, :2] - observations[..., :-1, :2]


def yaw_of(quaternions: np.ndarray) -> np.ndarray:
    """`[..., 4]` (w, x, y, z) → `[...]` radians about the vertical."""
    w, x, y, z = np.moveaxis(quaternions, -1, 0)
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def read_contexts(path: str | Path, num_boxes: int = 2) -> np.ndarray:
    """Contexts of the benchmark: a pickle of a list, one entry per context.

    Args:
      path: the pickle, or a directory with `test_contexts.pkl`.
      num_boxes: K; of the first K poses of each context.

    Returns:
      `[C, K, 3]`: x, y in metres, yaw in radians.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, wants to run code, or does not hold contexts.
    """
    contexts = raw_contexts(path)
    return np.stack([_poses(context, num_boxes, f"{path}: context {i}")
                     for i, context in enumerate(contexts)])


def raw_contexts(path: str | Path) -> list:
    """Contexts as the benchmark keeps them; see `read_contexts`."""
    path = Path(path)
    file = path / "test_contexts.pkl" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no contexts at {file}")
    contexts = read_pickle(file)
    if not isinstance(contexts, list) or not contexts:
        raise ValueError(f"{file}: expected a list of contexts, found {type(contexts).__name__}")
    return contexts


def _poses(context, num_boxes: int, where: str) -> np.ndarray:
    """`[position, quaternion, position, quaternion, ...]` or pairs of them → `[K, 3]`."""
    try:
        parts = list(context)
        if parts and isinstance(parts[0], list | tuple):
            parts = [part for pair in parts for part in pair]
        parts = [np.asarray(part, float) for part in parts]
    except (TypeError, ValueError):
        raise ValueError(f"{where} does not hold arrays of numbers") from None
    if len(parts) < 2 * num_boxes:
        raise ValueError(f"{where} has {len(parts) // 2} poses, expected {num_boxes}")
    poses = []
    for position, quaternion in zip(parts[0 : 2 * num_boxes : 2], parts[1 : 2 * num_boxes : 2],
                                    strict=True):
        if position.shape != (3,) or quaternion.shape != (4,):
            raise ValueError(f"{where}: a pose has shapes {position.shape} and "
                             f"{quaternion.shape}, expected (3,) and (4,)")
        if not (np.isfinite(position).all() and np.isfinite(quaternion).all()):
            raise ValueError(f"{where} contains NaN or infinity")
        if not abs(np.linalg.norm(quaternion) - 1) < 1e-3:
            raise ValueError(f"{where}: {quaternion} is not a unit quaternion")
        if np.abs(position[:2]).max() > 2:
            raise ValueError(f"{where}: {position[:2]} is not on the table")
        poses.append([*position[:2], float(yaw_of(quaternion))])
    return np.array(poses)


def records(directory: str | Path) -> list[tuple[Path, dict]]:
    """The pickles of a directory, by name, and what is in them.

    Raises:
      FileNotFoundError: there is no such directory, or no `*.pkl` in it.
      ValueError: a file is damaged or wants to run code.
    """
    files = sorted(Path(directory).glob("*.pkl"))
    if not files:
        raise FileNotFoundError(f"no demonstrations (*.pkl) in the directory {directory}")
    return [(file, read_pickle(file)) for file in files]


def read_demonstrations(directory: str | Path, boxes: tuple[str, ...]) -> list[Trajectory]:
    """Official recordings of a flat task, in the order of their file names.

    Args:
      directory: of pickles, one per demonstration.
      boxes: names of the boxes in the pickles, in the order of the observation.

    Raises:
      FileNotFoundError: there is no such directory, or no `*.pkl` in it.
      ValueError: a file is damaged, wants to run code, or does not hold what it should.
    """
    return [_demonstration(file, record, boxes) for file, record in records(directory)]


def _demonstration(file: Path, record, boxes: tuple[str, ...]) -> Trajectory:
    desired, tcp = (numbers(record, file, "robot", key, 3)[:, :2]
                    for key in ("des_c_pos", "c_pos"))
    columns = [desired, tcp]
    for name in boxes:
        columns.append(numbers(record, file, name, "pos", 3)[:, :2])
        columns.append(np.tan(yaw_of(numbers(record, file, name, "quat", 4)))[:, None])
    return trajectory(columns, desired, file)


def trajectory(columns: list[np.ndarray], desired: np.ndarray, file) -> Trajectory:
    """Columns of an observation `[T, ...]` and commands `[T, D]` → T − 1 steps."""
    lengths = {len(c) for c in columns}
    if len(lengths) > 1 or max(lengths) < 2:
        raise ValueError(f"{file}: its arrays have {sorted(lengths)} frames")
    observations = np.concatenate(columns, 1)[:-1]
    return Trajectory(observations.astype(np.float32),
                      np.diff(desired, axis=0).astype(np.float32))


def numbers(record, file, name: str, key: str, size: int) -> np.ndarray:
    """`record[name][key]`, `[T, size]` float64."""
    try:
        value = record[name][key]
    except (KeyError, TypeError, IndexError):
        raise ValueError(f"{file}: no array '{name}/{key}'") from None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise ValueError(f"{file}: {name}/{key} is not an array of numbers")
    if value.ndim != 2 or value.shape[1] != size:
        raise ValueError(f"{file}: {name}/{key} has shape {value.shape}, expected [T, {size}]")
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        raise ValueError(f"{file}: {name}/{key} contains NaN or infinity")
    return value
