"""The README: its two commands, and that what it names exists."""

import re
from pathlib import Path

import pytest

from vdd_jax.config import KEYS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.M | re.S)


def test_the_first_code_block_holds_the_two_commands():
    """One installs and runs the toy, one installs the test extra and passes the tests."""
    lines = [line for line in BLOCKS[0][1].splitlines() if line.strip()]
    run = [line for line in lines if "vdd_jax.main" in line]
    test = [line for line in lines if "pytest" in line]
    assert len(run) == len(test) == 1
    assert "pip install" in run[0] and re.search(r"--config=configs/\w+\.py", run[0])
    assert "pip install" in test[0] and "test]" in test[0]


def test_ci_runs_the_second_command():
    """The command is taken from the README, not copied, into a fresh environment, then ruff."""
    text = (ROOT / ".ci" / "run").read_text()
    extract = re.search(r"sed -n '([^']+)' README.md \| grep -m1 '([^']+)'", text)
    assert extract and extract[2] == "pytest"
    assert 'eval "$command"' in text and "-m venv" in text and "ruff check" in text
    assert text.startswith("#!") and (ROOT / ".ci" / "run").stat().st_mode & 0o100


def test_configuration_files_and_keys_that_are_named_exist():
    """Every `configs/x.py` and every `config.key` of the README."""
    for name in set(re.findall(r"configs/\w+\.py", README)):
        assert (ROOT / name).is_file(), name
    keys = {k.rstrip(".") for k in re.findall(r"--config\.([\w.]+)=", README)}
    keys |= {k.rstrip(".") for k in re.findall(r"`config\.([\w.]+)`", README)}
    groups = {".".join(k.split(".")[:i]) for k in KEYS for i in range(1, k.count(".") + 1)}
    assert keys <= set(KEYS) | groups | {"py", "default"}


@pytest.mark.parametrize("target", sorted({
    t for t in re.findall(r"\]\(([^)#]+)", README) if "://" not in t}) or [""])
def test_links_lead_somewhere(target):
    """Files and figures that are linked are in the repository."""
    assert (ROOT / target).exists()


def test_the_equation_map_names_what_exists():
    """Each row of "Where each equation is": files of the package, and names defined in them."""
    section = README.split("## Where each equation is")[1].split("\n## ")[0]
    named = re.findall(r"`([\w/]+\.py)`(?:: ((?:`\w+`(?:, )?)+))?", section)
    assert len(named) > 15
    for file, names in named:
        text = (ROOT / "vdd_jax" / file).read_text()
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^(def|class) {name}\b|^    def {name}\b", text, re.M), (file, name)
