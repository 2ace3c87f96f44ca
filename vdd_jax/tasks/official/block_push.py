"""Block push in PyBullet as BeT, play-to-policy and BESO evaluate it (intuitive-robots/beso).

Found if a checkout is on PYTHONPATH, with its old packages (gym, gin, pybullet, scipy). Of the
observation the first ten numbers are shown, the action moves the commanded position. The two
targets are put in order of x, as the task of this library numbers them. The package has no limit
of its own; 350 steps are allowed, as registered there.
"""

import importlib

import jax
import numpy as np

from vdd_jax.tasks.official.episode import drive, padded
from vdd_jax.tasks.planar import scores
from vdd_jax.tasks.planar.block_push import EPISODE_LIMIT, TOLERANCE
from vdd_jax.tasks.planar.engine import Episodes, asking

ABOUT = "official block push (PyBullet)"
_MODULE = "beso.envs.block_pushing.block_pushing_multimodal"


def start(seed: int):
    """The environment, without a window.

    Raises:
      ImportError: it is not installed.
    """
    try:
        kind = importlib.import_module(_MODULE).BlockPushMultimodal
    except ImportError as error:
        raise ImportError(
            f"the official simulator of block_push cannot be imported ({error}): put a checkout "
            "of intuitive-robots/beso on PYTHONPATH and install what its setup.py asks for, see "
            "the head of vdd_jax/tasks/official/block_push.py") from error
    np.random.seed(seed)  # beside its own generator it asks NumPy's, which target lies where
    return kind(seed=seed)


def rollout(task, actor, key, num_episodes: int) -> Episodes:
    """Episodes of a policy; the starts follow from `key`."""
    environment = Stepped(start(int(jax.random.randint(key, (), 0, 2**31 - 1))))
    ask = asking(actor, 1, environment.size, task.execute_steps)
    found, targets = [], []
    for i in range(num_episodes):
        found.append(drive(environment, ask, key, i, task.window, task.execute_steps))
        targets.append(environment.targets)
    success, events, inside, final = (
        np.array(column) for column in zip(*(steps.last for steps in found), strict=True))
    return Episodes(success=success, timed_out=~success, mode=scores.pair_mode(events, inside),
                    context=np.arange(num_episodes), events=events, targets=np.array(targets),
                    final_boxes=final, **padded(found))


class Stepped:
    """The environment as `episode.drive` takes it."""

    size = 2

    def __init__(self, simulator):
        self.simulator = simulator

    def reset(self) -> np.ndarray:
        state = self.simulator.reset()
        poses = np.array([np.append(state[f"{name}_translation"], state[f"{name}_orientation"])
                          for name in ("target", "target2")])
        self.order = np.argsort(poses[:, 0])  # place in order of x → the simulator's number
        self.targets, self.count = poses[self.order], 0
        self.events = np.full((2, 2), -1)
        return numbers(state)

    def step(self, action: np.ndarray):
        """One control step → observation, done, what happened."""
        state, _, done, info = self.simulator.step(action)
        self.count += 1
        for event in info["all_completions"]:
            block, target = divmod(int(event), 2)
            place = int(np.flatnonzero(self.order == target)[0])
            if self.events[block, place] < 0:
                self.events[block, place] = self.count
        blocks = np.array([np.append(state[f"{name}_translation"], state[f"{name}_orientation"])
                           for name in ("block", "block2")])
        apart = np.linalg.norm(blocks[:, None, :2] - self.targets[None, :, :2], axis=-1)
        happened = bool(done), self.events.copy(), apart < TOLERANCE, blocks
        return numbers(state), bool(done) or self.count >= EPISODE_LIMIT, happened


def numbers(state) -> np.ndarray:
    """The first ten numbers of a state, a dict in their order."""
    return np.concatenate([np.ravel(value) for value in state.values()])[:10].astype(float)
