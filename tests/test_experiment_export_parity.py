"""The record of how exact exported files are: of runs, by format and inputs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from vdd_jax import export, export_parity

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
import export_parity as experiment  # noqa: E402

pytest_plugins = "smoke_run"


def test_a_record_is_the_largest_of_all_runs(finished_avoiding, tmp_path, monkeypatch, capsys):
    """A file that is off is told, not refused; other names in the JSON stay."""
    read, off = export.FORMATS["numpy"].read, []

    def broken(file):
        call = read(file)
        return lambda given: {k: v + np.float32(off[0]) if k == "means" else v
                              for k, v in call(given).items()}

    monkeypatch.setitem(export.FORMATS, "numpy", export.FORMATS["numpy"]._replace(read=broken))
    out = tmp_path / "parity.json"
    out.write_text('{"other": 1}')
    for value in (0.0, 0.1):
        off[:] = [value]
        experiment.main([f"--workdirs={finished_avoiding.workdir}", "--formats=numpy",
                         f"--out={out}", f"--name={value}"])
    kept = json.loads(out.read_text())
    assert kept["other"] == 1 and {*kept} == {"other", "0.0", "0.1"}
    inputs = list(kept["0.1"]["largest"])
    assert inputs == ["random inputs", "inputs of the report's episodes"]
    for name in inputs:
        right, wrong = (kept[key]["largest"][name] for key in ("0.0", "0.1"))
        assert {*right} == {*export_parity.COMPARED}
        assert max(right.values()) <= 1e-5 and wrong["means"] > 1e-3
        assert wrong["weights"] == right["weights"]
    both = [of["means"] for of in kept["0.1"]["largest"].values()]
    assert f"| means | {both[0]:.1e} | {both[1]:.1e} |" in capsys.readouterr().out


def test_over_runs_the_larger_counts():
    runs = [{"differences": {"a": {"means": 1.0, "weights": 3.0}}},
            {"differences": {"a": {"means": 2.0, "weights": 1.0}, "b": {"means": 5.0}}}]
    assert experiment.largest(runs) == {"a": {"means": 2.0, "weights": 3.0}, "b": {"means": 5.0}}


@pytest.mark.parametrize("arguments, words", [
    (["--workdirs=nowhere"], "nowhere holds no student"),
    (["--workdirs=nowhere", "--formats=tflite"], "'tflite'; there are stablehlo, onnx, numpy"),
])
def test_what_cannot_be_compared_is_told(arguments, words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        experiment.main([*arguments, "--name=a", f"--out={tmp_path / 'a.json'}"])
    assert words in capsys.readouterr().err and not list(tmp_path.iterdir())
