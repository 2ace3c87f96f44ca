"""State-action pairs on the device: the scaler, windows of trajectories, and batches as a pure
function of the step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdd_jax.exchange import rotations
from vdd_jax.frames import Frames
from vdd_jax.types import Alike, Batch, Context, Trajectory

ENCODED_AT_ONCE = 256  # images of each camera
READ_AT_ONCE = 16 * ENCODED_AT_ONCE  # of several episodes, which are read side by side
FURTHEST = 10.0  # that a number is from its mean, by the scaler 'bounded'
HIDDEN = 1e20  # std of what is not shown: scaled it is 0 to any network, and still comes back


class Scaler(NamedTuple):
    """x ↦ (x − mean)/std, for actions and observations; std is 1 where the data is constant, and
    `HIDDEN` where networks are not shown a number.

    Of actions affine, so that densities of scaled actions are exact densities of actions. Of a
    scaler that is fitted to a range `mean` is its middle and `std` half its width.
    """

    action_mean: jax.Array  # `[A]`, A = chunk length × action size
    action_std: jax.Array  # `[A]`
    observation_mean: jax.Array  # `[O]`
    observation_std: jax.Array  # `[O]`
    step_std: jax.Array  # `[O]`, of the change from one observation to the next
    # images `[..., C, S, S, 3]` → features `[..., F]`, a `jax.tree_util.Partial`; None: there are
    # no images, or what sees them is still learned
    encode: Callable | None = None
    # `[O]` 0 or 1: 1 where the number is tan of an angle, in whose place 2/π of the angle is scaled
    # (mean 0 and std 1: the Fourier features of an angle have its period); None: nowhere
    tangents: jax.Array | None = None
    # `[O, R]` of 0, 1 and −1: differences of numbers of an observation, which are shown behind
    # them; `observation_mean`, `observation_std` and `step_std` are then `[O + R]`; None: R = 0
    relative: jax.Array | None = None
    # `[A]`, in the task's units, outside of which nobody acts; None: no such range
    action_low: jax.Array | None = None
    action_high: jax.Array | None = None

    def scale_action(self, action):
        return (action - self.action_mean) / self.action_std

    def unscale_action(self, action):
        return action * self.action_std + self.action_mean

    def within_range(self, action):
        """An action `[..., A]` in the task's units, each number brought to the nearer end of its
        range where it is outside. NaN stays NaN."""
        if self.action_low is None:
            return action
        return jnp.clip(action, self.action_low, self.action_high)

    def scale_observation(self, observation):
        return (self.shown(observation) - self.observation_mean) / self.observation_std

    @property
    def observation_dim(self) -> int:
        """O, of an observation in the task's units."""
        return len(self.observation_mean if self.relative is None else self.relative)

    def shown(self, observation):
        """What networks are shown of observations `[..., O]`, not yet scaled: `[..., O + R]`. 2/π
        of an angle where there is the tangent of one, and the differences."""
        shown = observation
        if self.tangents is not None:
            angles = jnp.arctan(observation) * (2 / jnp.pi)
            shown = jnp.where(self.tangents > 0, angles, observation)
        if self.relative is None:
            return shown
        # whatever the precision of networks: of nearly equal numbers little else would be left
        differences = jnp.matmul(observation, self.relative, precision=jax.lax.Precision.HIGHEST)
        return jnp.concatenate([shown, differences], axis=-1)

    def unscale_observation(self, observation):
        """Of what networks see of an observation, `[..., O + R]`, itself: `[..., O]`."""
        observation = observation * self.observation_std + self.observation_mean
        observation = observation[..., : self.observation_dim]
        if self.tangents is None:
            return observation
        return jnp.where(self.tangents > 0, jnp.tan(observation * (jnp.pi / 2)), observation)

    def context(self, observations, valid=None, past_actions=None, goal=None, images=None,
                features=None) -> Context:
        """A window in the task's units → what networks see.

        Args:
          observations: `[..., T, O]`, oldest first; before the beginning of an episode the first
            one repeated.
          valid: `[..., T]`, which of them were made; None: all.
          past_actions: `[..., T - 1, A]` of single actions, if they are known.
          goal: `[..., G, O]`; None: no goal.
          images: `[..., T, C, S, S, 3]` uint8: encoded, if `encode` is there.
          features: `[..., T, F]` of images that were encoded before.
        """
        batch, size = observations.shape[:-2], observations.shape[-2]
        valid = jnp.ones((*batch, size), bool) if valid is None else jnp.asarray(valid, bool)
        shown = self.shown(observations)
        change = jnp.diff(shown, axis=-2, prepend=shown[..., :1, :])
        made = valid & jnp.concatenate([jnp.zeros_like(valid[..., :1]), valid[..., :-1]], -1)
        if past_actions is None:
            past = jnp.zeros((*batch, size - 1, 0))
        else:
            a = past_actions.shape[-1]
            past = (past_actions - self.action_mean[:a]) / self.action_std[:a]
            past = past * valid[..., :-1, None]
        goal = jnp.zeros((*batch, 0, shown.shape[-1])) if goal is None else (
            self.scale_observation(goal))
        seen = Context(
            self.scale_observation(observations), change / self.step_std * made[..., None],
            valid, past, goal, images,
        )
        if images is not None and self.encode is not None:
            features = self.encode(images)
        return seen if features is None else seen.with_features(features)


