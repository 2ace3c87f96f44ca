"""One episode of a policy in a simulator that steps alone."""

from typing import Any, NamedTuple

import jax

from vdd_jax.tasks.planar.engine import acting


class Steps(NamedTuple):
    """A finished episode."""

    count: int  # control steps
    last: Any  # what the simulator said at the last one


def drive(environment, ask, key, number: int, window: int, execute_steps: int) -> Steps:
    """Episode `number`; its noise follows from (key, number).

    Args:
      ask: the policy, of `planar.engine.asking` for one episode.
      environment: `reset() → observation [O]`, `step(action [D]) → observation, done, anything`,
        and `size`, D.
    """
    seen = environment.reset()[None]
    act = acting(ask, jax.random.fold_in(key, number), seen, environment.size, window,
                 execute_steps)
    count, done, last = 0, False, None
    while not done:
        observation, done, last = environment.step(act(count, seen)[0].astype(float))
        seen, count = observation[None], count + 1
    return Steps(count, last)
