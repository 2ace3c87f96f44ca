"""A mixture of experts from demonstrations alone: EM, IMC, or plain likelihood. No teacher, but for
images: what they show is seen as a teacher has learned to, as every student here sees it.

The student's own network, learned from N pairs (s, a). EM and IMC hold a weight of every pair for
every expert, `[N, Z]`, renewed by an E-step over all pairs; between two of them the network takes
gradient steps on what the M-step minimises. `init → step → run`.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vdd_jax import checkpoint, problem, sharding, training
from vdd_jax.core import mixture
from vdd_jax.core.keys import for_dropout
from vdd_jax.core.mixture import Mixture
from vdd_jax.data import batch_at, first
from vdd_jax.types import Batch, Observation

NAME = "from_scratch"  # of the stage and its directory
CHUNK = 4_096  # pairs at once in an E-step


class State(NamedTuple):
    """Everything that training changes; arrays only."""

    step: jax.Array  # iterations done
    params: dict  # {'experts': …, 'gating': …}
    log_weights: jax.Array  # of every pair for every expert, `[N, Z]`; bc_gmm: 0 and unused
    opt: optax.OptState


# ---- E-steps: what is needed of each pair `[Z]`, then log weights `[N, Z]` from all of them

def joint(q: Mixture, action: jax.Array) -> jax.Array:
    """log q(a, z|s)."""
    return mixture.component_log_prob(q, action) + q.log_weights


def responsibilities(log_joint, before, pacing):
    """log q(z|a,s), normalised over experts."""
    return jax.nn.log_softmax(log_joint, axis=-1)


def fit(q: Mixture, action: jax.Array) -> jax.Array:
    """log N(a; μ_z, I) but for a constant, in scaled actions.

    Of unit covariance, as in IMC's own release. With the covariance that an expert has learned, a
    narrow curriculum makes it narrow, and that the curriculum narrower: in Avoiding an expert is
    left with a few easy pairs (experiments/results/rivals.md)."""
    return -0.5 * jnp.sum(jnp.square(action[..., None, :] - q.means), axis=-1)


def curricula(log_fit, before, pacing):
    """log p(i|z), normalised over the pairs i for each expert: p(i|z) ∝ N(a_i; μ_z, I)^(1/η) p̃(z|i)
    with p̃(z|i) = p(i|z) / Σ_z′ p(i|z′) of the curricula before (Blessing et al. 2023, NeurIPS)."""
    return jax.nn.log_softmax(log_fit / pacing + jax.nn.log_softmax(before, axis=-1), axis=0)


# ---- M-steps: (the student at B pairs, their actions, their log weights `[B, Z]`, N) → loss

def em(q: Mixture, action: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """−Σ_z r_z [log q(a|s,z) + log q(z|s)] (Jacobs et al. 1991)."""
    return -jnp.mean(jnp.sum(jnp.exp(log_weights) * (
        mixture.component_log_prob(q, action) + q.log_weights), axis=-1))


def imc(q: Mixture, action: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """Every expert's likelihood, means and covariances, of its own curriculum: it may leave pairs
    to others or to nobody. The gating learns p̃(z|i), normalised over experts, of every pair."""
    of_experts = num * jnp.exp(log_weights) * mixture.component_log_prob(q, action)
    of_gating = jax.nn.softmax(log_weights, axis=-1) * q.log_weights
    return -jnp.mean(jnp.mean(of_experts, axis=-1) + jnp.sum(of_gating, axis=-1))


def bc_gmm(q: Mixture, action: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """−log q(a|s), the mixture's likelihood (behaviour cloning)."""
    return -jnp.mean(mixture.log_prob(q, action))


METHODS = {"em": (joint, responsibilities, em), "imc": (fit, curricula, imc),
           "bc_gmm": (None, None, bc_gmm)}


# ---- training

def optimiser(config: ConfigDict) -> optax.GradientTransformation:
    """Adam with a cosine to 0; `config` is `config.from_scratch`."""
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(*clip, optax.adam(
        optax.cosine_decay_schedule(config.learning_rate, config.num_iterations)))


def init(config: ConfigDict, model, key: jax.Array, observation: Observation, num: int) -> State:
    """A student with fresh parameters and equal weights of `num` pairs; `observation` is any;
    `config` is `config.from_scratch`."""
    params = model.init(key, observation)["params"]
    return State(jnp.zeros((), jnp.int32), params, jnp.zeros((num, model.num_experts)),
                 optimiser(config).init(params))