def fit_scaler(
    observation: jax.Array, action: jax.Array, kind: str = "standard", steps=None
) -> Scaler:
    """The scaler of `[N, O]` and `[N, A]` data; 'none' leaves the data as it is.

    Args:
      kind: see `config.task.scaler`.
      steps: `[M, O]`, changes of the observation from one step to the next, where there are any:
        scaled by their std, but for 'none'.

    Raises:
      ValueError: when the data holds NaN or infinity, naming where.
    """
    for name, values in (("observation", observation), ("action", action)):
        bad = ~jnp.isfinite(values).all(axis=-1)
        if bool(bad.any()):
            raise ValueError(
                f"{int(bad.sum())} of {len(values)} {name}s hold NaN or infinity "
                f"(the first is number {int(jnp.argmax(bad))})"
            )
    if kind == "none":
        a, o = action.shape[-1], observation.shape[-1]
        return Scaler(jnp.zeros(a), jnp.ones(a), jnp.zeros(o), jnp.ones(o), jnp.ones(o))
    fit = {"standard": _standard, "bounded": _bounded, "min_max": _range,
           "quantile": _quantiles}[kind]
    observation_mean, observation_std = fit(observation)
    of_steps = _bounded if kind == "bounded" else _standard
    step_std = of_steps(observation if steps is None else steps)[1]
    return Scaler(*fit(action), observation_mean, observation_std, step_std)


def _standard(values):
    """Mean and std of each column."""
    return values.mean(0), _where_it_varies(values, values.std(axis=0))


def _bounded(values):
    """The same, but that no number is further than `FURTHEST` from the mean: of a column that
    hardly ever changes, and then by far more than its std, that distance is what counts."""
    mean, std = _standard(values)
    furthest = jnp.abs(values - mean).max(axis=0)
    return mean, jnp.maximum(std, _where_it_varies(values, furthest / FURTHEST))


def _range(values):
    """Middle and half width of each column's range."""
    low, high = values.min(axis=0), values.max(axis=0)
    return (high + low) / 2, _where_it_varies(values, (high - low) / 2)


def _quantiles(values):
    """Middle and half width between the 1st and the 99th percentile of each column; of one that
    hardly ever changes, where the two are the same, of its range."""
    low, high = jnp.quantile(values, jnp.array([0.01, 0.99]), axis=0)
    middle, half = _range(values)
    width = values.max(axis=0) - values.min(axis=0)
    spread = (width > 0) & (high - low > 1e-4 * width)  # and not of rounding errors
    return (jnp.where(spread, (high + low) / 2, middle),
            jnp.where(spread, (high - low) / 2, half))


def _where_it_varies(values, width):
    """`width`, 1 where a column is constant: its std is then of rounding errors, not of 0."""
    varies = values.max(axis=0) > values.min(axis=0)
    return jnp.where(varies & (width > 1e-8), width, 1.0)


