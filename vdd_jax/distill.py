"""Variational diffusion distillation: teacher score → mixture of experts (METHOD 2, 5).

`init → step → run`. One iteration is `expert_steps` updates of all experts in parallel and
`gating_steps` updates of the gating; `run` puts many iterations into one compiled, donated call.
"""

import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from vdd_jax import (
    checkpoint,
    exchange,
    host_memory,
    problem,
    reallocate,
    sharding,
    training,
    visits,
)
from vdd_jax import config as config_lib
from vdd_jax.core import mixture
from vdd_jax.data import batch_at, first
from vdd_jax.distill_losses import draw, make_losses
from vdd_jax.handover import teachers_actions, with_teachers_trunk
from vdd_jax.noise_levels import check_noise, noise_level
from vdd_jax.teachers import Teacher
from vdd_jax.types import Batch, Observation


class State(NamedTuple):
    """Everything that training changes; arrays only."""

    step: jax.Array  # iterations done
    params: dict  # {'experts': …, 'gating': …}; no 'gating' when it is uniform
    expert_opt: optax.OptState
    gating_opt: optax.OptState


def optimisers(config: ConfigDict) -> tuple[optax.GradientTransformation, ...]:
    """Adam for the experts and for the gating; each schedule counts its own updates."""

    def adam(rate, steps):
        schedule = {
            "constant": lambda: rate,
            "linear": lambda: optax.linear_schedule(rate, 0.0, steps),
            "cosine": lambda: optax.cosine_decay_schedule(rate, steps),
        }[config.schedule]()
        clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
        return optax.chain(*clip, optax.adam(schedule))

    n = config.num_iterations
    with_gating = n if config.warm_start else n - math.ceil(config.gating_start * n)
    return (
        adam(config.learning_rate, n * config.expert_steps),
        adam(config.gating_learning_rate, max(with_gating * config.gating_steps, 1)),
    )


def init(config: ConfigDict, model, key: jax.Array, observation: Observation) -> State:
    """A student with fresh parameters; `observation` is any. `config` is `config.distill`."""
    params = model.init(key, observation)["params"]
    experts, gating = optimisers(config)
    return State(
        jnp.zeros((), jnp.int32),
        params,
        experts.init(params["experts"]),
        gating.init(params.get("gating", {})),
    )


