"""Orbax checkpoints of a stage: the only file that imports orbax.

A checkpoint holds the items `params`, `train` (step and optimisers), `scaler` and `config`
(both JSON: the scaler as numbers, the resolved configuration with versions and format number), and
`encoder`, what the scaler's way of seeing images has learned, where it has one.
Saves are atomic: a killed run leaves the last complete checkpoint as the latest.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vdd_jax.data import Scaler

FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, or of something else; the text is for the user."""


class Checkpoints:
    """The checkpoints under one directory; a context manager that waits for pending saves."""

    def __init__(self, directory: str | Path, read_only: bool = False, keep: int = 2):
        self.directory = Path(directory).absolute()
        if read_only and not self.directory.is_dir():
            raise CheckpointError(f"there is no checkpoint in {self.directory}")
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_names=("params", "train", "scaler", "config", "encoder"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else keep,
                save_interval_steps=0 if read_only else 1,  # 0: orbax wants it and warns otherwise
                create=not read_only,
                read_only=read_only,
            ),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._manager.wait_until_finished()
            self._manager.close()
        except Exception as error:  # of a save in the background
            raise self._not_written(error) from error

    def _not_written(self, error: Exception) -> CheckpointError:
        reason = str(error).strip().split("\n")[0]
        if "No space left" in reason or getattr(error, "errno", None) == 28:
            reason = "no space left on the device"
        return CheckpointError(
            f"a checkpoint could not be written to {self.directory}: {reason[:300]}. The last "
            "complete one is kept; the same command goes on from it"
        )

    def wait(self) -> None:
        """Until what is being saved in the background is there."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, params: Any, train: Any, scaler: Scaler, config: dict) -> None:
        """Saves in the background what is at `step`; a step already there is left as it is."""
        if step in self._manager.all_steps():
            return
        try:
            self._save(step, params, train, scaler, config)
        except Exception as error:  # also of an earlier save in the background
            raise self._not_written(error) from error

    def _save(self, step, params, train, scaler, config):
        numbers = {k: np.asarray(v, np.float64).tolist() for k, v in scaler._asdict().items()
                   if v is not None and k != "encode"}
        learned = {} if scaler.encode is None else {
            "encoder": ocp.args.StandardSave(scaler.encode.args[0]["params"])}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params),
                train=ocp.args.StandardSave(train),
                scaler=ocp.args.JsonSave(numbers),
                config=ocp.args.JsonSave({"format": FORMAT, **config}),
                **learned,
            ),
        )

    def restore_scaler_and_config(self, step: int | None = None) -> tuple[Scaler, dict]:
        """The scaler and the JSON object of a step (default: the latest)."""
        found = self._restore(step, scaler=ocp.args.JsonRestore(), config=ocp.args.JsonRestore())
        config = found["config"]
        stored_format = config.get("format") if isinstance(config, dict) else None
        if stored_format != FORMAT:
            raise CheckpointError(
                f"the checkpoint in {self.directory} has format {stored_format}; "
                f"this version reads format {FORMAT}"
            )
        try:
            scaler = Scaler(**{k: jnp.asarray(v, jnp.float32) for k, v in found["scaler"].items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the scaler of the checkpoint in {self.directory} is not of this library: {error}"
            ) from error
        return scaler, config

    def restore_params(self, abstract_params: Any, step: int | None = None) -> Any:
        """`params`, of the shapes, types and shardings of the abstract tree."""
        return self._restore(step, params=ocp.args.StandardRestore(abstract_params))["params"]

    def restore_encoder(self, abstract_params: Any, step: int | None = None) -> Any:
        """`encoder`, as `restore_params`."""
        return self._restore(step, encoder=ocp.args.StandardRestore(abstract_params))["encoder"]

    def restore_training(self, abstract_params, abstract_train, step=None) -> tuple[Any, Any]:
        """`params` and `train`."""
        found = self._restore(
            step,
            params=ocp.args.StandardRestore(abstract_params),
            train=ocp.args.StandardRestore(abstract_train),
        )
        return found["params"], found["train"]

    def _restore(self, step, **items):
        step = self.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"there is no complete checkpoint in {self.directory}")
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax raises a dozen kinds; what matters is which file
            reason = str(error).strip().split("\n")[0][:300]
            raise CheckpointError(
                f"the checkpoint {self.directory / str(step)} is damaged, or belongs to another "
                f"model: {type(error).__name__}: {reason}"
            ) from error


def abstract(tree: Any, sharding: jax.sharding.Sharding | None = None) -> Any:
    """Shapes, types and shardings of a tree of arrays (`sharding` where they have none)."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=getattr(x, "sharding", None) or sharding
        ),
        tree,
    )


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all; of several processes the first one does."""
    if jax.process_index():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def last_step(stage: Path) -> int | None:
    """Of the last checkpoint in the directory of a stage; None without one."""
    if not (stage / "checkpoints").is_dir():
        return None
    with Checkpoints(stage / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.latest_step()
