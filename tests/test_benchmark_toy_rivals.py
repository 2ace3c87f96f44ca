"""The table of the rivals on the toy: what a cell says, and that every method is a valid run."""

import json
import sys

import pytest
from documents import ROOT

from vdd_jax import config as config_lib

sys.path.append(str(ROOT / "experiments" / "benchmarks"))

import toy_rivals  # noqa: E402


def row(seed, **values):
    return {"seed": seed, "modes_found": 8, "modes_total": 8, "std_ratio": 1.0,
            "sliced_wasserstein": 0.2, "floor": 0.1, **values}


def test_a_row_is_the_median_and_range_over_seeds():
    """Ratios to each run's own floor; no KL where a policy has no density."""
    table = toy_rivals.render({
        "em, std 0.15": {"runs": [row(0, kl_teacher_student=1.0, kl_student_teacher=0.5),
                                  row(1, kl_teacher_student=3.0, kl_student_teacher=0.25,
                                      modes_found=6, floor=0.2)]},
        "cd, std 0.5": {"runs": [row(0)]}})
    em, cd = ([cell.strip() for cell in line.split("|")[1:-1]]
              for line in table.splitlines()[2:])
    assert em == ["0.15", "em", "2.000 [1.000, 3.000]", "0.375 [0.250, 0.500]", "7 [6, 8] of 8",
                  "1.50 [1.00, 2.00]", "1.00 [1.00, 1.00]", "2"]
    assert cd[:4] == ["0.5", "cd", "–", "–"] and cd[-1] == "1"


@pytest.mark.parametrize("experts, pacing", [(0, 0), (4, 0.02)])
@pytest.mark.parametrize("method", toy_rivals.METHODS)
def test_every_method_is_a_run(method, experts, pacing):
    """Its keys exist and fit together."""
    config = toy_rivals.get_config("")
    before = config.from_scratch.pacing
    config.update_from_flattened_dict(toy_rivals.keys(method, experts, pacing))
    assert config.student.num_experts == (experts or 8)
    assert config.from_scratch.pacing == (pacing or before)
    config_lib.validate(config)
    assert "evaluate" in config.stages


def test_a_pacing_is_of_imc_alone(monkeypatch, capsys):
    """A row of another method would be named after what it does not use."""
    monkeypatch.setattr(sys, "argv", ["toy_rivals.py", "--methods=imc,em", "--pacing=0.02"])
    with pytest.raises(SystemExit):
        toy_rivals.main()
    assert "--pacing is of imc alone" in capsys.readouterr().err


def test_the_table_is_that_of_the_record():
    """No number was typed."""
    results = ROOT / "experiments" / "results"
    table = toy_rivals.render(json.loads((results / "toy_rivals.json").read_text()))
    assert f"<!-- toy rivals -->\n{table}\n<!-- end" in (results / "toy_rivals.md").read_text()
