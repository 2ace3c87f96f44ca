"""The benchmark of training on images: both ways are run, and its record is shown."""

import json
import runpy
import sys

from documents import ROOT

sys.path.append(str(ROOT / "experiments" / "benchmarks"))
import image_step  # noqa: E402

RECORD = ROOT / "experiments" / "results" / "image_step.json"


def test_both_ways_are_timed():
    config = runpy.run_path(str(ROOT / "configs" / "images.py"))["get_config"]("smoke")
    config.teacher.batch_size = 2
    times = image_step.measure(image_step.programs(config, 2), 2, rounds=2)
    assert set(times) == set(image_step.WAYS)
    assert all(len(t) == 2 and min(t) > 0 for t in times.values())


def test_the_table_is_that_of_the_record():
    """No number was typed."""
    table = image_step.render(json.loads(RECORD.read_text()))
    assert table in (ROOT / "experiments" / "results" / "images.md").read_text()


def test_ratios_are_of_rounds():
    record = {"seconds": {"one by one": [1.0, 2.0, 4.0], "in a loop": [3.0, 4.0, 4.0]}}
    assert "| in a loop | 4 [3, 4] | 2 [1, 3] |" in image_step.render(record)