def make_step(config: ConfigDict, model, teacher, draw_batch=batch_at, parts: int = 1):
    """`step(state, data, key) → (state, metrics)`: one iteration, a pure function.

    All randomness comes from `key`, of the run, and `state.step`. `config` is `config.distill`;
    `draw_batch` is `batch_at`, or that of a mesh (`sharding.resident`); gradients are computed in
    `parts` slices of a batch (`training.value_and_grad`).
    """
    expert_optimiser, gating_optimiser = optimisers(config)
    *losses, both = make_losses(config, model, teacher)
    bounds, likelihood, gating = (training.value_and_grad(loss, parts) for loss in losses)
    both = training.value_and_grad(both, parts, has_aux=True)

    def drawn(state, batch, *keys):
        return draw(config, teacher.schedule, state.step, batch, *keys)

    def smoothing(state):
        begin, full = config.gating_start, config.gating_full
        if full == begin:
            return 0.0
        progress = state.step / config.num_iterations
        return 1.0 - jnp.clip((progress - begin) / (full - begin), 0.0, 1.0)

    def gating_learns(state):
        return state.step >= config.gating_start * config.num_iterations

    def of_experts(value, grads, level):
        return {"expert_surrogate": value, "expert_grad_norm": optax.tree.norm(grads),
                "noise": jnp.mean(level.sigma / level.alpha)}

    def move_experts(state: State, grads) -> State:
        updates, opt = expert_optimiser.update(grads, state.expert_opt)
        params = {**state.params, "experts": optax.apply_updates(state.params["experts"], updates)}
        return state._replace(params=params, expert_opt=opt)

    def move_gating(state: State, grads) -> State:
        updates, opt = gating_optimiser.update(grads, state.gating_opt)
        params = {**state.params, "gating": optax.apply_updates(state.params["gating"], updates)}
        return state._replace(params=params, gating_opt=opt)

    def expert_update(state: State, batch: Batch, key):
        level_key, sample_key, drop_key, eps_key = jax.random.split(key, 4)
        noise = drawn(state, batch, level_key, eps_key, sample_key)
        value, grads = bounds(state.params["experts"], noise, drop_key, state.params)
        return move_experts(state, grads), of_experts(value, grads, noise.level)

    def gating_update(state: State, batch: Batch, key):
        level_key, eps_key, drop_key = jax.random.split(key, 3)

        def update(state):
            noise = drawn(state, batch, level_key, eps_key)
            value, grads = gating(
                state.params["gating"], noise, drop_key, state.params, smoothing(state))
            return move_gating(state, grads), value

        return jax.lax.cond(
            gating_learns(state), update, lambda state: (state, jnp.zeros(())), state)

    def update_of_both(state: State, batch: Batch, key):
        level_key, sample_key, drop_key, eps_key = jax.random.split(key, 4)
        noise = drawn(state, batch, level_key, eps_key, sample_key)
        (value, gating_loss), grads = both(state.params, noise, drop_key, smoothing(state))
        metrics = of_experts(value - gating_loss, grads["experts"], noise.level)
        learns = gating_learns(state)
        metrics["gating_loss"] = jnp.where(learns, gating_loss, 0.0)
        state = move_experts(state, grads["experts"])
        return jax.lax.cond(
            learns, move_gating, lambda state, _: state, state, grads["gating"]), metrics

    def likelihood_update(state: State, batch: Batch, key):
        level_key, eps_key, drop_key = jax.random.split(key, 3)
        noise = drawn(state, batch, level_key, eps_key)
        value, grads = likelihood(state.params, noise, drop_key)
        metrics = of_experts(value, grads["experts"], noise.level)
        state = move_experts(state, grads["experts"])
        if "gating" in state.params:
            state = move_gating(state, grads["gating"])
            metrics["gating_loss"] = jnp.zeros(())
        return state, metrics

    def step(state: State, data: Batch, key: jax.Array):
        batch_key, noise_key = jax.random.split(key)
        key = jax.random.fold_in(noise_key, state.step)
        keys = jax.random.split(key, config.expert_steps + config.gating_steps)

        def distil(state):
            batch = draw_batch(data, batch_key, state.step, config.batch_size)
            together = config.gating_update == "together" and "gating" in state.params
            of_experts, of_gating = keys[: config.expert_steps], keys[config.expert_steps :]
            for k in of_experts[:-1] if together else of_experts:
                state, metrics = expert_update(state, batch, k)
            if together:
                return update_of_both(state, batch, of_experts[-1])
            if "gating" in state.params:
                for k in of_gating:
                    state, metrics["gating_loss"] = gating_update(state, batch, k)
            return state, metrics

        def warm(state):
            size = config.warm_batch_size or config.batch_size
            batch = draw_batch(data, batch_key, state.step, size)
            return likelihood_update(state, batch, keys[0])

        if config.warm_start == 0:
            state, metrics = distil(state)
        elif config.warm_start == 1:
            state, metrics = warm(state)
        else:
            early = state.step < config.warm_start * config.num_iterations
            state, metrics = jax.lax.cond(early, warm, distil, state)
        return state._replace(step=state.step + 1), metrics

    return step


def make_reallocation(config: ConfigDict, model, teacher, draw_batch=batch_at):
    """`reallocate(state, data, key) → (state, whether an expert was moved)`, see reallocate.py."""

    def move(state: State, data: Batch, key: jax.Array):
        key = jax.random.fold_in(key, state.step)
        batch_key, level_key, sample_key = jax.random.split(key, 3)
        batch = draw_batch(data, batch_key, state.step, 256)
        noise = config.noise.copy_and_resolve_references()
        noise.anneal_broad = 0.0
        progress = state.step / config.num_iterations
        level = noise_level(noise, teacher.schedule, progress, level_key, 256)
        params, moved = reallocate.reallocate(
            state.params,
            model.apply({"params": state.params}, batch.observation),
            lambda x, t: teacher.score(x, batch.observation, t),
            batch, level, sample_key,
        )
        return state._replace(params=params), moved

    return move


