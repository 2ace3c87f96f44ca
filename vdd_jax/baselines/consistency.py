"""Consistency models (CD) and consistency trajectory models (CTM) distilled from a teacher.

A network like the teacher's, which starts as the teacher's, learns to jump along the teacher's
probability-flow ODE: to its end (CD; Song et al. 2023), or to any lower noise (CTM; Kim et al.
2024, whose adversarial term is left out, as is usual for policies). It acts in one call or in
several, and has no density. `init → step → run`; the equations are in `core/jumps.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vdd_jax import checkpoint, exchange, handover, problem, sharding, teachers, training
from vdd_jax.core import jumps as jump_lib
from vdd_jax.core import objectives, preconditioning, samplers
from vdd_jax.core.keys import for_dropout
from vdd_jax.data import batch_at, first
from vdd_jax.models import denoiser
from vdd_jax.types import Batch

NAME = "consistency"  # of the stage and its directory
METHODS = ("cd", "ctm")
HELD_OUT = 512  # states behind the error of a jump


class State(NamedTuple):
    """Everything that training changes; arrays only."""

    step: jax.Array  # iterations done
    params: dict
    target: dict  # fast moving average of params, which says what a jump should find
    ema: dict  # slow moving average: the policy
    opt: optax.OptState


class Network(NamedTuple):
    """A network that jumps, and what it is given: functions of parameters first."""

    schedule: object
    grid: jax.Array  # noises r of the teacher's ODE from the largest to 0, `[N + 1]`
    init: Callable  # key → parameters
    says: Callable  # (params, y, observation, r, s, train, key) → g, (x, t, raw output)
    go: Callable  # (params, y, observation, r, s, train, key) → G(y, r, s)


def network(config: ConfigDict, settings: ConfigDict, example: Batch, dtype=jnp.float32) -> Network:
    """The network of `config.consistency`; `settings` is the teacher's own `config.teacher`."""
    schedule = teachers.make_schedule(settings)
    model = denoiser.build(settings, example.action.shape[-1], dtype)
    kind, sigma_data, least = settings.prediction, settings.sigma_data, schedule.ratio_min
    told_end = config.method == "ctm"

    def extra(context, t, s):
        given = {}
        if denoiser.whole_window(settings):
            given["past"] = teachers.noised_past(schedule, sigma_data, context, t)
        if told_end:  # as the noise is told, but finite at s = 0
            given["end"] = 0.25 * jnp.log(s + least)
        return given

    def init(key):
        t = jnp.ones(1)
        return model.init(key, example.action, jnp.zeros(1), example.observation,
                          **extra(example.observation, t, t))["params"]

    def says(params, y, observation, r, s, train=False, key=None):
        t = schedule.time(jnp.maximum(r, least))
        x = schedule.alpha(t)[..., None] * y
        seen, noise = preconditioning.network_input(schedule, sigma_data, x, t)
        out = model.apply({"params": params}, seen, noise, observation, train=train,
                          rngs={"dropout": for_dropout(key)} if train else None,
                          **extra(observation, t, s))
        return preconditioning.to_x0(kind, schedule, sigma_data, out, x, t), (x, t, out)

    def go(params, y, observation, r, s, train=False, key=None):
        g, _ = says(params, y, observation, r, s, train, key)
        return jump_lib.jump(g, y, r, s)

    return Network(schedule, samplers.ratios(schedule, config.num_scales), init, says, go)


def optimiser(config: ConfigDict) -> optax.GradientTransformation:
    """Adam with a cosine to 0; `config` is `config.consistency`."""
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(*clip, optax.adam(
        optax.cosine_decay_schedule(config.learning_rate, config.num_iterations)))


def init(config: ConfigDict, net: Network, key: jax.Array, teacher_params: dict | None) -> State:
    """The teacher's parameters where it has the same network, and fresh ones for the rest."""
    params = {**net.init(key), **(teacher_params or {})}
    return State(jnp.zeros((), jnp.int32), params, params, params, optimiser(config).init(params))


class Drawn(NamedTuple):
    """A batch and its jumps from r to s, whose teacher goes `num` steps; B is the first axis."""

    batch: Batch
    eps: jax.Array  # `[B, A]`
    start: jax.Array  # `[B]`, index into the grid, of r
    end: jax.Array  # `[B]`, of s
    num: jax.Array  # `[B]`


