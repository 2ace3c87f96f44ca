"""Where metrics go beside the JSON lines, if wished (`config.run.loggers`): TensorBoard, Weights &
Biases. Each an extra, imported where it is opened; of several processes the first one writes.
"""

import importlib.util
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from vdd_jax.config import ConfigError

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


class Logger(NamedTuple):
    record: Callable[[int, dict[str, float]], None]  # steps done, metrics
    close: Callable[[], None]


def check(names) -> None:
    """Checks that what `names` ask for is installed.

    Raises:
      ConfigError: naming the extra that is missing.
    """
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(f"config.run.loggers asks for {name!r}, which needs "
                              f"{PACKAGES[name]}: pip install 'vdd_jax[{name}]'")


def opened(config: ConfigDict, workdir: Path, stage: str) -> list[Logger]:
    """The loggers of `config.run.loggers` for the metrics of a stage; none but in the first
    process. A run that is resumed goes on in the same place."""
    if jax.process_index():
        return []
    makers = {"tensorboard": tensorboard, "wandb": wandb}
    return [makers[name](config, workdir, stage) for name in config.run.loggers]


def tensorboard(config: ConfigDict, workdir: Path, stage: str) -> Logger:
    """Scalars `stage/metric` in event files under `workdir/tensorboard`."""
    from tensorboardX import SummaryWriter

    folder = workdir / "tensorboard"
    # a name of its own: by themselves files of one second have the same
    number = len(list(folder.glob("*")))
    writer = SummaryWriter(str(folder), filename_suffix=f".{stage}.{number}")

    def record(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(f"{stage}/{name}", value, step)
        writer.flush()

    return Logger(record, writer.close)


def wandb(config: ConfigDict, workdir: Path, stage: str) -> Logger:
    """Metrics `stage/metric` over `stage/step` in one run for the workdir, whose identity is kept
    in `workdir/wandb_run_id`; project and mode by wandb's own environment variables."""
    import wandb

    file = workdir / "wandb_run_id"
    if not file.exists():
        file.write_text(secrets.token_hex(4) + "\n")
    run = wandb.init(dir=str(workdir), id=file.read_text().strip(), resume="allow",
                     name=workdir.name, config=config.to_dict())
    run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def record(step: int, values: dict[str, float]) -> None:
        run.log({f"{stage}/step": step, **{f"{stage}/{k}": v for k, v in values.items()}})

    return Logger(record, run.finish)
