"""Trains a diffusion or flow policy by denoising score matching: `init → step → run`.

The loss is E ‖F − target‖² (see `core/preconditioning.py`), over noise drawn from the density of
`config.teacher.noise`. The teacher is the exponential moving average of the parameters.
"""

import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from vdd_jax import exchange, problem, sharding, training
from vdd_jax.checkpoint import write_json
from vdd_jax.core import noise_density, objectives, preconditioning
from vdd_jax.core.keys import for_dropout
from vdd_jax.data import batch_at, jitter, take
from vdd_jax.models import denoiser
from vdd_jax.teachers import make_schedule
from vdd_jax.types import Batch

HELD_OUT = 4_096  # windows behind the held-out loss, at most
HELD_OUT_IMAGES = 256  # the same, where they have images
NOISES = 4  # noises of each


class State(NamedTuple):
    """Everything that training changes; arrays only."""

    step: jax.Array  # iterations done
    params: dict
    ema: dict  # moving average of params: the teacher
    opt: optax.OptState
    best: dict  # the ema of least held-out loss so far
    best_loss: jax.Array
    since_best: jax.Array  # evaluations without a better one


def optimiser(config: ConfigDict) -> optax.GradientTransformation:
    """AdamW with warm-up, decay and clipping; `config` is `config.teacher`."""
    n, warm = config.num_iterations, config.warmup
    rest = max(n - warm, 1)
    decay = {
        "constant": optax.constant_schedule(config.learning_rate),
        "linear": optax.linear_schedule(config.learning_rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, rest),
    }[config.decay]
    rate = optax.join_schedules(
        [optax.linear_schedule(0.0, config.learning_rate, warm), decay], [warm]
    ) if warm else decay
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    # biases, norms and position embeddings are not decayed
    return optax.chain(*clip, optax.adamw(
        rate, weight_decay=config.weight_decay,
        mask=lambda tree: jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key == "kernel", tree),
    ))


def init(config: ConfigDict, model, key: jax.Array, example: Batch) -> State:
    """A denoiser with fresh parameters; `example` is a batch of one; `config` `config.teacher`."""
    params = denoiser.init(config, model, key, example)
    return State(
        jnp.zeros((), jnp.int32), params, params, optimiser(config).init(params), params,
        jnp.asarray(jnp.inf), jnp.zeros((), jnp.int32),
    )


class Drawn(NamedTuple):
    """A batch and its noise; the batch is the first axis of every array, so that a loss can be
    computed in slices. A denoised action is `[B, A]`, with whole windows `[B, T, A]`."""

    batch: Batch
    t: jax.Array  # `[B]`
    eps: jax.Array  # of the action's shape
    weight: jax.Array  # of an action, 1 on average: steps before the episode do not count


def draw(config: ConfigDict, batch: Batch, time_key, eps_key) -> Drawn:
    """Noise from the density of `config.noise`; `config` is `config.teacher`."""
    noise = config.noise
    t = noise_density.sample_time(noise.density, make_schedule(config), time_key,
                                  batch.action.shape[:1], noise.mean, noise.scale)
    action, weight = batch.action, jnp.ones(batch.action.shape[:1])
    if denoiser.whole_window(config):
        action = denoiser.window_actions(batch)
        valid = batch.observation.valid.astype(action.dtype)
        weight = valid / jnp.mean(valid)
    return Drawn(batch, t, jax.random.normal(eps_key, action.shape), weight)


def make_loss(config: ConfigDict, model):
    """`loss(params, drawn, dropout_key, train) → scalar`; `config` is `config.teacher`."""
    schedule = make_schedule(config)
    kind, sigma_data = config.prediction, config.sigma_data

    def loss(params, drawn: Drawn, key, train: bool):
        batch, t, eps, weight = drawn
        action, at, method = batch.action, t, model.__call__
        if denoiser.whole_window(config):
            action, at, method = denoiser.window_actions(batch), t[:, None], model.all_actions
        x = schedule.alpha(at)[..., None] * action + schedule.sigma(at)[..., None] * eps
        seen, level = preconditioning.network_input(schedule, sigma_data, x, at)
        out = model.apply(
            {"params": params}, seen, level.reshape(t.shape), batch.observation, train=train,
            method=method, rngs={"dropout": for_dropout(key), "crop": key},
        )
        wanted = preconditioning.target(kind, schedule, sigma_data, action, eps, at)
        return objectives.denoising(out, wanted, weight)

    return loss


