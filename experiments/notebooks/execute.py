"""Runs notebooks of this directory from top to bottom and keeps their outputs in them.

    python experiments/notebooks/execute.py toy avoiding

What they write goes to a temporary directory. Each has two cores, and how long it took is kept in
its metadata under `executed`. Needs nbclient and ipykernel (the test extra).
"""

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from vdd_jax.config import versions

HERE = Path(__file__).parent


def execute(notebook: nbformat.NotebookNode, folder: Path, timeout: int = 600):
    """Runs `notebook` with `folder` as its working directory; its outputs are then in it, and in
    `metadata["executed"]`:

    `seconds`, from the start of its kernel to the end; `cpu_seconds`, of all cores together;
    `cores` that it had; `load_before`, how many processes wanted one already (above 0 other
    programs ran beside it, and alone it takes less than `seconds`); `versions`; `code`, see
    `fingerprint`.

    Raises:
      nbclient.exceptions.CellExecutionError: when a cell fails.
    """
    load, cpu, start = os.getloadavg()[0], _cpu_seconds_of_children(), time.monotonic()
    NotebookClient(notebook, timeout=timeout, record_timing=False,
                   resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata["executed"] = {
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(_cpu_seconds_of_children() - cpu, 1),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(load, 1),
        "versions": versions(),
        "code": fingerprint(notebook),
    }
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of one machine


def fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Of the code: outputs are those of another notebook when it has changed."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _cpu_seconds_of_children() -> float:
    """Of processes that have ended, as a kernel has when its notebook is done."""
    spent = os.times()
    return spent.children_user + spent.children_system


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    there = sorted(path.stem for path in HERE.glob("*.ipynb"))
    parser.add_argument("names", nargs="+", choices=there)
    names = parser.parse_args().names
    # kernels inherit both: two cores, and a compiler that does not complain on stderr of being slow
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    for name in names:
        notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder), timeout=1_800)
        nbformat.write(notebook, HERE / f"{name}.ipynb")
        print(f"executed {name} in {notebook.metadata['executed']['seconds']} s")


if __name__ == "__main__":
    main()
