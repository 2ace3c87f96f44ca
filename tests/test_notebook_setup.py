"""The first cell of the notebooks: nothing where vdd_jax imports, else from a clone nearby or one
that it makes. Its source is executed in an empty directory; commands are kept, not run."""

import importlib.util
import re
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import nbformat
import pytest
from documents import ROOT

PATHS = {path.stem: path for path in sorted((ROOT / "experiments/notebooks").glob("*.ipynb"))}
INSTALL = [sys.executable, "-m", "pip", "install", "-q", "-e", ".[plot]"]
MISSING = None
A_FOLDER = ModuleSpec("vdd_jax", None, is_package=True)  # what Python finds where a clone lies
INSTALLED = ModuleSpec("vdd_jax", None, origin="somewhere/vdd_jax/__init__.py", is_package=True)


def first_cell(name):
    return nbformat.read(PATHS[name], as_version=4).cells[0]


def make_clone(place: Path) -> Path:
    (place / "vdd_jax").mkdir(parents=True)
    (place / "vdd_jax" / "main.py").touch()
    return place


@pytest.fixture
def run_cell(tmp_path, monkeypatch):
    """`run_cell(spec, source, within)` → the commands that the cell gave, each with the directory
    it was to run in; `within` is where the notebook is."""
    def run(spec=MISSING, source="", within="."):
        commands = []

        def command(words, cwd=None, check=False):
            assert check  # a command that fails ends the cell
            commands.append((list(words), cwd and Path(cwd).resolve()))
            if words[0] == "git":
                make_clone(Path(words[-1]))

        monkeypatch.setattr(subprocess, "run", command)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        monkeypatch.setattr(sys, "path", list(sys.path))
        (tmp_path / within).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / within)
        code, changed = re.subn(r'^SOURCE = ".*?"', f"SOURCE = {source!r}",
                                first_cell("toy").source, flags=re.M)
        assert changed == 1
        exec(compile(code, "first cell", "exec"), {})
        return commands

    return run


@pytest.mark.parametrize("name", PATHS)
def test_the_first_cell_sets_up_and_is_the_same_in_all(name):
    """The very first; whose repository has no address yet, so that none is written down."""
    cell = first_cell(name)
    assert cell.cell_type == "code" and cell.metadata["tags"] == ["install"]
    assert cell.source == first_cell("toy").source
    assert "://" not in cell.source


def test_where_vdd_jax_imports_nothing_happens(run_cell, tmp_path):
    before = list(sys.path)
    make_clone(tmp_path / "near")
    assert run_cell(INSTALLED, source="elsewhere") == []
    assert sys.path == before


@pytest.mark.parametrize("spec", [MISSING, A_FOLDER])
@pytest.mark.parametrize("clone, within", [
    ("vdd_jax", "."), (".", "."), ("clone", "clone/experiments/notebooks")])
def test_a_clone_at_hand_is_installed(run_cell, tmp_path, spec, clone, within):
    """In the notebook's directory, that directory itself, or one above; whatever SOURCE says. Of a
    folder named vdd_jax Python says that there is such a module."""
    place = make_clone(tmp_path / clone)
    assert run_cell(spec, "elsewhere", within) == [(INSTALL, place)]
    assert Path(sys.path[0]).resolve() == place


@pytest.mark.parametrize("spec", [MISSING, A_FOLDER])
def test_a_fresh_machine_clones_the_source(run_cell, tmp_path, spec):
    """Then installs it; run again, it does not clone a second time."""
    clone = tmp_path / "vdd_jax"
    cloned = (["git", "clone", "-q", "some/path or address", str(clone)], None)
    assert run_cell(spec, "some/path or address") == [cloned, (INSTALL, clone)]
    assert Path(sys.path[0]) == clone
    assert run_cell(spec, "some/path or address") == [(INSTALL, clone)]


def test_a_fresh_machine_without_a_source_is_told_what_is_missing(run_cell, tmp_path):
    """One sentence, and nothing is done."""
    with pytest.raises(SystemExit, match="the address or the path of the repository into SOURCE"):
        run_cell()
    assert not any(tmp_path.iterdir())


def test_no_version_is_pinned():
    """What a machine has, as Colab its JAX, stays if it is new enough."""
    text = (ROOT / "setup.py").read_text()
    base = re.findall(r'"(.+)"', re.search(r"install_requires=\[(.*?)\]", text, re.S)[1])
    plot = re.findall(r'"(.+?)"', re.search(r"^PLOT = (.*)$", text, re.M)[1])
    assert any(line.startswith("jax>=") for line in base) and plot
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", line) for line in base + plot)


def test_a_folder_of_that_name_has_no_origin(tmp_path, monkeypatch):
    """What Python really says of it, on which the cell relies."""
    (tmp_path / "a_clone").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    found = importlib.util.find_spec("a_clone")
    assert found is not None and found.origin is None
