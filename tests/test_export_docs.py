"""docs/export.md: its snippets run in order, its commands are those of the library."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from vdd_jax import export

pytest_plugins = "smoke_run"

PAGE = Path(__file__).parents[1] / "docs" / "export.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def test_the_snippets_run_one_after_the_other(finished_avoiding, tmp_path, monkeypatch):
    """In a directory with the three files, and a run."""
    for package in ("onnx", "onnxruntime", "flatbuffers"):
        pytest.importorskip(package)
    shutil.copytree(finished_avoiding.workdir, tmp_path / "runs" / "avoiding")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numpy_policy", raising=False)
    for form, out in re.findall(r"--format=(\w+) --out=robot/(\S+)", PAGE.read_text()):
        export.main(["--workdir=runs/avoiding", f"--format={form}", f"--out={out}"])
    names = {}
    for language, text in BLOCKS:
        if language == "python":
            exec(compile(text, str(PAGE), "exec"), names)
    assert names["action"].shape == (2,)
    assert names["q"]["means"].shape == (1, 2, 2)
    monkeypatch.delitem(sys.modules, "numpy_policy", raising=False)


def test_files_that_are_named_exist():
    root = PAGE.parents[1]
    for name in re.findall(r"`((?:experiments|vdd_jax)/[\w/]+\.py)`", PAGE.read_text()):
        assert (root / name).is_file(), name
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / link).exists(), link
