"""Notebooks run from top to bottom at small sizes, and are committed as they ran at their own.

The small sizes come in a cell that is put behind the one tagged `parameters`; it also takes out of
the evaluation what takes seconds to compile.
"""

import ast
import base64
import io
import re
import sys
import textwrap

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
        for key, small in (("student.covariance", "diagonal"), ("evaluate.teacher_steps", ()),
                           ("run.steps_per_dispatch", 10), ("distill.reallocations", 0)):
            KEYS[key] = KEYS[key]._replace(default=small)
        from vdd_jax import evaluate_closed_loop, open_loop
        evaluate_closed_loop.latency = lambda *_: {"p50": 0.0, "p99": 0.0}
        open_loop.reference = lambda *_: None
        open_loop.measure = lambda *_, **__: dict.fromkeys(
            ("sliced_wasserstein", "mmd", "std_ratio", "kl_student_teacher", "kl_teacher_student",
             "kl_student_teacher_stderr", "kl_teacher_student_stderr"), 0.0)
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
    small = textwrap.dedent(SMALL[name])
    notebook.cells.insert(parameters(notebook) + 1, nbformat.v4.new_code_cell(small))
    execute.execute(notebook, tmp_path, timeout=300)
    assert pictures(notebook)
    executed = notebook.metadata["executed"]
    assert 0 < executed["seconds"] < 600 and executed["cpu_seconds"] > 0
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
def test_a_notebook_took_less_than_five_minutes(name):
    """As it was executed by `execute.py`, which keeps how long that took: with this code, on two
    cores."""
    notebook = read(name)
    executed = notebook.metadata["executed"]
    assert 0 < executed["seconds"] < 300
    assert executed["cores"] <= 2 and executed["load_before"] >= 0 and executed["versions"]["jax"]
    assert executed["code"] == execute.fingerprint(notebook), "changed since it was executed"


def test_a_fingerprint_is_of_the_code():
    """Not of the text or of outputs."""
    notebook = read("toy")
    before = execute.fingerprint(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
        else:
            cell.source += " and more"
    assert execute.fingerprint(notebook) == before
    notebook.cells[parameters(notebook)].source += "\n"
    assert execute.fingerprint(notebook) != before


def test_the_numbers_of_the_full_settings_are_those_of_the_readme():
    """Of teacher and student, where the notebook says what its small sizes cost."""
    row = re.search(r"`--config=configs/avoiding\.py` \| 3 \| (\.\d+) .*\| (\.\d+) / [.\d]+ \|$",
                    (ROOT / "README.md").read_text(), re.M)
    text = " ".join(cell.source for cell in read("avoiding").cells
                    if cell.cell_type == "markdown").replace("\n", " ")
    assert f"teacher and student reach {row[1]} and {row[2]}, the mean of three seeds" in text


# what a user of the library has in README and docs/: no losses, no networks, no step of training
USED = {"vdd_jax", "vdd_jax.config", "vdd_jax.core.schedules", "vdd_jax.figures",
        "vdd_jax.policy.load", "vdd_jax.stages", "vdd_jax.teachers"}
TOOLS = {"absl.logging", "importlib.util", "IPython.display.Image", "jax", "jax.numpy", "numpy",
         "pathlib.Path", "runpy", "subprocess", "sys"}
# of jax and jax.lax: by which a notebook would train by itself
ALGORITHM = {"grad", "value_and_grad", "jit", "vmap", "scan", "fori_loop", "while_loop"}


def imported(node) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


@pytest.mark.parametrize("name", PATHS)
def test_a_notebook_holds_no_algorithm(name):
    """One call runs the stages. Nothing private, no network layers, losses or loops of training;
    functions stand in one place alone, the teacher that is the user's own."""
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    nodes = list(ast.walk(ast.parse("\n".join(cell.source for cell in cells))))
    names = set().union(*map(imported, nodes))
    assert names <= USED | TOOLS
    attributes = [node.attr for node in nodes if isinstance(node, ast.Attribute)]
    assert not [a for a in attributes if a.startswith("_") and a != "__file__"]
    assert not ALGORITHM & {*attributes}
    calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    assert calls.count("stages.run") == 1
    defining = [cell for cell in cells if any(
        isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.While))
        for node in ast.walk(ast.parse(cell.source)))]
    assert all(cell.metadata.get("tags") == ["teacher"] for cell in defining)
    assert len(defining) == (name == "your_own_teacher")