def fit_trajectory_scaler(
    trajectories: list[Trajectory], kind: str = "standard", chunk: int = 1,
    tangents: tuple[int, ...] = (), hidden: tuple[int, ...] = (), alike: Alike = (),
    clip_actions: bool = False, relative: tuple[tuple[int, int], ...] = (),
) -> Scaler:
    """The scaler of trajectories: one mean and std per number, over all steps of all episodes.

    Args:
      tangents: columns of the observations that are tan of an angle, to be shown as the angle.
        Near ±90° they are so large that their std tells nothing of the rest.
      hidden: columns that networks are not shown.
      alike: things that exchange their numbers, of those that are shown: each is scaled as the
        others alike (see `exchange.orders`).
      clip_actions: whether policies act within the range of these actions.
      relative: (i, j) of the R differences, of number i less number j; hidden where either is.

    Raises:
      ValueError: when the data holds NaN or infinity, naming where, or has no such columns.
    """
    size = trajectories[0].observations.shape[-1]
    if beyond := [i for i in hidden if i >= size]:
        raise ValueError(f"config.task.hidden names {beyond[0]}, but an observation has the "
                         f"numbers 0 to {size - 1}")
    own = {"relative": difference_matrix(relative, size)} if relative else {}
    if tangents:
        own["tangents"] = jnp.zeros(size).at[jnp.asarray(tangents)].set(1.0)
    shown, actions = (np.concatenate([t[i] for t in trajectories]) for i in (0, 1))
    shown = np.asarray(Scaler(*[jnp.zeros(0)] * 5, **own).shown(shown))
    of_one_episode = np.ones(len(shown) - 1, bool)
    of_one_episode[np.cumsum([len(t.actions) for t in trajectories])[:-1] - 1] = False
    steps = np.diff(shown, axis=0)[of_one_episode]
    turns = rotations(alike, size + len(relative))
    shown, steps = (np.concatenate([values[:, turn] for turn in turns])
                    for values in (shown, steps))
    scaler = fit_scaler(jnp.asarray(shown), jnp.asarray(actions), kind,
                        jnp.asarray(steps) if len(steps) else None)._replace(**own)
    if tangents:
        columns = jnp.asarray(tangents)
        scaler = scaler._replace(
            observation_mean=scaler.observation_mean.at[columns].set(0.0),
            observation_std=scaler.observation_std.at[columns].set(1.0))
    if hidden:
        gone = [*hidden, *(size + r for r, pair in enumerate(relative) if {*pair} & {*hidden})]
        columns = jnp.asarray(gone)
        scaler = scaler._replace(
            observation_std=scaler.observation_std.at[columns].set(HIDDEN),
            step_std=scaler.step_std.at[columns].set(HIDDEN))
    if clip_actions:
        scaler = scaler._replace(action_low=actions.min(axis=0), action_high=actions.max(axis=0))
    return scaler._replace(**{
        name: jnp.tile(values, chunk) for name, values in scaler._asdict().items()
        if name.startswith("action_") and values is not None})


def difference_matrix(relative: tuple[tuple[int, int], ...], size: int) -> jax.Array:
    """`Scaler.relative` of `TaskSpec.relative`: `[O, R]`, O = `size`."""
    matrix = np.zeros((size, len(relative)), np.float32)
    for column, (one, other) in enumerate(relative):
        matrix[one, column], matrix[other, column] = 1, -1
    return jnp.asarray(matrix)


def encoded(frames: np.ndarray | Frames, encode, rows: np.ndarray | None = None) -> jax.Array:
    """Features `[N, F]` of images `[N, C, S, S, 3]`, so many at a time as fit in memory; or of
    `rows` of them alone, `[M]` integers."""
    rows = np.arange(len(frames)) if rows is None else rows
    features = []
    for i in range(0, len(rows), READ_AT_ONCE):
        images = frames[rows[i : i + READ_AT_ONCE]]
        features += [_encode(encode, images[j : j + ENCODED_AT_ONCE])
                     for j in range(0, len(images), ENCODED_AT_ONCE)]
    return jnp.concatenate(features)


@jax.jit
def _encode(encode, images):
    return encode(images)


