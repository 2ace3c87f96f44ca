"""What a run says: JSON lines, lines or a bar, and the stop at NaN."""

import io
import json

import numpy as np
import pytest

from vdd_jax.metrics import Log, TrainingDiverged, check_finite, table


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_finite_metrics_pass():
    """No complaint about large, small or negative numbers."""
    check_finite({"a": np.array([1e30, -1e-30, 0.0])}, 0, "distill")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_bad_step_is_named_with_what_was_not_finite(value):
    """The earliest step of all metrics, counted from 1, and only what was bad at that step."""
    metrics = {
        "loss": np.array([1.0, 1.0, value, np.nan]),
        "norm": np.array([1.0, 1.0, 1.0, np.nan]),
        "both": np.array([0.0, 0.0, value, 0.0]),
    }
    with pytest.raises(TrainingDiverged) as caught:
        check_finite(metrics, 10, "distill")
    text = str(caught.value)
    assert text.startswith(f"distill stopped at step 13: loss = {value}, both = {value}. ")
    assert "norm" not in text.split(". ")[0]
    assert "last good checkpoint" in text


def test_records_are_json_lines_and_lines_of_text(tmp_path):
    """Every record is one JSON object, NaN as null, appended to what is there, and one line."""
    path, out = tmp_path / "deep" / "metrics.jsonl", io.StringIO()
    for steps in ((1, 2), (3,)):  # the second is a resumed run
        with Log(path, "distill", 3, out) as log:
            for step in steps:
                log.progress(step)
                log.record(step, {"loss": np.float32(step / 2), "bad": float("nan")})
    records = [json.loads(line, parse_constant=pytest.fail)
               for line in path.read_text().splitlines()]
    assert records == [{"stage": "distill", "step": i, "loss": i / 2, "bad": None}
                       for i in (1, 2, 3)]
    assert out.getvalue().splitlines()[1] == "[distill] 2/3  loss 1  bad nan"
    assert "\r" not in out.getvalue()


def test_a_record_is_on_disk_at_once(tmp_path):
    """A kill loses no record."""
    log = Log(tmp_path / "m.jsonl", "distill", 3, io.StringIO())
    log.record(1, {"loss": 1.0})
    assert json.loads((tmp_path / "m.jsonl").read_text())["step"] == 1


def test_on_a_terminal_one_bar_is_redrawn(tmp_path):
    """The bar grows in place, shows the last metrics, and ends its line."""
    out = Terminal()
    with Log(tmp_path / "m.jsonl", "distill", 100, out) as log:
        log.progress(0)
        log.record(50, {"loss": 2.5})
        log.progress(50)
        log.progress(100)
    shown = out.getvalue().split("\r\x1b[K")[1:]
    assert [text.count("█") for text in shown] == [0, 10, 20]
    assert "50/100" in shown[1] and "loss 2.5" in shown[1] and "s left" in shown[1]
    assert out.getvalue().count("\n") == 1


def test_table_is_aligned():
    """Columns as wide as their widest cell, a rule under the header."""
    assert table([("a", "1"), ("long name", "22")], ("what", "value")).splitlines() == [
        "what       value",
        "---------  -----",
        "a          1",
        "long name  22",
    ]
