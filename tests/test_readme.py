"""The README's two commands; the rest of it: test_documents.py."""

import re
from pathlib import Path

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