def make_step(config: ConfigDict, model, draw_batch=batch_at, parts: int = 1):
    """`step(state, data, key) → (state, metrics)`: one iteration, a pure function.

    All randomness comes from `key`, of the run, and `state.step`. `config` is `config.teacher`;
    `draw_batch` is `batch_at`, or that of a mesh (`sharding.resident`); gradients are computed in
    `parts` slices of a batch (`training.value_and_grad`).
    """
    opt = optimiser(config)
    loss = make_loss(config, model)
    gradient = training.value_and_grad(lambda *given: loss(*given, True), parts)

    def step(state: State, data: Batch, key: jax.Array):
        batch_key, noise_key = jax.random.split(key)
        batch = draw_batch(data, batch_key, state.step, config.batch_size)
        key = jax.random.fold_in(noise_key, state.step)
        if config.state_jitter:
            key, jitter_key = jax.random.split(key)
            batch = batch._replace(
                observation=jitter(batch.observation, config.state_jitter, jitter_key))
        *noise_keys, drop_key = jax.random.split(key, 3)
        value, grads = gradient(state.params, draw(config, batch, *noise_keys), drop_key)
        updates, opt_state = opt.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = training.moving_average(config.ema, state.ema, params, state.step)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads)}
        return state._replace(step=state.step + 1, params=params, ema=ema, opt=opt_state), metrics

    return step


def make_check(config: ConfigDict, model, held_out: Batch, key: jax.Array):
    """`check(state) → (state, metrics)`: the held-out loss of the average, and the best so far."""
    loss = make_loss(config, model)
    num, most = len(held_out.action), HELD_OUT
    if getattr(held_out.observation, "images", None) is not None:
        most = HELD_OUT_IMAGES
    held_out = take(held_out, np.arange(0, num, max(num // most, 1)))
    keys = jax.random.split(key, NOISES)  # the same noises each time: losses can be compared

    def check(state: State):
        def one(key):
            *noise_keys, unused = jax.random.split(key, 3)
            return loss(state.ema, draw(config, held_out, *noise_keys), unused, False)

        value = jnp.mean(jax.lax.map(one, keys))
        better = value < state.best_loss
        best = jax.tree.map(lambda b, e: jnp.where(better, e, b), state.best, state.ema)
        state = state._replace(
            best=best, best_loss=jnp.minimum(value, state.best_loss),
            since_best=jnp.where(better, 0, state.since_best + 1),
        )
        return state, {"held_out_loss": value}

    return check


def whole_dispatch(config: ConfigDict, images: tuple[int, ...], platform: str) -> int:
    """Steps in one program: on a CPU, convolutions are learned one step at a time."""
    if images and platform == "cpu":
        return 1
    return training.whole_dispatch(config, config.teacher.check_every)


def run(config: ConfigDict, workdir: Path, stop_at: int | None = None) -> None:
    """Trains to `workdir/teacher`, resuming what is there; returns at once when it is finished.

    `config` is the whole one; for the rest and what is raised see `training.run`.
    """
    settings = config.teacher
    data = problem.data(config)
    model = problem.network(config)
    init_key, step_key, check_key = jax.random.split(
        problem.stage_key(config, "train_teacher"), 3)
    mesh = sharding.make_mesh(config)
    init_key, step_key = sharding.everywhere((init_key, step_key), mesh)
    train, draw_batch = sharding.resident(data.train, mesh, config.run.split_data)
    draw_batch = exchange.drawing(draw_batch, problem.alike(config))
    data = data._replace(train=None)  # not a second time on the first device
    state, shardings = training.born(
        lambda k: init(settings, model, k, problem.example(config, seen=False)),
        lambda shapes: sharding.of_state(shapes, mesh), init_key)
    advance = training.dispatched(
        make_step(settings, model, draw_batch, config.run.accumulate), shardings, True,
        whole_dispatch(config, data.spec.images, mesh.devices.flat[0].platform))
    check = jax.jit(make_check(settings, model, data.held_out, check_key),
                    out_shardings=(shardings, sharding.replicated(mesh)))

    def look(state, done, metrics, log):
        if done % settings.check_every == 0 or done == settings.num_iterations:
            state, found = check(state)
            last = {"loss": metrics["loss"].mean(), "grad_norm": metrics["grad_norm"][-1]}
            log.record(done, {**last, **jax.device_get(found)})
        return state

    state, finished = training.run(
        stage(settings), config, workdir, state,
        lambda state, num: advance(state, train, step_key, num), look,
        scaler=data.scaler, about={"about": data.about}, every=[settings.check_every],
        stop_at=stop_at,
    )
    if finished:
        done = int(state.step)
        write_json(workdir / "teacher" / "finished.json", {
            "step": done, "held_out_loss": _number(state.best_loss),
            "why": "all iterations done" if done == settings.num_iterations else
                   "no better held-out loss"})


def _number(value):
    value = float(value)
    return value if math.isfinite(value) else None


def finished(config: ConfigDict, workdir: Path) -> bool:
    """Whether the stage has nothing left to do."""
    return (workdir / "teacher" / "finished.json").exists()


def stage(settings: ConfigDict) -> training.Stage:
    """This stage for the shared loop; `settings` is `config.teacher`."""

    def split(state):
        params = {"ema": state.ema, "raw": state.params, "best": state.best}
        rest = {"step": state.step, "opt": state.opt, "best_loss": state.best_loss,
                "since_best": state.since_best}
        return params, rest

    def join(params, rest):
        return State(params=params["raw"], ema=params["ema"], best=params["best"], **rest)

    def impatient(state):
        return bool(settings.patience) and int(state.since_best) >= settings.patience

    return training.Stage("teacher", settings.num_iterations, split, join, impatient)