def make_health(model, teacher, held_out: Batch, low: float, key: jax.Array):
    """`health(params) → metrics` on held-out pairs: is the student becoming the teacher?

    `nll`: −log q of held-out actions, nats in scaled units. `fisher`: σ² E‖∇log q_σ − f‖²/A at
    samples of q_σ, at the smallest noise level, 0 iff scores agree. `entropy_gating`: nats.
    """
    held_out = first(held_out, 256)
    observation = held_out.observation
    schedule = teacher.schedule

    def health(params):
        q = model.apply({"params": params}, observation)
        t = jnp.full(held_out.action.shape[:1], schedule.time(jnp.asarray(low)))
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        diffused = mixture.diffuse(q, alpha, sigma)
        x = mixture.sample(diffused, key, (4,))
        gap = mixture.score(diffused, x) - teacher.score(x, observation, t)
        return {
            "nll": -jnp.mean(mixture.log_prob(q, held_out.action)),
            "fisher": jnp.mean(sigma[:, None] ** 2 * jnp.square(gap)),
            "entropy_gating": jnp.mean(mixture.gating_entropy(q)),
        }

    return health


def run(config: ConfigDict, workdir: Path, stop_at: int | None = None,
        teacher: Teacher | None = None) -> None:
    """Distils to `workdir/distill`, resuming what is there; returns at once when it is finished.

    `config` is the whole one; `teacher` is given where `config.teacher.given`; for the rest and
    what is raised see `training.run`.
    """
    task = problem.build(config, workdir, teacher, sharding.encoded_together)
    check_noise(config.distill.noise, task.teacher)
    if config.distill.window != "last" and task.teacher.joint_score is None:
        raise config_lib.ConfigError(f"config.distill.window is {config.distill.window!r}, but the "
                                     "teacher was not trained with config.teacher.window = 'all'")
    model = problem.student(config)
    init_key, step_key, health_key, move_key = jax.random.split(
        problem.stage_key(config, "distill"), 4)
    mesh = sharding.make_mesh(config)
    data = task.data
    action_key = jax.random.fold_in(move_key, 1)
    if config.distill.actions == "teacher":
        data = teachers_actions(config.distill, task, action_key)
    num = len(data.action)
    init_key, step_key, move_key, params = sharding.everywhere(
        (init_key, step_key, move_key, task.teacher.params), mesh)
    data, draw_batch = sharding.resident(data, mesh, config.run.split_data)
    draw_batch = exchange.drawing(draw_batch, problem.alike(config))
    task = task._replace(data=None)  # not a second time on the first device

    def with_visits(data, until):
        seen = visits.visited(config, workdir, until, task.scaler)
        if seen is None:
            return data
        there = round(config.distill.visited_share * num)
        rows = visits.asked(config.distill, task, seen, there, action_key)
        return sharding.replaced(data, rows, num - there)

    inputs = (with_visits(data, checkpoint.last_step(workdir / "distill") or 0), params)

    def fresh(key):
        state = init(config.distill, model, key, problem.example(config).observation)
        if config.distill.trunk_from_teacher:
            state = state._replace(params=with_teachers_trunk(config, state.params, task))
        return state

    def shardings_of(shapes):
        return sharding.of_state(shapes, mesh)

    def step(state, inputs, key):
        data, params = inputs
        return make_step(config.distill, model, task.teacher.of(params), draw_batch,
                         config.run.accumulate)(state, data, key)

    def reallocation(state, inputs, key):
        data, params = inputs
        return make_reallocation(
            config.distill, model, task.teacher.of(params), draw_batch)(state, data, key)

    move_steps, visit_steps = reallocation_steps(config.distill), visits.steps(config.distill)
    snapshot_steps = _snapshot_steps(config) if task.teacher.density else []
    marks = [*snapshot_steps, *move_steps, *visit_steps]
    total = config.distill.num_iterations
    whole = training.whole_dispatch(config, config.run.log_every)
    options = host_memory.compiler_options(config)
    shapes = training.placed(fresh, shardings_of, init_key)
    ahead = (shapes, inputs, step_key) if training.has_whole(whole, total, marks) else None
    advance = training.dispatched(step, shardings_of(shapes), True, whole, options, ahead)
    state, shardings = training.born(fresh, shardings_of, init_key)
    on_mesh = sharding.replicated(mesh)
    health = jax.jit(make_health(model, task.teacher, task.held_out, config.distill.noise.low,
                                 health_key), out_shardings=on_mesh, compiler_options=options)
    move = jax.jit(reallocation, donate_argnums=0, out_shardings=(shardings, on_mesh))
    if snapshot_steps:
        _save_snapshot(model, sharding.here(state.params, mesh), task, workdir, 0)

    def look(state, done, metrics, log):
        nonlocal inputs
        if done in visit_steps:
            log.note(f"step {done}: the student drives {config.distill.visited_episodes} episodes; "
                     "its teacher will be asked at their states")
            visits.drive(config, workdir, done, model.apply, sharding.here(state.params, mesh),
                         task.scaler)
            inputs = (with_visits(inputs[0], done), params)
        if done in move_steps:
            state, moved = move(state, inputs, move_key)
            if moved:
                log.note(f"step {done}: a redundant expert was moved")
        if done % config.run.log_every == 0 or done == total:
            last = {k: v[-1] for k, v in metrics.items() if k != "expert_surrogate"}
            if not last.get("gating_loss"):  # 0: not learned yet, or by the likelihood alone
                last.pop("gating_loss", None)
            log.record(done, {**last, **jax.device_get(health(state.params))})
        if done in snapshot_steps:
            _save_snapshot(model, sharding.here(state.params, mesh), task, workdir, done)
        return state

    training.run(
        stage(total), config, workdir, state,
        lambda state, num: advance(state, inputs, step_key, num), look, scaler=task.scaler,
        every=[config.run.log_every], marks=marks, stop_at=stop_at,
    )


