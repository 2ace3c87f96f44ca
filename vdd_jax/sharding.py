"""Which array lies on which device, and how several processes agree.

A mesh of two axes: the batch is split over `data`, the stacked experts over `expert`; everything
else lies on every device (the data set may be split over `data` too). What a step computes does
not depend on the mesh, but for the order of rounding: batches and noise are functions of the key
alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vdd_jax.config import ConfigError
from vdd_jax.data import batch_at, encoded
from vdd_jax.frames import Frames
from vdd_jax.types import Batch

LONGEST = 4_096  # bytes of an answer that processes agree on


def make_mesh(config: ConfigDict) -> Mesh:
    """The mesh (`data`, `expert`) of the whole configuration's `config.run`.

    Raises:
      ConfigError: when devices, batch sizes or experts do not divide, with what would.
    """
    run, devices, num = config.run, jax.devices(), count(config)
    errors = []
    if num > len(devices):
        raise ConfigError(f"config.run.devices is {num}, but there are {len(devices)}")
    if jax.process_count() > 1 and num != len(devices):
        raise ConfigError(f"config.run.devices is {num}; of several processes all {len(devices)} "
                          "devices are used (0)")
    if num % run.expert_parallel:
        raise ConfigError(
            f"config.run.expert_parallel is {run.expert_parallel}, which does not divide "
            f"{num} devices; {_divisors_near(num, run.expert_parallel)} would")
    if config.student.num_experts % run.expert_parallel:
        errors.append(
            f"config.student.num_experts is {config.student.num_experts}, which "
            f"config.run.expert_parallel = {run.expert_parallel} does not divide; "
            f"{_near(config.student.num_experts, run.expert_parallel)} experts would do")
    split = num // run.expert_parallel
    for name, size in _batches(config).items():
        parts = split * run.accumulate
        if size % parts:
            by = f"{split} devices" if run.accumulate == 1 else (
                f"{split} devices × config.run.accumulate = {run.accumulate}")
            errors.append(f"config.{name} is {size}, which {by} do not divide; "
                          f"{_near(size, parts)} would do, or fewer config.run.devices")
    if errors:
        raise ConfigError("\n".join(errors))
    return jax.make_mesh((split, run.expert_parallel), ("data", "expert"),
                         axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=devices[:num])


def count(config: ConfigDict) -> int:
    """How many devices the configuration asks for."""
    return config.run.devices or jax.device_count()


def _batches(config: ConfigDict) -> dict[str, int]:
    """Sizes of the batches that the stages split, by key."""
    sizes = {}
    if "train_teacher" in config.stages:
        sizes["teacher.batch_size"] = config.teacher.batch_size
    if "distill" in config.stages:
        sizes["distill.batch_size"] = config.distill.batch_size
        if config.distill.warm_start:  # 0 here: batch_size
            sizes["distill.warm_batch_size"] = config.distill.warm_batch_size
    if "from_scratch" in config.stages:
        sizes["from_scratch.batch_size"] = config.from_scratch.batch_size
    return sizes


def _near(size: int, divisor: int) -> str:
    """The nearest multiples of `divisor`, in words."""
    below = size // divisor * divisor
    return " or ".join(str(n) for n in (below, below + divisor) if n)


def _divisors_near(size: int, wanted: int) -> str:
    """The two numbers nearest to `wanted` that divide `size`, in words."""
    divisors = sorted((n for n in range(1, size + 1) if size % n == 0),
                      key=lambda n: abs(n - wanted))
    return " or ".join(map(str, sorted(divisors[:2])))


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device."""
    return NamedSharding(mesh, PartitionSpec())


def of_state(state: Any, mesh: Mesh) -> Any:
    """Shardings of a training state (arrays or their shapes): the parameters of the stacked
    experts, and what the optimiser keeps of them, over `expert`; the rest on every device."""

    def place(path, leaf):
        names = [getattr(k, "key", getattr(k, "name", None)) for k in path]
        # params/experts holds experts/…, stacked, and the shared trunk; the experts' optimiser
        # has that tree without its name
        stacked = names.count("experts") + ("expert_opt" in names) > 1
        return NamedSharding(mesh, PartitionSpec("expert") if stacked else PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, state)


