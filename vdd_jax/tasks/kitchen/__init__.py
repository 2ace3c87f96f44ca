"""The relay kitchen: a robot with nine joints, seven sub-tasks, goals of future states.

A policy sees the positions of the robot's joints (9) and of the objects (21) `[30]` and gives nine
joint velocities in [−1, 1] (times 2 rad/s; fingers 2 m/s) at 12.5 Hz, for 280 steps. What it shall
do is said by a goal: states of a demonstration (`config.task.goal_length`; how they are chosen in
training: `config.task.goal`; in episodes the last ones of a demonstration). Scores: how many of
the goal's sub-tasks were solved (the published number), how many of all, and how many different
orders of sub-tasks there were.

The simulator is the FrankaKitchen of gymnasium-robotics (`pip install 'vdd_jax[kitchen]'`), a port
of the original to current MuJoCo. Demonstrations: the recorded ones (`reader.py` says in which
files), or a scripted demonstrator.
"""

from typing import NamedTuple

import numpy as np

from vdd_jax.tasks.kitchen import demonstrator, reader
from vdd_jax.tasks.kitchen.score import score
from vdd_jax.tasks.kitchen.subtasks import LENGTH, NAMES, ORDERS, order_of, solved
from vdd_jax.tasks.kitchen.world import JOINTS, OBSERVATION, World, about
from vdd_jax.tasks.planar.engine import acting, asking, generator_of, split
from vdd_jax.tasks.recording_file import read_of_task
from vdd_jax.types import TaskSpec, Trajectory

__all__ = ["COMPILED", "EPISODE_LIMIT", "SPEC", "Episodes", "load", "rollout", "score",
           "simulated_by", "spec"]

COMPILED = False
EPISODE_LIMIT = 280
SPEC = TaskSpec("kitchen", observation_dim=OBSERVATION, action_dim=JOINTS, num_modes=len(ORDERS),
                episode_limit=EPISODE_LIMIT, control_hz=12.5)
SIMULATOR = "FrankaKitchen of gymnasium-robotics"
simulated_by = about  # the same with its versions


class Episodes(NamedTuple):
    """N finished episodes of at most L control steps, NumPy arrays."""

    success: np.ndarray  # `[N]` bool, four sub-tasks or more were solved
    timed_out: np.ndarray  # `[N]` bool, the other ones
    steps: np.ndarray  # `[N]` int, actions executed
    mode: np.ndarray  # `[N]` int, the order of the first four; −1 for none
    context: np.ndarray  # `[N]` int, all 0: every episode begins alike, but for the noise
    events: np.ndarray  # `[N, 7]` int, the step after which a sub-task was solved first; −1 never
    observations: np.ndarray  # `[N, L, 30]`, before each action; repeats the last after the end
    actions: np.ndarray  # `[N, L, 9]` as given; 0 after the end
    mask: np.ndarray  # `[N, L]` bool, whether the action was executed


def spec(task) -> TaskSpec:
    """The sizes; `task` is `config.task`."""
    return SPEC


def rollout(actor, key, num_episodes: int, *, window: int = 1, execute_steps: int = 1,
            episode_limit: int = EPISODE_LIMIT, threads: int | None = None) -> Episodes:
    """Runs a policy in closed loop: all episodes together, one batched call per control step.

    An episode ends when all seven sub-tasks are solved, or after `episode_limit` steps. The noise
    of the observations follows from `key` alone. Arguments as of `planar.engine.rollout`; the
    actor gets past actions `[N, T − 1, 9]` too, since positions do not tell them (servos lag).
    """
    noise_key, policy_key = split(key)
    n = num_episodes
    seeds = generator_of(noise_key).integers(2**63, size=n)
    observations = np.zeros((n, episode_limit, OBSERVATION), np.float32)
    actions = np.zeros((n, episode_limit, JOINTS), np.float32)
    mask, events = np.zeros((n, episode_limit), bool), np.full((n, len(NAMES)), -1)
    with World(seeds, threads) as world:
        act = acting(asking(actor, n, JOINTS, execute_steps), policy_key, JOINTS, window,
                     execute_steps, with_past_actions=True)
        for t in range(episode_limit):
            running = (events < 0).any(1)
            if not running.any():
                break
            action = np.where(running[:, None], act(t, world.observed), 0.0)
            observations[:, t], actions[:, t], mask[:, t] = world.observed, action, running
            world.step(action.astype(float), running)
            events[(events < 0) & solved(world.states)] = t + 1
        steps = mask.sum(1)
        for i in np.flatnonzero(steps < episode_limit):
            observations[i, steps[i]:] = world.observed[i]
    success = (events >= 0).sum(1) >= LENGTH
    return Episodes(success, ~success, steps, order_of(events), np.zeros(n, int), events,
                    observations, actions, mask)


def load(task) -> tuple[list[Trajectory], dict]:
    """Demonstrations, and what they are.

    Args:
      task: `config.task`: `demonstrations`, a file of `vdd_jax.tasks.record` or what
        `reader.read` reads, or empty for the scripted demonstrator with its `episodes_per_mode`
        (seven times as many episodes).

    Returns:
      The trajectories, and a description for reports: `demonstrations`, `simulator`, `episodes`,
      `discarded`.

    Raises:
      FileNotFoundError, ValueError: see `reader.read`.
    """
    discarded = 0
    if task.demonstrations.endswith(".npz"):
        trajectories, _, discarded = read_of_task(task.demonstrations, SPEC)
        source = f"recording {task.demonstrations}, {len(trajectories)} episodes"
    elif task.demonstrations:
        trajectories = reader.read(task.demonstrations)
        source = f"recordings from {task.demonstrations}, {len(trajectories)} episodes"
    else:
        trajectories, _, discarded = demonstrator.recorded(task.episodes_per_mode)
        source = f"scripted demonstrator of vdd_jax, {len(trajectories)} episodes"
    return trajectories, {"demonstrations": source, "simulator": SIMULATOR,
                          "episodes": len(trajectories), "discarded": discarded}
