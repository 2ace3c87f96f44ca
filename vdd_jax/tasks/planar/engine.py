"""Closed loop of the planar tasks: all episodes together, one batched network call per step.

This is a Python loop around MuJoCo: it cannot be put under `jax.jit` (`COMPILED` is False); the
policy inside is compiled. Given the key, everything is deterministic, whatever the number of
threads, and every policy meets the same starts.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from vdd_jax.data import encoded
from vdd_jax.tasks.planar.physics import Starts, World
from vdd_jax.tasks.planar.scene import Scene
from vdd_jax.tasks.studio import STATES, Studio, processes

COMPILED = False


class Rules(NamedTuple):
    """A task: K boxes, J targets, observations of O numbers, commands of D."""

    scene: Scene
    limit: int  # control steps
    observe: Callable[[World], np.ndarray]  # `[N, O]`
    inside: Callable[[World], np.ndarray]  # `[N, K, J]` bool, which box is in which target now
    solved: Callable[[World, np.ndarray], np.ndarray]  # of world and `inside`, `[N]` bool
    # Of world, `events` and the last `inside`: `[N]` int, −1 where the behaviour is of no mode.
    mode: Callable[[World, np.ndarray, np.ndarray], np.ndarray]
    # D3IL pairs each new command with the state at the moment when it is given, before the
    # physics it causes; block push shows the state after it.
    sees_before_physics: bool
    world: type[World] = World  # of which robot


class Episodes(NamedTuple):
    """N finished episodes of at most L control steps, NumPy arrays."""

    success: np.ndarray  # `[N]` bool
    timed_out: np.ndarray  # `[N]` bool, exactly one of the two holds
    steps: np.ndarray  # `[N]` int, actions executed
    mode: np.ndarray  # `[N]` int; −1 for none
    context: np.ndarray  # `[N]` int, episodes of the same number began alike
    events: np.ndarray  # `[N, K, J]` int, step after which box k first was in target j; −1 never
    targets: np.ndarray  # `[N, J, 3]` x, y in metres, yaw in radians
    final_boxes: np.ndarray  # `[N, K, 3]` the same, at the end
    observations: np.ndarray  # `[N, L, O]`, before each action; repeats the last one after the end
    actions: np.ndarray  # `[N, L, D]` as executed; 0 after the end
    mask: np.ndarray  # `[N, L]` bool, whether the action was executed
    states: np.ndarray | None = None  # `[N, L, Q]` coordinates that each observation shows


def play(rules: Rules, world: World, starts: Starts, act, limit: int, keep_states: bool = False,
         look=None) -> Episodes:
    """Runs episodes to their ends.

    Args:
      act: `(t, observations [N, O], running [N]) -> actions [N, D]`, called once per step.
      limit: control steps.
      keep_states: whether to return `states`, of which images can be drawn.
      look: `(coordinates [N, Q], running [N]) → [N, F]`, more that `act` is shown, behind the
        observation; None: nothing.
    """
    n, d = world.desired.shape
    seen = rules.observe(world)
    o = seen.shape[1]
    observations = np.zeros((n, limit, o), np.float32)
    actions = np.zeros((n, limit, d), np.float32)
    mask = np.zeros((n, limit), bool)
    places, states = world.places, []
    inside = rules.inside(world)
    events = np.full(inside.shape, -1)
    success = np.zeros(n, bool)
    if look:
        seen = np.concatenate([seen, look(places, ~success)], 1)
    for t in range(limit):
        running = ~success
        if not running.any():
            break
        action = np.where(running[:, None], act(t, seen, running), 0.0).astype(np.float32)
        observations[:, t], actions[:, t], mask[:, t] = seen[:, :o], action, running
        if keep_states:
            states.append(places)
        command = world.command(action, running)
        shown = rules.observe(world) if rules.sees_before_physics else None
        places = world.places
        world.advance(command, running)
        if shown is None:
            shown, places = rules.observe(world), world.places
        if look:
            shown = np.concatenate([shown, look(places, running)], 1)
        seen = np.where(running[:, None], shown, seen)
        inside = np.where(running[:, None, None], rules.inside(world), inside)
        events[(events < 0) & inside] = t + 1
        success |= running & rules.solved(world, inside)
    steps = mask.sum(1)
    for i in np.flatnonzero(steps < limit):
        observations[i, steps[i]:] = seen[i, :o]
    final = np.concatenate([world.positions[..., :2], world.yaw[..., None]], -1)
    return Episodes(success, ~success, steps, rules.mode(world, events, inside),
                    np.asarray(starts.context), events, world.targets, final, observations,
                    actions, mask, np.stack(states, 1) if keep_states else None)


def rollout(rules: Rules, actor, key: jax.Array, starts: Starts, window: int = 1,
            execute_steps: int = 1, limit: int | None = None, threads: int | None = None,
            keep_states: bool = False, encode=None) -> Episodes:
    """Episodes of a policy.

    Args:
      actor: pure function of the last T = `window` raw observations `[N, T, O]`, oldest first,
        which of them exist `[N, T]`, and a key; returns the next action `[N, D]` or a chunk
        `[N, H, D]` of which the first `execute_steps` are executed open loop.
      key: of the policy.
      limit: control steps; None: the task's.
      threads: None: one per core.
      keep_states: see `play`.
      encode: images `[N, C, S, S, 3]` → features `[N, F]`, a `jax.tree_util.Partial`: cameras look
        on, and the actor's observations have O + F numbers.

    Raises:
      ValueError: the policy returns the wrong shape, or fewer actions than `execute_steps`.
    """
    with rules.world(rules.scene, starts, threads) as world, contextlib.ExitStack() as stack:
        n, d = world.desired.shape
        look = None
        if encode:
            most = min(threads or n, 1 + n // STATES)
            look = looking(stack.enter_context(Studio(world.model, processes(most))), encode, n)
        act = acting(asking(actor, n, d, execute_steps), key, d, window, execute_steps)
        return play(rules, world, starts, lambda t, seen, running: act(t, seen),
                    limit or rules.limit, keep_states, look)


def looking(studio: Studio, encode, n: int):
    """The `look` of `play` for n episodes: one drawing of those that run, one encoding of all."""
    frames = None

    def look(places: np.ndarray, running: np.ndarray) -> np.ndarray:
        nonlocal frames
        drawn = studio.draw(places[running])
        if frames is None:
            frames = np.zeros((n, *drawn.shape[1:]), np.uint8)
        frames[running] = drawn
        return np.asarray(encoded(frames, encode))

    return look


def in_contexts(rules: Rules, draw_contexts, begin, episodes_per_context: int):
    """The `rollout` of a task whose episodes come in contexts.

    Args:
      draw_contexts: (generator of random numbers, number) → contexts `[C, …]`.
      begin: (contexts, number of episodes) → starts; episode i has context i mod C.
    """

    def in_context(actor, key: jax.Array, num_episodes: int, *, window: int = 1,
                   execute_steps: int = 1, contexts: np.ndarray | None = None,
                   episode_limit: int | None = None, threads: int | None = None,
                   encode=None) -> Episodes:
        """Runs a policy in closed loop; see `engine.rollout`. `contexts` are those that the task
        reads, or, None, are drawn from `key`."""
        start_key, policy_key = split(key)
        if contexts is None:
            contexts = draw_contexts(generator_of(start_key),
                                     max(1, num_episodes // episodes_per_context))
        return rollout(rules, actor, policy_key, begin(contexts, num_episodes), window,
                       execute_steps, episode_limit, threads, encode=encode)

    return in_context


def asking(actor, n: int, action_dim: int, execute_steps: int = 1):
    """The compiled call of a policy for n episodes: `(history, valid, key, t, past…)` → the
    actions to execute `[N, execute_steps, D]`."""
    return jax.jit(lambda history, valid, key, t, *past: as_chunk(
        actor(history, valid, jax.random.fold_in(key, t), *past), n, action_dim, execute_steps))


def acting(ask, key: jax.Array, action_dim: int, window: int = 1, execute_steps: int = 1,
           with_past_actions: bool = False):
    """A policy for a loop outside JAX: `act(t, seen [N, O]) → actions [N, D]`, called at every
    step t = 0, 1, …; the window, the chunk under way and past actions are kept in it.

    Args:
      ask: of `asking`.
      with_past_actions: the policy takes `[N, T − 1, D]`, what was done before the newest
        observation, as a fourth argument; 0 before the episode.

    The others as of `rollout`.
    """
    history = valid = past = chunk = None

    def act(t: int, seen: np.ndarray) -> np.ndarray:
        nonlocal history, valid, past, chunk
        n, newest = len(seen), seen[:, None].astype(np.float32)
        if not t:
            history = np.repeat(newest, window, 1)
            valid = np.zeros((n, window), bool)
            past = np.zeros((n, window - 1, action_dim), np.float32)
        history = np.concatenate([history[:, 1:], newest], 1)
        valid = np.concatenate([valid[:, 1:], np.ones((n, 1), bool)], 1)
        if t % execute_steps == 0:
            chunk = np.asarray(ask(history, valid, key, t // execute_steps,
                                   *[past] * with_past_actions), np.float32)
        action = chunk[:, t % execute_steps]
        past = np.concatenate([past, action[:, None]], 1)[:, 1:]
        return action

    return act


def as_chunk(actions, n: int, d: int, execute_steps: int):
    """`[N, D]` or `[N, H, D]` → the actions to execute `[N, execute_steps, D]`."""
    chunk = actions[:, None] if actions.ndim == 2 else actions
    if chunk.ndim != 3 or chunk.shape[::2] != (n, d):
        raise ValueError(f"the policy returned actions of shape {actions.shape}; expected "
                         f"[{n}, {d}] or [{n}, H, {d}]")
    if chunk.shape[1] < execute_steps:
        raise ValueError(f"execute_steps is {execute_steps} but the policy returns "
                         f"{chunk.shape[1]} action(s)")
    return chunk[:, :execute_steps]


def split(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys of the starts and of the policy."""
    start_key, policy_key = jax.random.split(key)
    return start_key, policy_key


def generator_of(key: jax.Array) -> np.random.Generator:
    """NumPy's random numbers from a JAX key, for what is drawn outside JAX."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key), np.uint32))
