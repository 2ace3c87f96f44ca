"""The table of the toy in experiments/results is what the benchmark makes of its JSON."""

import json
import sys

from documents import ROOT

sys.path.append(str(ROOT / "experiments" / "benchmarks"))
import toy  # noqa: E402


def test_the_table_is_that_of_the_record():
    """No number was typed."""
    results = ROOT / "experiments" / "results"
    table = toy.render(json.loads((results / "toy.json").read_text()))
    written = (results / "toy.md").read_text()
    assert table.count("\n") > 10 and f"<!-- toy results -->\n{table}\n<!-- end" in written
