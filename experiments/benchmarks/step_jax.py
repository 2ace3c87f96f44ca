"""This library's distillation step, at the sizes of the benchmark `step.py`.

Teacher, student and step are those of the stage `distill`; the teacher's weights and the windows
are random.
"""

import jax
import numpy as np
from ml_collections import ConfigDict
from step import Job, Unavailable, peak_rss_mib
from step_rows import Sizes

from vdd_jax import config as config_lib
from vdd_jax import distill, host_memory, problem, sharding, teachers, training
from vdd_jax.data import batch_at
from vdd_jax.models import denoiser
from vdd_jax.models.moe import MixtureOfExperts
from vdd_jax.types import Batch, Context


def configure(sizes: Sizes, how: str, windows: int, precision: str = "float32") -> ConfigDict:
    """The configuration of a row; `how` is `config.distill.window`, and may end with ', in slices
    of N' windows."""
    how, _, slices = how.partition(", in slices of ")
    config = config_lib.default()
    config.run.accumulate = max(windows // int(slices), 1) if slices else 1
    config.precision, config.stages = precision, ("distill",)
    config.teacher.update(
        backbone="transformer", window="all", history="absolute", fourier=0,
        width=sizes.teacher_width, depth=sizes.teacher_depth, heads=sizes.teacher_heads,
        schedule="ve", sigma_min=0.005, sigma_max=1.0, sigma_data=0.5)
    config.student.update(
        trunk="transformer", history="absolute", fourier=0, num_experts=sizes.experts,
        trunk_width=sizes.student_width, trunk_depth=sizes.student_depth,
        heads=sizes.student_heads, dropout=sizes.dropout, attention_dropout=sizes.dropout,
        head="residual_mlp", head_width=sizes.head_width, head_depth=1,
        gating_width=sizes.gating_width, gating_depth=sizes.gating_depth)
    # the gating learns from the first iteration on, as published: what is timed is a whole step
    config.distill.update(
        batch_size=windows, samples_per_state=sizes.samples, num_iterations=20_001,
        learning_rate=1e-4, gating_learning_rate=1e-4, schedule="linear",
        gating_start=0.0, gating_full=0.0, window=how)
    if how == "joint":
        config.distill.update(bound="published", entropy="closed", gating_diffused=False)
        config.distill.noise.update(kind="fixed", low=0.1, high=0.1)
    else:
        config.distill.update(gating_update="together")
        config.distill.noise.update(low=0.005, high=1.0)
    return config


def random_windows(sizes: Sizes, n: int) -> Batch:
    """N windows of normal numbers, none of which begins before its episode."""
    t, g, o, a = sizes.window, sizes.goal_length, sizes.observation_dim, sizes.action_dim
    random = np.random.default_rng(0)
    seen, steps, past, goal, action = (
        random.standard_normal((n, *shape), np.float32)
        for shape in ((t, o), (t, o), (t - 1, a), (g, o), (a,)))
    return Batch(Context(seen, steps, np.ones((n, t), bool), past, goal), action)


def programs(config: ConfigDict, sizes: Sizes):
    """`start(key) → state`, `start_teacher(key) → its parameters`, and `make(draw_batch) →
    step(state, inputs, key) → (state, metrics)`, with inputs (data, teacher's parameters)."""
    dtype = problem.dtype(config)
    model = MixtureOfExperts(
        action_dim=sizes.action_dim, dtype=dtype, **config.student.to_dict())
    network = denoiser.build(config.teacher, sizes.action_dim, dtype)
    example = random_windows(sizes, 1)

    def start(key):
        _, key = jax.random.split(key)
        return distill.init(config.distill, model, key, example.observation)

    def start_teacher(key):
        key, _ = jax.random.split(key)
        return denoiser.init(config.teacher, network, key, example)

    def make(draw_batch=batch_at):
        def step(state, inputs, key):
            data, params = inputs  # arguments both, as in the stage: not constants of the program
            teacher = teachers.from_network(config.teacher, params, sizes.action_dim, dtype,
                                            fused=sharding.count(config) == 1)
            return distill.make_step(config.distill, model, teacher, draw_batch,
                                     config.run.accumulate)(state, data, key)

        return step

    return start, start_teacher, make


def size(tree) -> int:
    """Numbers in all arrays of a tree."""
    return sum(v.size for v in jax.tree.leaves(tree))


def build(sizes: Sizes, how: str, windows: int, device: str, precision: str, threads: int,
          devices: int = 1, expert_parallel: int = 1) -> Job:
    """The step for the benchmark; `how` is as in `configure`.

    XLA makes as many threads as the process may use cores, which the worker has made `threads`.

    Raises:
      Unavailable: without the devices.
    """
    try:
        found = jax.devices(device)
    except (RuntimeError, AssertionError) as error:  # the latter where no plug-in is installed
        raise Unavailable(f"JAX sees no {device.upper()} device") from error
    if len(found) < devices:
        raise Unavailable(f"JAX sees {len(found)} {device.upper()} device(s)")
    host_memory.give_back_after_compiling()  # as main.py
    config = configure(sizes, how, windows, precision)
    config.run.update(devices=devices, expert_parallel=expert_parallel)
    mesh = sharding.make_mesh(config)
    start, start_teacher, make = programs(config, sizes)
    data, draw_batch = sharding.resident(random_windows(sizes, max(1024, windows)), mesh, False)
    key, start_key = sharding.everywhere((jax.random.key(1), jax.random.key(0)), mesh)

    def shardings_of(shapes):
        return sharding.of_state(shapes, mesh)

    # as the stage: the teacher is there, the step is compiled, then the student is born
    params, _ = training.born(
        start_teacher,
        lambda shapes: jax.tree.map(lambda _: sharding.replicated(mesh), shapes), start_key)
    inputs = (data, params)
    iterations = 1 if device == "cpu" else 10  # as the stage, which gives a GPU many at once
    shapes = training.placed(start, shardings_of, start_key)
    with jax.default_matmul_precision(problem.MATMUL[precision]):
        compiled = training.scanned(
            make(draw_batch), shardings_of(shapes), True, iterations,
            host_memory.compiler_options(config)).lower(shapes, inputs, key).compile()
    state, _ = training.born(start, shardings_of, start_key)
    seen = []

    def one():
        nonlocal state
        state, metrics = compiled(state, inputs, key)
        jax.block_until_ready((state, metrics))
        if len(seen) < 2:
            seen.extend(map(float, metrics["expert_surrogate"][: 2 - len(seen)]))

    def peak_mib():
        if device == "cpu":
            return peak_rss_mib()
        return found[0].memory_stats()["peak_bytes_in_use"] / 2**20

    facts = {
        "device": found[0].device_kind, "devices": mesh.size, "first_losses": seen,
        "versions": config_lib.versions(),
        "parameters": {"teacher": size(inputs[1]), "student": size(state.params)},
        "xla_gflop": round((compiled.cost_analysis() or {}).get("flops", 0.0) / 1e9, 3),
        "arrays_mib": round(_arrays_mib(compiled.memory_analysis()), 1),
    }
    host_memory.give_back()  # what counting took, which no user has
    return Job(one, peak_mib, facts, iterations)


def _arrays_mib(planned) -> float:
    """All that a program's arrays take at once, by its plan; what is donated counts once."""
    return (planned.argument_size_in_bytes + planned.output_size_in_bytes
            - planned.alias_size_in_bytes + planned.temp_size_in_bytes) / 2**20
