"""docs/export.md: its commands run as they stand, and its snippets in their order."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec

import documents
import pytest

from vdd_jax import export

sys.path.append(str(documents.ROOT / "experiments" / "benchmarks"))
import actions  # noqa: E402

pytest_plugins = "smoke_run"

PAGE = documents.ROOT / "docs" / "export.md"
BLOCKS = documents.blocks(documents.TEXT["docs/export.md"], "docs/export.md")
COMMANDS = [words for block in BLOCKS if block.language == "bash"
            for words in documents.commands(block)]
TINY = ("observation_dim=5,action_dim=3,window=3,goal_length=2,experts=2,teacher_width=8,"
        "teacher_depth=1,teacher_heads=2,student_width=8,student_depth=1,student_heads=2,"
        "head_width=6,gating_width=7,gating_depth=1")


def test_commands_and_snippets_run_one_after_the_other(finished_avoiding, tmp_path, monkeypatch):
    """In a directory with a run; the files are copied to where the snippets are."""
    for package in ("onnx", "onnxruntime", "flatbuffers"):
        pytest.importorskip(package)
    shutil.copytree(finished_avoiding.workdir, tmp_path / "runs" / "avoiding")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numpy_policy", raising=False)
    exports = [words[3:] for words in COMMANDS if words[1:3] == ["-m", "vdd_jax.export"]]
    assert len(exports) == 3
    for words in exports:
        export.main(words)
    shutil.copytree("robot", ".", dirs_exist_ok=True)
    names = {}
    for block in BLOCKS:
        if block.language == "python":
            exec(compile(block.text, str(PAGE), "exec"), names)
    assert names["action"].shape == (2,)
    assert names["q"]["means"].shape == (1, 2, 2)
    monkeypatch.delitem(sys.modules, "numpy_policy", raising=False)


def test_the_benchmark_runs(tmp_path):
    """The command as it stands, behind it tiny networks, one batch size and few calls; PyTorch's
    rows where it is installed."""
    for package in ("onnx", "onnxruntime", "flatbuffers"):
        pytest.importorskip(package)
    (words,) = (words for words in COMMANDS if "experiments/benchmarks/actions.py" in words)
    assert words[0] == "python" and actions.parse(words[2:]).batches == [1, 256]
    (rows,) = (word.partition("=")[2] for word in words if word.startswith("--rows="))
    rows = [row for row in rows.split(",") if "torch" not in row or find_spec("torch")]
    out = tmp_path / "actions.json"
    command = [sys.executable, *words[1:], f"--rows={','.join(rows)}", f"--sizes={TINY}",
               "--batches=2", "--rounds=1", "--each=3", f"--out={out}"]
    ran = subprocess.run(command, cwd=documents.ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(out.read_text())["batches"]["2"]
    assert list(found) == rows and all(row["calls"] == 3 for row in found.values())


def test_files_that_are_named_exist():
    root = PAGE.parents[1]
    for name in re.findall(r"`((?:experiments|vdd_jax)/[\w/]+\.py)`", PAGE.read_text()):
        assert (root / name).is_file(), name
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / link).exists(), link
