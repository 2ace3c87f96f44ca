"""Code in README, CONTRIBUTING and docs/: every command and example is run, at small sizes, or says
why it is not and names only what there is.

All pages share one directory, in which a run that a page before has made is found finished.
"""

import json
import os
import re
import runpy
import socket
import subprocess
import sys

import document_files
import documents
import jax
import pytest
from documents import ROOT, TEXT, Block
from small_runs import less_is_compiled, less_is_drawn, run_main, run_record, small

from vdd_jax import stages, tasks
from vdd_jax.baselines import from_scratch
from vdd_jax.config import KEYS

pytest_plugins = "smoke_run"
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections

BLOCKS = [block for page, text in TEXT.items() for block in documents.blocks(text, page)]
BY_PAGE = {page: found for page in TEXT if (found := [b for b in BLOCKS if b.page == page])}
# what is looked at and never run here: the environment and the tests are what this is run in
ONLY_CHECKED = ("pip install", "python -m pytest", "ruff check", "git clone", "cd ")


def run_script(words: list[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(words[0], run_name="__main__")


def run_block(block: Block, names: dict, judged: set[str], monkeypatch, folder) -> None:
    """Raises what goes wrong."""
    if block.language == "python":
        if file := documents.file_name(block):
            assert "/" not in file, "a file of an example stands beside the reader's others"
            (folder / file).write_text(block.text)
        else:
            exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), names)
        return
    for words in documents.commands(block):
        documents.check(words)
        words = [os.path.expandvars(word) for word in words]
        line = " ".join(words)
        if line.startswith("python -m vdd_jax.main "):
            run_main(words[2:], judged)
        elif line.startswith("python -m vdd_jax.tasks.record "):
            run_record(words[2:])
        elif line.startswith("python -m vdd_jax.config_reference"):
            assert words[3:] == [">", "docs/configuration.md"]
        elif re.match(r"python \w+\.py", line):
            run_script(words[1:], monkeypatch)
        else:
            assert line.startswith(ONLY_CHECKED), (
                f"no way to run {line!r} here: add one, or say above the block why it is not run: "
                "<!-- not run: … -->")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all pages are run, as in the root of a clone."""
    made = tmp_path_factory.mktemp("clone")
    for name in ("configs", "experiments", "docs"):
        (made / name).symlink_to(ROOT / name)
    document_files.write(made)
    return made


@pytest.fixture(scope="module")
def judged():
    """Tasks of which a run has been evaluated."""
    return set()


@pytest.fixture
def quick(monkeypatch, folder):
    """In that directory, less is done; what a page adds to tables of the library is undone."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    # a reader's home, and what is recorded for one
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    less_is_compiled(monkeypatch)
    less_is_drawn(monkeypatch)
    run = stages.run  # of a page's own Python
    monkeypatch.setattr(stages, "run", lambda config, *given, **more: run(
        small(config), *given, **more))
    tables = (KEYS, tasks.TASKS, from_scratch.METHODS)
    before = [dict(table) for table in tables]
    yield
    jax.config.update("jax_cpu_enable_async_dispatch", True)  # JAX's default; a page changes it
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.parametrize("page", BY_PAGE)
def test_every_block_runs_or_says_why_not(page, quick, judged, monkeypatch, folder):
    """In the order of the page, whose Python blocks share their names."""
    names = {"__name__": "__main__", **document_files.NAMES.get(page, {})}
    for block in BY_PAGE[page]:
        known = block.language in ("", "text", "bash", "python")
        assert known or block.reason, f"{block}: no way to run {block.language}; say why"
        try:
            if block.language in ("", "text"):
                assert not re.search(r"^(\$|python|pip) ", block.text, re.M), "say ```bash"
            elif not block.reason:
                run_block(block, names, judged, monkeypatch, folder)
            elif block.language == "python":
                documents.check_python(block.text)
            elif block.language == "bash":
                for words in documents.commands(block):
                    documents.check(words)
        except (Exception, SystemExit) as error:
            error.add_note(f"in the block at {block}")
            raise


def test_processes_of_the_document_find_each_other():
    """The command of docs/run_on_a_pod.md, by hand on this machine twice, as it stands but for host
    and port: the processes join, and the first one speaks. What they train is another test's."""
    (words,) = (words for block in BY_PAGE["docs/run_on_a_pod.md"] if "HOST:" in block.text
                for words in documents.commands(block))
    assert words[:3] == ["python", "-m", "vdd_jax.main"] and words[-1] == "--process_id=0"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        here = f"127.0.0.1:{free.getsockname()[1]}"
    words = [word.replace("HOST:1234", here) for word in words[1:-1]]
    running = [subprocess.Popen(
        [sys.executable, *words, f"--process_id={i}", "--print_config"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(2)]
    try:
        said = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said
    first, second = (out[out.find("{"):] if "{" in out else "" for out, _ in said)
    assert json.loads(first)["task"]["name"] == "avoiding" and not second


# ---- that this file can fail


def page_of(text: str) -> list[Block]:
    return documents.blocks(text, "a.md")


def test_blocks_are_found_with_their_reasons():
    """The comment belongs to the block right below it alone."""
    first, second, third = page_of(
        "a\n<!-- not run: no GPU -->\n```bash\nx \\\n  --y  # z\n```\n\n```python\n1\n```\n"
        "* in a list\n\n  ```bash\n  a && b c\n  ```\n")
    assert (first.reason, first.line, documents.commands(first)) == ("no GPU", 4, [["x", "--y"]])
    assert (second.reason, second.language, second.text) == ("", "python", "1\n")
    assert documents.commands(third) == [["a"], ["b", "c"]]


def test_a_block_is_run_where_its_modules_are():
    there, missing = page_of("<!-- needs: json, os -->\n```python\n1\n```\n"
                             "<!-- needs: json, nothing_of_that_name -->\n```python\n1\n```\n")
    assert there.reason == "" and missing.reason == "nothing_of_that_name not installed"


@pytest.mark.parametrize("command", [
    "python -m vdd_jax.main --config=configs/toy.py --workdirs=x",
    "python -m vdd_jax.main --config=configs/toy.py --config.tesk.name=toy",
    "python -m vdd_jax.main --config=configs/nothing.py",
    "python -m vdd_jax.nothing", "pip install 'vdd_jax[nothing]'", "make all",
    "NOTHING=1 experiments/pods/tpu_pod.sh", "python experiments/benchmarks/step.py --nothing=1",
])
def test_a_command_that_names_what_there_is_not_is_refused(command):
    """Whether it is run or not."""
    (block,) = page_of(f"```bash\n{command}\n```\n")
    with pytest.raises(AssertionError):
        for words in documents.commands(block):
            documents.check(words)


def test_a_new_command_is_in_neither_class(monkeypatch, tmp_path):
    """It must get a way to be run, or a reason."""
    (block,) = page_of("```bash\npython experiments/benchmarks/latency.py\n```\n")
    with pytest.raises(AssertionError, match="no way to run"):
        run_block(block, {}, set(), monkeypatch, tmp_path)


def test_code_that_is_not_run_imports_what_exists():
    documents.check_python("from vdd_jax.policy import load\nfrom vdd_jax import distill\nx = y\n")
    with pytest.raises(ImportError):
        documents.check_python("from vdd_jax.policy import lode\n")
