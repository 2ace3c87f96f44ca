"""The Avoiding task as a batched closed loop in pure JAX: policy, tracking, collision, mode code.

Re-created, not the official MuJoCo environment. The rules are the official ones (250 steps;
success past the finish line without touching a cylinder; actions integrated open loop and not
clipped; an observation pairs the new desired position with the tcp at the moment the command is
given, before the physics it causes). The differences:

- the robot is the identified model, accurate to about a millimetre where people drove it;
- contact is checked along the whole way between two control steps, not only at the steps;
- leaving the corridor of x ends an episode as a failure (a policy can drive round everything);
- the start is disturbed by 1.5 mm unless asked otherwise; the official one is always the same.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdd_jax.tasks.avoiding import dynamics, geometry

Array = jax.Array
# `(history [N, T, 4], valid [N, T] bool, key) -> [N, 2]`, or `[N, H, 2]` for action chunks.
Policy = Callable[[Array, Array, Array], Array]

EPISODE_LIMIT = 250
START_NOISE = 0.0015


class State(NamedTuple):
    """One episode under way."""

    track: dynamics.Track
    ways: Array  # `[3]` int, see `geometry.update_ways`
    steps: Array  # int, control steps taken
    success: Array  # bool, as all below
    collided: Array
    left_corridor: Array


class Episodes(NamedTuple):
    """N finished episodes; exactly one of the first four holds for each."""

    success: Array  # `[N]` bool
    collided: Array  # `[N]` bool
    timed_out: Array  # `[N]` bool
    left_corridor: Array  # `[N]` bool, a failure
    steps: Array  # `[N]` int, actions executed
    mode: Array  # `[N]` int, 0–23; −1 where not all three rows were passed
    observations: Array  # `[N, 250, 4]`, before each action; repeats the last one after the end
    actions: Array  # `[N, 250, 2]` as executed; 0 after the end
    mask: Array  # `[N, 250]` bool, whether the action was executed


def reset(key: Array, start_noise: float = START_NOISE) -> State:
    """The beginning of an episode.

    Args:
      key: of the start noise.
      start_noise: standard deviation of the start per axis, metres.
    """
    return begin(geometry.START + start_noise * jax.random.normal(key, (2,)))


def begin(tcp: Array) -> State:
    """The beginning of an episode with the robot at `tcp`, `[2]` metres."""
    no = jnp.zeros((), bool)
    ways = jnp.full(3, -1, jnp.int32)
    return State(dynamics.start(tcp), ways, jnp.zeros((), jnp.int32), no, no, no)


def finished(state: State) -> Array:
    """Whether the episode ended before its limit."""
    return state.success | state.collided | state.left_corridor


def observe(state: State) -> Array:
    """Desired x, y and tcp x, y, `[4]` metres."""
    return jnp.concatenate([state.track.desired, state.track.tcp])


def follow(track: dynamics.Track, steps: Array, action: Array) -> dynamics.Track:
    """The tracking state at the next observation, `steps` control steps into the episode."""
    # The tcp observed next is where *past* commands led to (see `dynamics.py`). There are none
    # at the first step: the robot has not moved yet.
    moved = dynamics.advance(track, action)
    waiting = track._replace(desired=moved.desired, last_action=moved.last_action)
    return jax.tree.map(lambda a, b: jnp.where(steps > 0, a, b), moved, waiting)


def step(state: State, action: Array) -> State:
    """One control step with the action `[2]` (metres); a finished episode stays as it is."""
    track = follow(state.track, state.steps, action)
    collided = geometry.collides(state.track.tcp, track.tcp)
    success = geometry.reached(track.tcp) & ~collided
    moved = State(
        track,
        geometry.update_ways(state.ways, track.tcp),
        state.steps + 1,
        success,
        collided,
        geometry.outside(track.tcp) & ~collided & ~success,
    )
    return jax.tree.map(lambda old, new: jnp.where(finished(state), old, new), state, moved)


def rollout(
    policy: Policy,
    key: Array,
    num_episodes: int,
    *,
    window: int = 1,
    execute_steps: int = 1,
    start_noise: float = START_NOISE,
    action_limit: float | None = None,
    episode_limit: int = EPISODE_LIMIT,
) -> Episodes:
    """Runs a policy in closed loop; put it under one `jax.jit` (all but `key` static or bound).

    Args:
      policy: pure function of the last T = `window` raw observations `[N, T, 4]`, oldest first,
        which of them exist `[N, T]` (steps before the beginning of the episode do not; there the
        history repeats the first observation), and a key. Returns the next action `[N, 2]`, or a
        chunk `[N, H, 2]` of which the first `execute_steps` are executed open loop.
      key: of start noise and policy.
      num_episodes: N.
      window: T.
      execute_steps: how often the policy is asked, in control steps.
      start_noise: standard deviation of the start per axis, metres.
      action_limit: clips actions per axis, metres; the official environment does not (None).
      episode_limit: control steps.

    Raises:
      ValueError: (when traced) the policy returns the wrong shape, or fewer actions than
        `execute_steps`.
    """
    start_key, policy_key = jax.random.split(key)
    states = jax.vmap(partial(reset, start_noise=start_noise))(
        jax.random.split(start_key, num_episodes)
    )
    first = jax.vmap(observe)(states)
    history = jnp.repeat(first[:, None], window, 1)
    valid = jnp.broadcast_to(jnp.arange(window) == window - 1, (num_episodes, window))

    def one_step(carry, action):
        states, history, valid = carry
        running = ~jax.vmap(finished)(states) & (states.steps < episode_limit)
        action = action.astype(first.dtype)  # whatever precision the policy computes in
        if action_limit is not None:
            action = jnp.clip(action, -action_limit, action_limit)
        action = jnp.where(running[:, None], action, 0.0)
        moved = jax.vmap(step)(states, action)
        moved = jax.tree.map(
            lambda old, new: jnp.where(running.reshape(-1, *[1] * (new.ndim - 1)), new, old),
            states,
            moved,
        )
        record = (history[:, -1], action, running)
        history = jnp.concatenate([history[:, 1:], jax.vmap(observe)(moved)[:, None]], 1)
        valid = jnp.concatenate([valid[:, 1:], jnp.ones((num_episodes, 1), bool)], 1)
        return (moved, history, valid), record

    def ask(carry, t):
        actions = policy(carry[1], carry[2], jax.random.fold_in(policy_key, t))
        return jax.lax.scan(one_step, carry, _as_chunk(actions, num_episodes, execute_steps))

    def idle(carry, t):
        shape = (execute_steps, num_episodes)
        last = jnp.broadcast_to(carry[1][:, -1], (*shape, 4))
        return carry, (last, jnp.zeros((*shape, 2), last.dtype), jnp.zeros(shape, bool))

    def turn(carry, t):
        # Most policies are through after a third of the limit: the network need not run on.
        return jax.lax.cond(jnp.all(jax.vmap(finished)(carry[0])), idle, ask, carry, t)

    turns = -(-episode_limit // execute_steps)
    (states, _, _), record = jax.lax.scan(turn, (states, history, valid), jnp.arange(turns))
    observations, actions, mask = (
        jnp.swapaxes(x.reshape(-1, *x.shape[2:])[:episode_limit], 0, 1) for x in record
    )
    return Episodes(
        states.success,
        states.collided,
        ~jax.vmap(finished)(states),
        states.left_corridor,
        states.steps,
        geometry.mode_of(states.ways),
        observations,
        actions,
        mask,
    )


def _as_chunk(actions: Array, num_episodes: int, execute_steps: int) -> Array:
    """`[N, 2]` or `[N, H, 2]` → the actions to execute `[execute_steps, N, 2]`."""
    chunk = actions[:, None] if actions.ndim == 2 else actions
    if chunk.ndim != 3 or chunk.shape[::2] != (num_episodes, 2):
        raise ValueError(
            f"the policy returned actions of shape {actions.shape}; expected "
            f"[{num_episodes}, 2] or [{num_episodes}, H, 2]"
        )
    if chunk.shape[1] < execute_steps:
        raise ValueError(
            f"execute_steps is {execute_steps} but the policy returns {chunk.shape[1]} action(s)"
        )
    return jnp.swapaxes(chunk[:, :execute_steps], 0, 1)