def resident(data: Batch, mesh: Mesh, split: bool) -> tuple[Batch, Callable[..., Batch]]:
    """A data set on the devices, and `draw(data, key, step, size) → batch`, as `batch_at`, the
    batch split over `data` if it divides.

    Args:
      data: the whole set, `[N, …]`, equal in every process.
      split: its rows over `data` too: a device holds a share, and of every batch the devices send
        each other what they hold; of `Frames` a process reads what its devices hold. Otherwise
        each of them holds the whole.

    Raises:
      DataError: images cannot be read.
    """
    place = NamedSharding(mesh, PartitionSpec("data"))
    num = len(data.action)

    def draw(data, key, step, size):
        batch = batch_at(data, key, step, size, num)
        if size % mesh.shape["data"]:
            return batch
        return jax.tree.map(lambda v: jax.lax.with_sharding_constraint(v, place), batch)

    if not split:
        return everywhere(data, mesh), draw
    missing = -num % mesh.shape["data"]  # rows that are never drawn, so that devices divide them

    def shared(values):
        values = values if isinstance(values, Frames) else np.asarray(values)

        def share(index):
            start, stop, _ = index[0].indices(num + missing)
            held = values[start : min(stop, num)]
            return np.concatenate([held, np.zeros((stop - start - len(held), *held.shape[1:]),
                                                  held.dtype)])

        return jax.make_array_from_callback((num + missing, *values.shape[1:]), place, share)

    return jax.tree.map(shared, data), draw


def replaced(data: Batch, rows: Batch, start: int) -> Batch:
    """A `resident` data set with other rows from `start` on, equal in every process; each device
    still holds its share. `data` is used up."""
    places = jax.tree.map(lambda v: v.sharding, data)
    mesh = jax.tree.leaves(places)[0].mesh

    def put(data, rows):
        return jax.tree.map(lambda v, new: v.at[start : start + len(new)].set(new), data, rows)

    return jax.jit(put, donate_argnums=0, out_shardings=places)(data, everywhere(rows, mesh))


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """Arrays of this process, equal in every process (keys too) → the same on every device."""
    kinds = jax.tree.map(lambda v: jax.random.key_impl(v) if _is_key(v) else "", tree)
    data = jax.tree.map(lambda v: np.asarray(jax.random.key_data(v) if _is_key(v) else v), tree)

    def wrap(data):
        return jax.tree.map(
            lambda kind, v: jax.random.wrap_key_data(v, impl=kind) if kind else v, kinds, data)

    return jax.jit(wrap, out_shardings=replicated(mesh))(data)


def _is_key(value) -> bool:
    return isinstance(value, jax.Array) and jax.dtypes.issubdtype(
        value.dtype, jax.dtypes.prng_key)


def here(tree: Any, mesh: Mesh) -> Any:
    """Arrays of a mesh → whole, on this process's first device of it."""
    whole = jax.jit(lambda v: v, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda v: v.addressable_data(0), whole)


def encoded_together(frames: np.ndarray | Frames, encode) -> jax.Array:
    """As `data.encoded`, but each process sees its part of the images alone, and hands its
    features to the others. All wait; what `frames` are is the same in each."""
    if jax.process_count() == 1:
        return encoded(frames, encode)
    part = -(-len(frames) // jax.process_count())
    # where they do not divide, the last image stands for those that are not there
    mine = np.minimum(part * jax.process_index() + np.arange(part), len(frames) - 1)
    features = encoded(frames, encode, mine)
    return jnp.asarray(multihost_utils.process_allgather(features, tiled=True)[: len(frames)])


def speaks() -> bool:
    """Whether this process prints and writes files (checkpoints are written by all)."""
    return jax.process_index() == 0


def agreed(answer: Callable[[], str | bool]) -> str | bool:
    """What `answer` says in the first process, in all; called there alone. All wait."""
    if jax.process_count() == 1:
        return answer()
    buffer = np.zeros(LONGEST, np.uint8)
    if speaks():
        said = answer()
        text = said.encode()[: LONGEST - 1] if isinstance(said, str) else b"\x01" * said
        buffer[0] = isinstance(said, str)
        buffer[1 : 1 + len(text)] = np.frombuffer(text, np.uint8)
    buffer = np.asarray(multihost_utils.broadcast_one_to_all(buffer))
    text = bytes(buffer[1:]).rstrip(b"\x00")
    return text.decode(errors="replace") if buffer[0] else bool(text)


def wait(where: str) -> None:
    """Until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)