def finished(config: ConfigDict, workdir: Path) -> bool:
    """Whether the stage's last checkpoint is there."""
    return checkpoint.last_step(workdir / "distill") == config.distill.num_iterations


def stage(iterations: int) -> training.Stage:
    """This stage for the shared loop."""

    def split(state):
        rest = {"step": state.step, "expert_opt": state.expert_opt, "gating_opt": state.gating_opt}
        return state.params, rest

    return training.Stage("distill", iterations, split,
                          lambda params, rest: State(params=params, **rest))


def reallocation_steps(config: ConfigDict) -> list[int]:
    """Iterations after which an expert may be moved; `config` is `config.distill`."""
    n = config.num_iterations
    low, high = config.reallocate_from * n, config.reallocate_until * n
    each = np.linspace(low, high, config.reallocations)
    return sorted({round(float(step)) for step in each if 0 < step < n})


def _snapshot_steps(config: ConfigDict) -> list[int]:
    n = config.run.num_snapshots
    return sorted({round(config.distill.num_iterations * i / (n - 1)) for i in range(1, n)}) if (
        n > 1) else []


def _save_snapshot(model, params, task, workdir: Path, step: int) -> None:
    """The mixture at the first held-out observations, in the task's units, for the figure; one
    that is there already (a resume repeats steps) stays."""
    path = workdir / "distill" / "snapshots" / f"{step:08d}.npz"
    if path.exists() or not sharding.speaks():
        return
    observation = first(task.held_out.observation, 3)
    q = model.apply({"params": params}, observation)
    q = mixture.affine(q, task.scaler.action_std, task.scaler.action_mean)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, observation=task.scaler.unscale_observation(observation), **q._asdict())
    temporary.replace(path)
