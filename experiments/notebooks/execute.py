"""Runs notebooks of this directory from top to bottom and keeps their outputs in them.

    python experiments/notebooks/execute.py toy avoiding

What they write goes to a temporary directory. Needs nbclient and ipykernel (the test extra).
"""

import argparse
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def execute(notebook: nbformat.NotebookNode, folder: Path, timeout: int = 600):
    """Runs `notebook` with `folder` as its working directory; its outputs are then in it.

    Raises:
      nbclient.exceptions.CellExecutionError: when a cell fails.
    """
    NotebookClient(notebook, timeout=timeout, record_timing=False,
                   resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of one machine


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    there = sorted(path.stem for path in HERE.glob("*.ipynb"))
    parser.add_argument("names", nargs="+", choices=there)
    for name in parser.parse_args().names:
        notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        nbformat.write(notebook, HERE / f"{name}.ipynb")
        print(f"executed {name}")


if __name__ == "__main__":
    main()
