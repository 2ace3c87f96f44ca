"""What is said of episodes in the kitchen."""

import numpy as np

from vdd_jax.tasks.kitchen.subtasks import NAMES, ORDERS, name_of, solved
from vdd_jax.tasks.planar import scores


def score(episodes, goals=None) -> dict:
    """Rates of episodes; plain Python values, for JSON.

    Args:
      goals: `[M, G, 30]`, raw; episode i pursued goal i mod M. Its sub-tasks are those that are
        solved in its last state.

    Returns:
      `scores.rates` of "four or more sub-tasks were solved", with `mode_histogram` by name of the
      orders that occur, out of `num_modes`; `entropy`: of the order of the first four, over
      successful episodes, in logarithms to the number of orders, 840 (N episodes reach at most
      log N / log 840); `subtasks`: mean number of solved sub-tasks; `subtask_rates`: share of the
      episodes that solved each. With goals also `subtasks_of_goal`, the mean number of the goal's
      sub-tasks that were solved (the published score), and `goal_reached`, its share of those
      asked for.
    """
    found = scores.rates(episodes, len(ORDERS))
    done = np.asarray(episodes.events) >= 0
    counts = np.array(found["mode_histogram"])
    found |= {
        "mode_histogram": {name_of(i): int(counts[i]) for i in np.flatnonzero(counts)},
        "num_modes": len(ORDERS),
        "entropy": found["entropy_pooled"],
        "subtasks": float(done.sum(1).mean()),
        "subtask_rates": {name: float(rate) for name, rate in zip(NAMES, done.mean(0),
                                                                  strict=True)},
    }
    if goals is not None:
        goals = np.asarray(goals)
        wanted = solved(goals[np.arange(len(done)) % len(goals), -1])
        reached = (done & wanted).sum(1)
        found["subtasks_of_goal"] = float(reached.mean())
        found["goal_reached"] = float(reached.sum() / max(wanted.sum(), 1))
    return found
