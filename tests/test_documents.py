"""What README, CONTRIBUTING and docs/ name exists: links, keys, tests, functions, messages."""

import ast
import re

import pytest
from documents import PAGES, ROOT, TEXT

from vdd_jax import config_reference
from vdd_jax.config import KEYS


@pytest.mark.parametrize("page", TEXT)
def test_links_lead_somewhere(page):
    """Files and headings of the repository; headings as a viewer of Markdown names them."""
    here = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        path = here / file if file else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
            assert heading in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", TEXT)
def test_configuration_files_and_keys_that_are_named_exist(page):
    """Every `configs/x.py`, `config.key` and, in tables of settings, `group.key`."""
    text = TEXT[page]
    for name in set(re.findall(r"configs/\w+\.py", text)):
        assert (ROOT / name).is_file(), name
    groups = {".".join(k.split(".")[:i]) for k in KEYS for i in range(1, k.count(".") + 1)}
    named = re.findall(r"--config\.([\w.]+)=", text)
    named += re.findall(r"`config\.([\w.]+?)(?:\.\*)?`", text)
    named += [k for k in re.findall(r"`([\w.]+)(?:=[^`]*)?`", text)
              if k.partition(".")[0] in groups and "." in k
              and not k.endswith((".py", ".npz", ".onnx", ".stablehlo"))]
    programs = {f"{path.stem}.{name}" for path in (ROOT / "vdd_jax").glob("*.py")
                for name in re.findall(r"^(?:def )?(\w+)", path.read_text(), re.M)}
    unknown = {k.rstrip(".") for k in named} - set(KEYS) - groups - programs
    assert not unknown


@pytest.mark.parametrize("page", TEXT)
def test_tests_that_are_named_exist(page):
    """`tests/file.py` and `tests/file.py::test`."""
    for file, test in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", TEXT[page]):
        assert (ROOT / file).is_file(), file
        assert not test or re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.M), test


def test_every_difference_names_a_test():
    """Each row of the table of differences."""
    rows = re.findall(r"^\| (?!published|---)(.+) \|$", TEXT["docs/differences.md"], re.M)
    assert len(rows) >= 10
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", row.split(" | ")[-1]), row


@pytest.mark.parametrize("page, begin, least", [
    ("docs/paper_to_code.md", "", 26), ("README.md", "## Equation → function\n", 7)])
def test_the_map_of_equations_names_what_exists(page, begin, least):
    """Files of the package, and functions and classes defined in them; each row has one."""
    text = TEXT[page][TEXT[page].index(begin) + len(begin):]
    text = text.partition("\n## ")[0] if begin else text
    rows = [row for row in re.findall(r"^\|.*\|$", text, re.M)
            if not re.match(r"\|( in the paper| what| \| equation|---)", row)]
    assert len(rows) >= least
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", row)
        assert named, row
        for file, names in named:
            code = (ROOT / "vdd_jax" / file).read_text()
            for name in re.findall(r"\w+", names):
                assert re.search(rf"^ *(def|class) {name}\b", code, re.M), (file, name)


def test_the_page_of_keys_is_the_generated_one():
    """After a change of `config_keys.py`: python -m vdd_jax.config_reference."""
    assert TEXT["docs/configuration.md"] == config_reference.render()


def messages() -> list[str]:
    """Every text in the library's sources; '…' is what is put in."""
    found = []
    for path in (ROOT / "vdd_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            if all(isinstance(p, (ast.FormattedValue, ast.Constant)) for p in parts):
                found.append("".join(
                    p.value if isinstance(getattr(p, "value", None), str) else "…" for p in parts))
    return [re.sub("…+", "…", text) for text in found]


def test_messages_that_are_explained_are_those_of_the_code():
    """Word for word; one that was changed is found here."""
    quoted = re.findall(r"^### `(.+)`$", TEXT["docs/troubleshooting.md"], re.M)
    known = messages()
    assert len(quoted) > 20
    wrong = [message for message in quoted if not any(message in text for text in known)]
    assert not wrong


def test_pages_are_reached_from_the_index():
    """Every page of docs/ is linked there."""
    linked = set(re.findall(r"\]\(([\w.]+\.md)\)", TEXT["docs/index.md"]))
    assert {path.name for path in PAGES if path.parent == ROOT / "docs"} - {"index.md"} <= linked


def test_no_page_holds_a_path_of_a_machine():
    """Nor a place where packages are kept."""
    for page, text in TEXT.items():
        assert not re.search(r"/(home|root|tmp|work)/", text), page