def windows(
    trajectories: list[Trajectory], scaler: Scaler, window: int, chunk: int = 1,
    goal_length: int = 0, goal: str = "end", encoder: Callable = encoded,
    pursued: np.ndarray | None = None,
) -> Batch:
    """Every step of every trajectory with the window that ends there, scaled.

    The first steps have their first observation repeated and are marked so; a chunk that would
    run past the end repeats the last action. The goal is `goal_length` successive observations of
    the episode.

    Args:
      window: T. chunk: H. goal_length: G.
      goal: 'end', the last ones; 'future', for each step some that begin after it, drawn once
        (the last ones where there is no room).
      encoder: `encoded`, or what gives the same with others.
      pursued: `[E, G, O]`, raw, the goals of trajectories that did not need to reach them; then
        those are the goals of their steps.

    Returns:
      A Batch of N = all steps: its observation a `Context`, its action `[N, H · A]`. Images that
      the scaler cannot encode are those of the newest observations alone, `Frames`
      `[N, C, S, S, 3]`; `take` finds those before them.

    Raises:
      ValueError: when a trajectory is shorter than the goal, or holds NaN or infinity.
    """
    rows, rng = [], np.random.default_rng(0)
    for number, (observations, actions) in enumerate(trajectories):
        length = len(actions)
        if not (np.isfinite(observations).all() and np.isfinite(actions).all()):
            raise ValueError(f"trajectory {number} holds NaN or infinity")
        if pursued is None and length < goal_length:
            raise ValueError(f"trajectory {number} has {length} steps; a goal of "
                             f"{goal_length} observations does not fit in it")
        index = np.arange(length)[:, None] + np.arange(1 - window, 1)
        inside = np.clip(index, 0, None)
        ahead = np.clip(np.arange(length)[:, None] + np.arange(chunk), None, length - 1)
        if pursued is not None:
            goals = np.broadcast_to(pursued[number], (length, *pursued[number].shape))
        else:
            begin = np.full(length, length - goal_length)
            if goal == "future":  # after the step, the last possible one excepted, as published
                room = np.maximum(begin - np.arange(1, length + 1), 0)
                drawn = np.arange(1, length + 1) + rng.integers(np.maximum(room, 1))
                begin = np.where(room > 0, drawn, begin)
            goals = observations[begin[:, None] + np.arange(goal_length)]
        rows.append((
            observations[inside], index >= 0, actions[inside[:, :-1]], goals,
            actions[ahead].reshape(length, -1),
        ))
    observations, valid, past, goal, action = (
        jnp.asarray(np.concatenate(column)) for column in zip(*rows, strict=True)
    )
    seen = scaler.context(observations, valid, past, goal)
    if trajectories[0].images is not None:
        frames = Frames([t.images for t in trajectories])
        if scaler.encode is None:
            seen = seen._replace(images=frames)
        else:
            every = jnp.arange(len(frames))
            features = encoder(frames, scaler.encode)
            seen = seen.with_features(features[window_rows(seen.valid, every)])
    return Batch(seen, scaler.scale_action(action))


def window_rows(valid: jax.Array, rows: jax.Array) -> jax.Array:
    """Of a data set, whose rows follow one another as they were made: the rows that hold the
    observations of the windows that end at `rows` `[B]`, with `valid` `[B, T]`: `[B, T]`."""
    ago = jnp.arange(valid.shape[-1])[::-1]
    made = jnp.sum(valid, axis=-1, keepdims=True) - 1
    return rows[:, None] - jnp.minimum(ago, made)


def take(data: Batch, rows: jax.Array) -> Batch:
    """Rows `[B]` of a data set, with the images of their whole windows."""
    frames = getattr(data.observation, "images", None)
    if frames is None:
        return jax.tree.map(lambda values: values[rows], data)
    found = take(data._replace(observation=data.observation._replace(images=None)), rows)
    windows = frames[window_rows(found.observation.valid, rows)]
    return found._replace(observation=found.observation._replace(images=windows))


def batch_at(
    data: Batch, key: jax.Array, step: jax.Array, batch_size: int, num: int | None = None
) -> Batch:
    """The batch of an iteration: drawn with replacement by (key, step) alone.

    Args:
      data: everything, `[N, …]`, resident on the device.
      key: of the run; `step` is folded in, so no iterator needs to be saved.
      num: of how many rows, from the first; None: all.
    """
    index = jax.random.randint(
        jax.random.fold_in(key, step), (batch_size,), 0, num or data.action.shape[0]
    )
    return take(data, index)


def jitter(context: Context, std: float, key: jax.Array) -> Context:
    """Every window moved by N(0, std²) in each observed number, scaled; one shift for a whole
    window: the past moves along, and the steps between observations stay what they were."""
    seen = context.observations
    shift = std * jax.random.normal(key, (*seen.shape[:-2], 1, seen.shape[-1]))
    return context._replace(observations=seen + shift)


def first(tree, n: int):
    """The first `n` rows of every array of a tree (a Batch, a Context, …)."""
    return jax.tree.map(lambda values: values[:n], tree)
