"""One episode of a policy in a simulator that steps alone."""

from typing import Any, NamedTuple

import jax
import numpy as np

from vdd_jax.tasks.planar.engine import acting


class Steps(NamedTuple):
    """A finished episode."""

    observations: np.ndarray  # `[L, O]`, before each action
    actions: np.ndarray  # `[L, D]`
    last: Any  # what the simulator said at the last one


def drive(environment, ask, key, number: int, window: int, execute_steps: int) -> Steps:
    """Episode `number`; its noise follows from (key, number).

    Args:
      ask: the policy, of `planar.engine.asking` for one episode.
      environment: `reset() → observation [O]`, `step(action [D]) → observation, done, anything`,
        and `size`, D.
    """
    seen = environment.reset()[None]
    act = acting(ask, jax.random.fold_in(key, number), environment.size, window, execute_steps)
    observations, actions, done, last = [], [], False, None
    while not done:
        action = act(len(actions), seen)[0]
        observations.append(seen[0])
        actions.append(action)
        observation, done, last = environment.step(action.astype(float))
        seen = observation[None]
    return Steps(np.array(observations, np.float32), np.array(actions), last)


def padded(found: list[Steps]) -> dict[str, np.ndarray]:
    """Of N episodes, the longest of L steps: `steps` `[N]`, `observations` `[N, L, O]` (the last
    one repeated), `actions` `[N, L, D]` (then 0), `mask` `[N, L]`."""
    count = np.array([len(steps.actions) for steps in found])
    index = np.arange(count.max())
    mask = index < count[:, None]
    inside = np.minimum(index, count[:, None] - 1)
    observations, actions = (
        np.stack([getattr(steps, name)[i] for steps, i in zip(found, inside, strict=True)])
        for name in ("observations", "actions"))
    return {"steps": count, "observations": observations,
            "actions": np.where(mask[..., None], actions, 0.0), "mask": mask}
