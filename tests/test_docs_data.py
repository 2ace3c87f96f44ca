"""docs/data.md and docs/teachers.md: keys, formats, schedules and files that they name exist."""

import ast
import re
from pathlib import Path

import pytest

from vdd_jax.config import KEYS
from vdd_jax.core import schedules
from vdd_jax.formats import FORMATS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {name: (DOCS / name).read_text() for name in ("data.md", "teachers.md")}


@pytest.mark.parametrize("page", PAGES)
def test_keys_and_links_exist(page):
    text = PAGES[page]
    keys = {k.rstrip(".") for k in re.findall(r"config\.([a-z_]+(?:\.[a-z_]+)+)", text)}
    groups = {".".join(k.split(".")[:i]) for k in KEYS for i in range(1, k.count(".") + 1)}
    assert keys and keys <= set(KEYS) | groups | {"task.update", "distill.noise.update"}
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (DOCS / target).exists(), target
    for file in re.findall(r"(?:configs|experiments)/[\w/]+\.py", text):
        assert (DOCS.parent / file).is_file(), file


@pytest.mark.parametrize("page", PAGES)
def test_code_is_python(page):
    """And what it imports from here is here."""
    for code in re.findall(r"^```python\n(.*?)^```", PAGES[page], flags=re.M | re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                exec(f"from {node.module} import {', '.join(n.name for n in node.names)}", {})


def test_every_format_is_described():
    section = PAGES["data.md"].split("## Formats")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ", section, flags=re.M)
    assert set(rows) == set(FORMATS)


def test_every_schedule_is_described():
    for name in ("ve", "vp_cosine", "vp_linear", "vp_discrete", "flow"):
        assert callable(getattr(schedules, name)) and f"`{name}(" in PAGES["teachers.md"]
    for kind in schedules.PREDICTIONS:
        assert f"`'{kind}'`" in PAGES["teachers.md"]
