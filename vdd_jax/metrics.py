"""What a run says while it runs: JSON lines, a progress bar or lines, and a stop at NaN."""

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from vdd_jax.loggers import Logger


class TrainingDiverged(RuntimeError):
    """A loss or gradient became NaN or infinite; the text is for the user."""


_REMEDIES = {
    "distill": "Try a smaller learning rate, config.distill.clip_norm=1, or a larger "
               "config.distill.noise.low.",
    "from_scratch": "Try a smaller config.from_scratch.learning_rate, or a larger "
                    "config.student.std_floor.",
    "teacher": "Try a smaller config.teacher.learning_rate, or config.teacher.clip_norm=1.",
}


def check_finite(metrics: dict[str, np.ndarray], first_step: int, stage: str) -> None:
    """Checks the metrics of a dispatch, each `[K]`, for NaN and infinity.

    Raises:
      TrainingDiverged: with the first bad step and what was not finite there.
    """
    bad = {k: int(np.argmax(~np.isfinite(v))) for k, v in metrics.items()
           if not np.isfinite(v).all()}
    if bad:
        first = min(bad.values())
        names = ", ".join(f"{k} = {metrics[k][first]}" for k in bad if bad[k] == first)
        raise TrainingDiverged(
            f"{stage} stopped at step {first_step + first + 1}: {names}. The last good checkpoint, "
            f"if one was due before, is kept. {_REMEDIES.get(stage, '')}"
        )


class Log:
    """Appends metrics to a JSON-lines file and shows them.

    On a terminal one progress bar is redrawn; elsewhere each record is one line. `loggers` are
    told each record too, and closed with it.
    """

    def __init__(self, path: Path, stage: str, total: int, out=None,
                 loggers: Sequence[Logger] = ()):
        if jax.process_index():  # of several processes the first one speaks
            path = Path(os.devnull)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a")
        self._out = out or sys.stdout
        self._loggers = loggers
        self._stage, self._total = stage, total
        self._bar = self._out.isatty()
        self._start = None
        self._last = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        for logger in self._loggers:
            logger.close()
        if self._bar and self._last:
            self._out.write("\n")

    def progress(self, step: int) -> None:
        """Moves the bar; silent where there is none."""
        now = time.monotonic()
        if self._start is None:
            self._start = (now, step)
        if self._bar:
            self._draw(step, now)

    def record(self, step: int, values: dict[str, float]) -> None:
        """One record: `{"stage", "step", **values}`."""
        values = {k: float(v) for k, v in values.items()}
        record = {"stage": self._stage, "step": step, **values}
        self._file.write(json.dumps({k: _json_safe(v) for k, v in record.items()}) + "\n")
        self._file.flush()
        for logger in self._loggers:
            logger.record(step, values)
        self._last = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
        if not self._bar:
            print(f"[{self._stage}] {step}/{self._total}  {self._last}", file=self._out, flush=True)

    def note(self, text: str) -> None:
        """A line of its own beside the metrics."""
        print(("\r\x1b[K" if self._bar else "") + f"[{self._stage}] {text}", file=self._out,
              flush=True)

    def _draw(self, step, now):
        done = step / self._total
        started, first = self._start
        left = ""
        if step > first:
            seconds = (now - started) / (step - first) * (self._total - step)
            left = f" {seconds:.0f} s left"
        bar = "█" * int(20 * done) + "·" * (20 - int(20 * done))
        text = f"{self._stage} {bar} {step}/{self._total}{left}  {self._last}"
        self._out.write("\r\x1b[K" + text[:150])
        self._out.flush()


def _json_safe(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: list[tuple[str, ...]], header: tuple[str, ...]) -> str:
    """A plain text table, columns aligned."""
    cells = [header, *rows]
    widths = [max(len(str(row[i])) for row in cells) for i in range(len(header))]
    lines = ["  ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
             for row in cells]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
