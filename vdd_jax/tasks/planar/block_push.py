"""Block push: two blocks are pushed into two targets, in any order and assignment.

The task of the implicit behaviour cloning and BeT papers: 10 Hz, two cubes of 4 cm, targets at
the far side. The observation `[10]`: x, y, yaw (radians in [0, π)) of block 0 and of block 1, the
effector's x, y, and its commanded x, y; the action `[2]`: the change of the commanded position,
metres. A block is in a target within 5 cm. Four modes: which block is first × into which target.

The original observation has 16 numbers, the last six being the poses of the two targets; here, as
in VDD, they are left out: the targets are always at (0.4 ± 0.12, 0.2), give or take 7.5 mm. Target
0 is the one at smaller x (the original draws which of the two gets which number; an observation
without targets cannot tell).

Two scores. Without a goal, `success` means that both blocks lie in different targets. With goals
`[M, G, 10]` (episode i pursues goal i mod M: last observations of a demonstration, of which only
the blocks matter) `goal_reached` is the number of blocks that entered the target in which the goal
shows them, / 2: the score of the goal-conditioned literature.

Not as in the original: MuJoCo instead of PyBullet, a thin rod on stiff servos instead of an xArm.
"""

from pathlib import Path

import numpy as np

from vdd_jax.formats import npy
from vdd_jax.tasks.planar import engine, recording, scores, skills
from vdd_jax.tasks.planar.engine import COMPILED, Episodes, Rules
from vdd_jax.tasks.planar.physics import Starts, World
from vdd_jax.tasks.planar.scene import Scene, Servo, cube
from vdd_jax.types import TaskSpec, Trajectory

__all__ = ["COMPILED", "DEMONSTRATOR", "RULES", "SIMULATOR", "SPEC", "Episodes", "load",
           "past_actions", "read", "rollout", "score", "spec"]

NUM_MODES = 4
EPISODE_LIMIT = 350
TOLERANCE = 0.05  # of a block's centre from its target's, metres
ACTION_LIMIT = 0.035  # of the longest step that the original demonstrator takes
START = (0.3, -0.4)  # of the effector
HALF = 0.02  # of a block's side
ROD = 0.005
BLOCK_AREA = ((0.3, -0.35), (0.5, -0.05))  # where blocks start
MIN_BLOCK_DISTANCE = 0.1  # along x
TARGETS = ((0.28, 0.2), (0.52, 0.2))
TARGET_NOISE = (0.005, 0.0075)  # half widths
SPEC = TaskSpec("block_push", observation_dim=10, action_dim=2, num_modes=NUM_MODES,
                episode_limit=EPISODE_LIMIT, control_hz=10.0,
                relative=((0, 8), (1, 9), (3, 8), (4, 9)))
SIMULATOR = "re-created block push of vdd_jax (MuJoCo, rod on servos)"
SCENE = Scene(
    boxes=(cube("block", HALF, 0.01, "1 0 0 1", friction=0.5, rod_friction=0.5),
           cube("block2", HALF, 0.01, "0 1 0 1", friction=0.5, rod_friction=0.5)),
    servos=(Servo(60.0, 1.0), Servo(60.0, 1.0)),
    rod_radius=ROD, rod_below=0.0, control_seconds=0.1, substeps=20,
    bounds=((0.15, -0.5), (0.7, 0.5)),
)


def spec(task) -> TaskSpec:
    """The sizes; `task` is `config.task`."""
    return SPEC


def past_actions(observations):
    """What was done between the observations of a window `[..., T, 10]`: `[..., T - 1, 2]`."""
    return observations[..., 1:, 8:10] - observations[..., :-1, 8:10]


def starts(rng: np.random.Generator, num_episodes: int) -> Starts:
    """N starts as in the original: blocks and targets anew in each episode, the rod never."""
    n = num_episodes
    low, high = np.array(BLOCK_AREA)
    blocks = rng.uniform(low, high, (n, 2, 2))
    close = np.abs(blocks[:, 0, 0] - blocks[:, 1, 0]) <= MIN_BLOCK_DISTANCE
    while close.any():
        blocks[close] = rng.uniform(low, high, (int(close.sum()), 2, 2))
        close = np.abs(blocks[:, 0, 0] - blocks[:, 1, 0]) <= MIN_BLOCK_DISTANCE
    yaw = rng.uniform(0, np.pi, (n, 2, 1))
    noise = np.array(TARGET_NOISE)
    targets = np.array(TARGETS) + rng.uniform(-noise, noise, (n, 2, 2))
    turned = np.pi + rng.uniform(-np.pi / 30, np.pi / 30, (n, 2, 1))
    return Starts(np.tile(np.array(START), (n, 1)), np.concatenate([blocks, yaw], -1),
                  np.concatenate([targets, turned], -1), np.arange(n))


def observe(world: World) -> np.ndarray:
    """`[N, 10]`, see the head of the file."""
    blocks = np.concatenate([world.positions[..., :2], world.yaw[..., None] % np.pi], -1)
    return np.concatenate([blocks.reshape(len(blocks), 6), world.tcp, world.desired], -1)


def inside(world: World) -> np.ndarray:
    """Which block is in which target, `[N, 2, 2]`."""
    apart = world.positions[:, :, None, :2] - world.targets[:, None, :, :2]
    return np.linalg.norm(apart, axis=-1) < TOLERANCE


