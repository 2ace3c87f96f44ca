"""Code in README, CONTRIBUTING and docs/: every command and example is run, at small sizes, or says
why it is not and names only what there is.

All pages share one directory, in which a run that a page before has made is found finished.
"""

import re
import runpy
import sys

import documents
import jax
import pytest
from absl import flags
from documents import ROOT, TEXT, Block
from ml_collections import ConfigDict, config_flags

from vdd_jax import config as config_lib
from vdd_jax import evaluate_closed_loop, open_loop, stages, tasks
from vdd_jax.baselines import from_scratch
from vdd_jax.config import KEYS

pytest_plugins = "smoke_run"
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections

BLOCKS = [block for page, text in TEXT.items() for block in documents.blocks(text, page)]
BY_PAGE = {page: found for page in TEXT if (found := [b for b in BLOCKS if b.page == page])}
# what is looked at and never run here: the environment and the tests are what this is run in
ONLY_CHECKED = ("pip install", "python -m pytest", "ruff check", "git clone", "cd ")


def small(config: ConfigDict) -> ConfigDict:
    """The same stages, task, teacher and kind of student, with which nothing is learned. What
    compiles slowly is left out, and sizes are equal: runs of a task then share most programs."""
    config = config_lib.from_json(config_lib.to_json(config))
    config.task.update(num_demonstrations=200, episodes_per_mode=1)
    config.teacher.update(
        width=16, depth=1, encoder_depth=1, fourier=1, heads=2, num_iterations=20, batch_size=16,
        warmup=2, check_every=10)
    config.student.update(
        num_experts=2, covariance="diagonal", trunk_width=16,
        trunk_depth=min(config.student.trunk_depth, 1), head_width=8, gating_width=8,
        gating_depth=1, fourier=1, heads=2)
    for stage in ("distill", "from_scratch", "consistency"):
        config[stage].update(num_iterations=20, batch_size=8)
    config.distill.update(teacher_actions=1_000, warm_batch_size=8, reallocations=0,
                          warm_start=float(config.distill.warm_start > 0))
    config.consistency.update(num_scales=4, teacher_actions=1_000)
    config.policy.min_weight = 0.0
    config.evaluate.update(num_samples=200, num_observations=8, num_episodes=4, teacher_steps=())
    config.run.update(steps_per_dispatch=10, log_every=10, checkpoint_every=20, num_snapshots=0,
                      figures=False)
    return config


def run_main(words: list[str], judged: set[str]) -> None:
    """`python -m vdd_jax.main …` as `main.py` understands it; the configuration is valid at its
    own sizes and runs at small ones. Of the runs of a task the first is evaluated; `judged` are the
    tasks of which there has been one."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    for name in ("print_config", "overwrite"):
        flags.DEFINE_bool(name, False, "", flag_values=values)
    assert values(words) == words[:1]
    config_lib.validate(values.config)
    if not values.print_config:
        file, _, variant = values["config"].config_filename.partition(":")
        name = file.rpartition("/")[2].removesuffix(".py") + (f"_{variant}" if variant else "")
        config = small(values.config)
        if config.task.name in judged:
            config.stages = tuple(s for s in config.stages if s != "evaluate")
        stages.run(config, values.workdir or f"runs/{name}", values.overwrite)
        if "evaluate" in config.stages:
            judged.add(config.task.name)


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
        line = " ".join(words)
        if line.startswith("python -m vdd_jax.main "):
            run_main(words[2:], judged)
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
    return made


@pytest.fixture(scope="module")
def judged():
    """Tasks of which a run has been evaluated."""
    return set()


@pytest.fixture
def quick(monkeypatch, folder):
    """In that directory; what a page adds to tables of the library is undone."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    # what takes seconds to compile and none of a page's own code
    ways_of = evaluate_closed_loop.ways_of
    monkeypatch.setattr(evaluate_closed_loop, "ways_of",
                        lambda *given: dict(list(ways_of(*given).items())[:1]))
    monkeypatch.setattr(evaluate_closed_loop, "latency", lambda *_: {"p50": 0.0, "p99": 0.0})
    monkeypatch.setattr(open_loop, "reference", lambda *_: None)
    monkeypatch.setattr(open_loop, "measure", lambda *_, **__: dict.fromkeys(
        ("sliced_wasserstein", "mmd", "std_ratio"), 0.0))
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
    names = {"__name__": "__main__"}
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
