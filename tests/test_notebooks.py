"""Notebooks run from top to bottom at small sizes, and are committed as they ran at their own.

The small sizes come in a cell that is put behind the one tagged `parameters`; it also takes out of
the evaluation what takes seconds to compile.
"""

import ast
import base64
import io
import re
import sys

import matplotlib.image
import nbformat
import pytest
from documents import ROOT
from PIL import Image

sys.path.append(str(ROOT / "experiments" / "notebooks"))
import execute  # noqa: E402

pytest_plugins = "smoke_run"

SMALL = {
    "toy": """
        config.task.num_demonstrations = 200
        config.distill.update(num_iterations=20, batch_size=8, reallocations=0)
        config.student.update(covariance="diagonal", gating="uniform", trunk_depth=0)
        config.evaluate.num_samples = 200
        config.run.update(steps_per_dispatch=10, log_every=10, num_snapshots=3)
        from vdd_jax import open_loop
        open_loop.measure = lambda *_, **__: {"sliced_wasserstein": 0.0}
    """,
    "avoiding": """
        config = runpy.run_path(str(configs / "avoiding.py"))["get_config"]("smoke")
        config.distill.warm_start = 1.0
        config.distill.reallocations = 0
        config.student.covariance = "diagonal"
        config.policy.min_weight = 0.0
        config.evaluate.num_episodes = 4
        from vdd_jax import evaluate_closed_loop, open_loop
        ways_of = evaluate_closed_loop.ways_of
        evaluate_closed_loop.ways_of = lambda *given: dict(list(ways_of(*given).items())[:1])
        evaluate_closed_loop.latency = lambda *_: {"p50": 0.0, "p99": 0.0}
        open_loop.reference = lambda *_: None
        open_loop.measure = lambda *_, **__: dict.fromkeys(
        ("sliced_wasserstein", "mmd", "std_ratio"), 0.0)
    """,
    "your_own_teacher": """
        num_iterations, num_experts = 20, 2
        from vdd_jax.config import KEYS
        KEYS["student.covariance"] = KEYS["student.covariance"]._replace(default="diagonal")
    """,
}
PATHS = {path.stem: path for path in sorted(execute.HERE.glob("*.ipynb"))}


def read(name):
    return nbformat.read(PATHS[name], as_version=4)


def parameters(notebook) -> int:
    """Index of the cell with the sizes."""
    (index,) = (i for i, cell in enumerate(notebook.cells)
                if "parameters" in cell.metadata.get("tags", ()))
    return index


def test_every_notebook_has_small_sizes():
    assert set(PATHS) == set(SMALL)


@pytest.mark.parametrize("name", PATHS)
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    """In an empty directory; what follows the sizes shows at least a picture."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = read(name)
    small = "\n".join(line.strip() for line in SMALL[name].splitlines())
    notebook.cells.insert(parameters(notebook) + 1, nbformat.v4.new_code_cell(small))
    execute.execute(notebook, tmp_path, timeout=300)
    assert pictures(notebook)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code"
            for output in cell.outputs]


def pictures(notebook) -> list[bytes]:
    return [base64.b64decode(data) for output in outputs(notebook)
            for kind, data in output.get("data", {}).items() if kind.startswith("image/")]


@pytest.mark.parametrize("name", PATHS)
def test_a_notebook_is_committed_as_it_ran(name):
    """Every code cell was executed, in order; no errors, nothing on stderr, pictures that show
    something, no path of a machine, not too large for a repository."""
    notebook = read(name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(o.output_type == "error" or o.get("name") == "stderr"
                   for o in outputs(notebook))
    shown = pictures(notebook)
    assert shown
    for picture in shown:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        file = io.BytesIO()
        image.save(file, "png")
        file.seek(0)
        assert min(image.size) > 100 and matplotlib.image.imread(file).std() > 0.02
    text = PATHS[name].read_text()
    assert not re.search(r"/(home|root|tmp|work|usr)/", text) and len(text) < 2_000_000


@pytest.mark.parametrize("name", PATHS)
def test_a_notebook_installs_what_it_needs(name):
    """The first code cell is the same in all: from a clone, and only where it is missing."""
    first = next(cell for cell in read(name).cells if cell.cell_type == "code")
    assert first.source == next(
        cell for cell in read("toy").cells if cell.cell_type == "code").source
    assert 'find_spec("vdd_jax") is None' in first.source and '".[plot]"' in first.source


@pytest.mark.parametrize("name", PATHS)
def test_a_notebook_imports_what_a_user_does(name):
    """The library, JAX, NumPy, and what shows pictures: nothing private, no network layers of its
    own."""
    source = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code")
    roots = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr == "__file__"
    assert roots <= {"vdd_jax", "jax", "numpy", "absl", "IPython", "runpy", "pathlib", "importlib",
                     "subprocess", "sys"}