def draw(config: ConfigDict, batch: Batch, key: jax.Array) -> Drawn:
    """Jumps of a batch. CD: to the end. CTM: half of them to the end, half to anywhere before. The
    teacher goes up to `config.teacher_steps`, and the network the rest of the way."""
    n, size = config.num_scales, batch.action.shape[:1]
    keys = jax.random.split(key, 5)
    eps = jax.random.normal(keys[0], batch.action.shape)
    start = jax.random.randint(keys[1], size, 0, n)
    end = jnp.full(size, n)
    if config.method == "ctm":
        anywhere = jax.random.randint(keys[2], size, start + 1, n + 1)
        end = jnp.where(jax.random.bernoulli(keys[3], shape=size), end, anywhere)
    most = jnp.minimum(config.teacher_steps, end - start)
    return Drawn(batch, eps, start, end, jax.random.randint(keys[4], size, 1, most + 1))


def make_losses(config: ConfigDict, net: Network, settings: ConfigDict, teacher: teachers.Teacher):
    """`jumps(params, drawn, key, target)` and `denoising(params, drawn, key)`, scalars.

    `config` is `config.consistency`, `settings` the teacher's own `config.teacher`.
    """
    denoise = in_ve_space(teacher, settings)

    def jumps(params, drawn: Drawn, key, target):
        """What a jump finds against what it finds after a walk of the teacher, both taken to the
        end by the target (Kim et al. 2024, eq. 9; for jumps to the end Song et al. 2023, eq. 7)."""
        observation = drawn.batch.observation
        r, s, u = (net.grid[i] for i in (drawn.start, drawn.end, drawn.start + drawn.num))
        y = drawn.batch.action + r[..., None] * drawn.eps
        walked = jump_lib.walk(lambda y, r: denoise(y, observation, r), y, net.grid, drawn.start,
                               drawn.num, config.teacher_steps)
        found = net.go(params, y, observation, r, s, True, key)
        wanted = net.go(target, walked, observation, u, s)
        if config.method == "ctm":
            end = jnp.zeros_like(s)
            found, wanted = (net.go(target, v, observation, s, end) for v in (found, wanted))
        return jnp.mean(jump_lib.pseudo_huber(found, jax.lax.stop_gradient(wanted)))

    def denoising(params, drawn: Drawn, key):
        """Denoising score matching of g(·, r, r) (Kim et al. 2024, eq. 12), which the jumps to r
        itself say nothing about."""
        r = net.grid[drawn.start]
        y = drawn.batch.action + r[..., None] * drawn.eps
        _, (_, t, out) = net.says(params, y, drawn.batch.observation, r, r, True, key)
        wanted = preconditioning.target(settings.prediction, net.schedule, settings.sigma_data,
                                        drawn.batch.action, drawn.eps, t)
        return objectives.denoising(out, wanted, jnp.ones_like(r))

    return jumps, denoising


def in_ve_space(teacher: teachers.Teacher, settings: ConfigDict):
    """(y `[..., A]`, observation, r) → E[a|y] by the teacher, clipped as its sampler does."""
    schedule, clip = teacher.schedule, settings.sampler.clip

    def denoise(y, observation, r):
        t = schedule.time(r)
        x0 = teacher.denoise(schedule.alpha(t)[..., None] * y, observation, t)
        return jnp.clip(x0, -clip, clip) if clip else x0

    return denoise


def make_step(config: ConfigDict, net: Network, settings: ConfigDict, teacher, draw_batch=batch_at,
              parts: int = 1):
    """`step(state, data, key) → (state, metrics)`: one iteration, a pure function.

    `config` is `config.consistency`, `settings` the teacher's own `config.teacher`; for
    `draw_batch` and `parts` see `distill.make_step`.
    """
    opt = optimiser(config)
    jumps, denoising = make_losses(config, net, settings, teacher)

    def loss(params, drawn, key, target):
        value = jumps(params, drawn, key, target)
        if config.method == "ctm" and config.denoising_weight:
            value += config.denoising_weight * denoising(params, drawn, jax.random.fold_in(key, 1))
        return value

    gradient = training.value_and_grad(loss, parts)

    def step(state: State, data: Batch, key: jax.Array):
        batch_key, noise_key = jax.random.split(key)
        batch = draw_batch(data, batch_key, state.step, config.batch_size)
        draw_key, drop_key = jax.random.split(jax.random.fold_in(noise_key, state.step))
        value, grads = gradient(state.params, draw(config, batch, draw_key), drop_key, state.target)
        updates, opt_state = opt.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        target, ema = (
            training.moving_average(decay, before, params, state.step)
            for decay, before in ((config.target_ema, state.target), (config.ema, state.ema)))
        return (State(state.step + 1, params, target, ema, opt_state),
                {"loss": value, "grad_norm": optax.tree.norm(grads)})

    return step