def solved(world: World, inside: np.ndarray) -> np.ndarray:
    """Whether both blocks are in different targets, `[N]`."""
    return (inside[:, 0, 0] & inside[:, 1, 1]) | (inside[:, 0, 1] & inside[:, 1, 0])


def mode(world: World, events: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """2 · first block + its target, `[N]`."""
    return scores.pair_mode(events, inside)


RULES = Rules(SCENE, EPISODE_LIMIT, observe, inside, solved, mode, sees_before_physics=False)


def rollout(actor, key, num_episodes: int, *, window: int = 1, execute_steps: int = 1,
            episode_limit: int = EPISODE_LIMIT, threads: int | None = None) -> Episodes:
    """Runs a policy in closed loop; see `engine.rollout`. The starts follow from `key` alone."""
    start_key, policy_key = engine.split(key)
    begin = starts(engine.generator_of(start_key), num_episodes)
    return engine.rollout(RULES, actor, policy_key, begin, window, execute_steps, episode_limit,
                          threads)


def goal_targets(goals: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """In which target each block of a goal lies.

    Args:
      goals: `[N, 10]` observations; only the blocks' positions count.
      targets: `[N, 2, 3]` of the same episodes.

    Returns:
      `[N, 2]` int, the nearest target of each block.
    """
    blocks = np.stack([goals[:, 0:2], goals[:, 3:5]], 1)
    apart = np.linalg.norm(blocks[:, :, None] - targets[:, None, :, :2], axis=-1)
    return apart.argmin(-1)


def score(episodes: Episodes, goals=None) -> dict:
    """`scores.rates`, and `entropy` (over all successful episodes, log base 4).

    With `goals` `[M, G, 10]`, raw, also `goal_reached`: the mean over episodes of the number of
    blocks that entered the target in which the goal's last observation shows them, / 2.
    """
    found = scores.rates(episodes, NUM_MODES)
    found["entropy"] = found["entropy_pooled"]
    if goals is not None:
        goals = np.asarray(goals)
        of_episode = goals[np.arange(len(episodes.steps)) % len(goals), -1]
        wanted = goal_targets(of_episode, episodes.targets)
        entered = np.take_along_axis(episodes.events, wanted[..., None], 2)[..., 0] >= 0
        found["goal_reached"] = float(entered.mean())
    return found


def script(mode: int, view: skills.View, targets: np.ndarray, rng: np.random.Generator):
    """A demonstration of the mode: see `skills`."""
    uniform = rng.uniform
    hand = skills.Hand(
        travel=uniform(0.027, 0.031), push=uniform(0.0145, 0.0175), gap=uniform(0.01, 0.025),
        steer=uniform(0.35, 0.55), noise=uniform(0.0005, 0.0012), smooth=0.5, pause=0.3,
        limit=ACTION_LIMIT)
    steps = skills.Steps(hand, rng)
    first, target = divmod(mode, 2)
    home = view.desired
    for block, into in ((first, target), (1 - first, 1 - target)):
        aim = tuple(targets[into, :2] + rng.normal(scale=0.006, size=2))
        view = yield from skills.push(steps, view, SHAPE, block, aim, uniform(0.02, 0.035),
                                      avoid=True)
        if block == first:
            # Back to where it all began, roughly, as the original demonstrator does.
            back = (home[0] + uniform(-0.06, 0.14), home[1] + uniform(-0.02, 0.04))
            view = yield from skills.travel(
                steps, view, SHAPE, lambda v, back=back: back, precision=0.03)


def read(directory) -> list[Trajectory]:
    """Official recordings, a directory with `multimodal_push_{observations,actions,masks}.npy`.

    Returns:
      For each episode the first 10 numbers of its observations and its actions, float32.

    Raises:
      FileNotFoundError: one of the files is missing.
      ValueError: a file is damaged or does not hold what it should.
    """
    arrays = []
    for name, size in (("observations", 16), ("actions", 2), ("masks", 0)):
        file = Path(directory) / f"multimodal_push_{name}.npy"
        array = npy.array(file, "block-push")
        shape = "[E, T]" if not size else f"[E, T, {size}]"
        if array.dtype.kind not in "fiub" or array.ndim != 2 + bool(size) or (
                size and array.shape[2] != size):
            raise ValueError(f"{file}: {array.dtype} of shape {array.shape}, expected {shape}")
        arrays.append(array)
    observations, actions, masks = arrays
    if not observations.shape[:2] == actions.shape[:2] == masks.shape:
        raise ValueError(f"{directory}: observations, actions and masks are of "
                         f"{[a.shape[:2] for a in arrays]} episodes and steps")
    trajectories = []
    for i, length in enumerate((masks > 0).sum(1)):
        trajectory = Trajectory(observations[i, :length, :10].astype(np.float32),
                                actions[i, :length].astype(np.float32))
        if length < 1 or not all(np.isfinite(values).all() for values in trajectory):
            raise ValueError(f"{directory}: episode {i} is empty or holds NaN or infinity")
        trajectories.append(trajectory)
    return trajectories


def load(task) -> tuple[list[Trajectory], dict]:
    """Demonstrations, and what they are; see `recording.load`."""
    return recording.load(DEMONSTRATOR, task, SPEC, SIMULATOR, read)


LENGTHS = (85, 201)  # of the original demonstrations, shortest and longest
SHAPE = skills.Shape(HALF, ROD)
DEMONSTRATOR = recording.Demonstrator(
    "block_push", 1, RULES, NUM_MODES, starts, script, lengths=LENGTHS)