def make_e_step(config: ConfigDict, model):
    """`e_step(params, log weights before, data) → log weights`, each `[N, Z]`."""
    of_pair, renew, _ = METHODS[config.method]

    def e_step(params, before, data: Batch):
        found = jax.lax.map(
            lambda pair: of_pair(model.apply({"params": params}, pair.observation), pair.action),
            first(data, len(before)), batch_size=CHUNK)
        return renew(found, before, config.pacing)

    return e_step


def make_step(config: ConfigDict, model, draw_batch=batch_at, parts: int = 1):
    """`step(state, data, key) → (state, metrics)`: one iteration, a pure function.

    `config` is `config.from_scratch`; for `draw_batch` and `parts` see `distill.make_step`.
    """
    opt, (_, renew, m_step) = optimiser(config), METHODS[config.method]
    e_step = make_e_step(config, model)

    def loss(params, pairs, key, num):
        batch, log_weights = pairs
        q = model.apply({"params": params}, batch.observation, train=True,
                        rngs={"dropout": for_dropout(key)})
        return m_step(q, batch.action, log_weights, num)

    gradient = training.value_and_grad(loss, parts)

    def step(state: State, data: Batch, key: jax.Array):
        batch_key, drop_key = jax.random.split(key)
        log_weights = state.log_weights
        if renew:
            log_weights = jax.lax.cond(
                state.step % config.e_step_every == 0, e_step,
                lambda params, before, data: before, state.params, log_weights, data)
        pairs = draw_batch(Batch((data, log_weights), data.action), batch_key, state.step,
                           config.batch_size).observation
        value, grads = gradient(state.params, pairs, jax.random.fold_in(drop_key, state.step),
                                len(log_weights))
        updates, opt_state = opt.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        return (State(state.step + 1, params, log_weights, opt_state),
                {"loss": value, "grad_norm": optax.tree.norm(grads)})

    return step


def make_health(model, held_out: Batch):
    """`health(params) → metrics`: `nll`, −log q of held-out actions in nats of scaled units, and
    `entropy_gating`, nats."""
    held_out = first(held_out, 1_024)

    def health(params):
        q = model.apply({"params": params}, held_out.observation)
        return {"nll": -jnp.mean(mixture.log_prob(q, held_out.action)),
                "entropy_gating": jnp.mean(mixture.gating_entropy(q))}

    return health


def run(config: ConfigDict, workdir: Path, stop_at: int | None = None) -> None:
    """Trains to `workdir/from_scratch`, resuming what is there.

    `config` is the whole one; for the rest and what is raised see `training.run`.
    """
    settings = config.from_scratch
    data = problem.demonstrations(config, workdir, sharding.encoded_together)
    model = problem.student(config)
    init_key, step_key = jax.random.split(problem.stage_key(config, "from_scratch"))
    mesh = sharding.make_mesh(config)
    init_key, step_key = sharding.everywhere((init_key, step_key), mesh)
    num = len(data.train.action)
    train, draw_batch = sharding.resident(data.train, mesh, config.run.split_data)
    data = data._replace(train=None)  # not a second time on the first device
    state, shardings = training.born(
        lambda key: init(settings, model, key, problem.example(config).observation, num),
        lambda shapes: sharding.of_state(shapes, mesh), init_key)
    advance = training.dispatched(
        make_step(settings, model, draw_batch, config.run.accumulate), shardings, True,
        training.whole_dispatch(config, config.run.log_every))
    health = jax.jit(make_health(model, data.held_out), out_shardings=sharding.replicated(mesh))

    def look(state, done, metrics, log):
        if done % config.run.log_every == 0 or done == settings.num_iterations:
            log.record(done, {"loss": metrics["loss"].mean(), "grad_norm": metrics["grad_norm"][-1],
                              **jax.device_get(health(state.params))})
        return state

    training.run(
        stage(settings), config, workdir, state,
        lambda state, num: advance(state, train, step_key, num), look, scaler=data.scaler,
        about={"about": data.about}, every=[config.run.log_every], stop_at=stop_at)


def finished(config: ConfigDict, workdir: Path) -> bool:
    """Whether the stage's last checkpoint is there."""
    return checkpoint.last_step(workdir / NAME) == config.from_scratch.num_iterations


def stage(settings: ConfigDict) -> training.Stage:
    """This stage for the shared loop; `settings` is `config.from_scratch`."""
    return training.Stage(
        NAME, settings.num_iterations,
        lambda s: (s.params, {"step": s.step, "log_weights": s.log_weights, "opt": s.opt}),
        lambda params, rest: State(params=params, **rest))