def make_health(net: Network, settings: ConfigDict, teacher, held_out: Batch, key: jax.Array):
    """`health(params) → metrics`: `jump_error`, root mean squared distance of one jump from the
    largest noise to where the teacher's ODE ends, in scaled actions."""
    held_out = first(held_out, HELD_OUT)
    observation, size = held_out.observation, held_out.action.shape[:1]
    denoise = in_ve_space(teacher, settings)
    y = net.grid[0] * jax.random.normal(key, held_out.action.shape)
    start, num = jnp.zeros(size, jnp.int32), jnp.full(size, len(net.grid) - 1)
    end = jax.jit(lambda: jump_lib.walk(
        lambda y, r: denoise(y, observation, r), y, net.grid, start, num, len(net.grid) - 1))()

    def health(params):
        r = jnp.full(size, net.grid[0])
        found = net.go(params, y, observation, r, jnp.zeros(size))
        return {"jump_error": jnp.sqrt(jnp.mean(jnp.square(found - end)))}

    return health


def sampler(config: ConfigDict, net: Network):
    """`draw(params, scaled observation, key, shape, num_steps) → scaled actions `shape``, whose
    last axes but one are the batch axes of the observation."""
    gamma = 1.0 if config.method == "cd" else config.gamma

    def draw(params, observation, key, shape, num_steps):
        batch = shape[len(shape) - 1 - teachers.batch_rank(observation) : -1]

        def go(y, r, s):
            return net.go(params, y, observation, *(jnp.broadcast_to(v, batch) for v in (r, s)))

        return jump_lib.sample(go, key, shape, samplers.ratios(net.schedule, num_steps), gamma)

    return draw


def run(config: ConfigDict, workdir: Path, stop_at: int | None = None) -> None:
    """Distils to `workdir/consistency`, resuming what is there.

    `config` is the whole one; for the rest and what is raised see `training.run`.
    """
    task = problem.build(config, workdir, encoder=sharding.encoded_together)
    ours, settings = config.consistency, task.teacher_config or config.teacher
    net = network(ours, settings, problem.example(config), problem.dtype(config))
    keys = jax.random.split(problem.stage_key(config, NAME), 4)
    init_key, step_key, data_key, health_key = keys
    mesh = sharding.make_mesh(config)
    data = task.data
    if ours.actions == "teacher":
        data = handover.teachers_actions(ours, task, data_key)
    init_key, step_key, params = sharding.everywhere(
        (init_key, step_key, task.teacher.params), mesh)
    data, draw_batch = sharding.resident(data, mesh, config.run.split_data)
    draw_batch = exchange.drawing(draw_batch, problem.alike(config))
    task = task._replace(data=None)  # not a second time on the first device
    state, shardings = training.born(
        lambda key, params: init(ours, net, key, params),
        lambda shapes: sharding.of_state(shapes, mesh), init_key, params)

    def step(state, inputs, key):
        data, params = inputs
        return make_step(ours, net, settings, task.teacher.of(params), draw_batch,
                         config.run.accumulate)(state, data, key)

    advance = training.dispatched(
        step, shardings, True, training.whole_dispatch(config, config.run.log_every))
    health = jax.jit(make_health(net, settings, task.teacher, task.held_out, health_key),
                     out_shardings=sharding.replicated(mesh))

    def look(state, done, metrics, log):
        if done % config.run.log_every == 0 or done == ours.num_iterations:
            log.record(done, {"loss": metrics["loss"].mean(), "grad_norm": metrics["grad_norm"][-1],
                              **jax.device_get(health(state.ema))})
        return state

    own = config.copy_and_resolve_references()  # the network is the teacher's: so are its settings
    own.teacher.update({k: v for k, v in settings.items() if k != "workdir"})
    training.run(
        stage(ours), own, workdir, state,
        lambda state, num: advance(state, (data, params), step_key, num), look,
        scaler=task.scaler, about={"about": task.about}, every=[config.run.log_every],
        stop_at=stop_at)


def finished(config: ConfigDict, workdir: Path) -> bool:
    """Whether the stage's last checkpoint is there."""
    return checkpoint.last_step(workdir / NAME) == config.consistency.num_iterations


def stage(settings: ConfigDict) -> training.Stage:
    """This stage for the shared loop; `settings` is `config.consistency`."""
    return training.Stage(
        NAME, settings.num_iterations,
        lambda s: ({"ema": s.ema, "params": s.params, "target": s.target},
                   {"step": s.step, "opt": s.opt}),
        lambda params, rest: State(**params, **rest))
