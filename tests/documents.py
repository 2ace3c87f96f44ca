"""Code in Markdown: its blocks, the commands of a shell block, and whether what they name exists.

A block that is not to be run has a comment on the line above it that says why:

    <!-- not run: needs a GPU -->

or names the modules without which it is not:

    <!-- needs: onnx, onnxruntime -->

A Python block whose first line is a comment with the name of a file, `# my_task.py`, is that file.
"""

import ast
import importlib.util
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from vdd_jax.config import KEYS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}
_FENCE = re.compile(
    r"(?:^ *<!-- (?P<kind>not run|needs): (?P<said>[^>]*?) *-->\n)?"
    r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S)
_PLACEHOLDER = re.compile(r"…|[<>]|\b[A-Z][A-Z_]+\b")  # DIR, FILE: for the reader to fill in


class Block(NamedTuple):
    page: str
    line: int  # of its first line in the page
    language: str  # '' is what a program prints
    text: str
    reason: str  # why it is not run; '': it is

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks(text: str, page: str = "") -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        inside = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.M)
        reason, said = "", match["said"] or ""
        if match["kind"] == "not run":
            reason = said
        elif missing := [m for m in re.split(", *", said) if m and not importlib.util.find_spec(m)]:
            reason = f"{', '.join(missing)} not installed"
        found.append(Block(page, line, match["language"], inside, reason))
    return found


def file_name(block: Block) -> str:
    """The file that a Python block is; '' where it is none."""
    named = re.match(r"# ([\w/]+\.py)\n", block.text)
    return named[1] if block.language == "python" and named else ""


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a shell block; `a && b` are two."""
    text = block.text.replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            found.append(words[: words.index("&&")])
            words = words[words.index("&&") + 1:]
        found.append(words)
    return [words for words in found if words]


def check(words: list[str]) -> None:
    """That a command names programs, files, flags and keys that there are.

    Raises:
      AssertionError: saying what there is not.
    """
    words = list(words)
    given = []
    while re.match(r"\w+=", words[0]):
        given.append(words.pop(0).partition("=")[0])
    program, rest = words[0], words[1:]
    if program in ("python", "python3"):
        source = _module(rest[1]) if rest[0] == "-m" else ROOT / rest[0]
        _check_flags(source, rest)
    elif program == "pip":
        _check_extras(rest)
    elif program.endswith(".sh"):
        _check_flags(ROOT / program, rest)
        for name in given:
            assert name in (ROOT / program).read_text(), f"{program} knows no {name}"
    else:
        assert program in ("git", "cd", "ruff", "kubectl", "sbatch", "srun", "jupyter"), (
            f"no way to check {' '.join(words)}")
    for word in rest:
        path = word.partition("=")[2] if word.startswith("-") else word
        path = path.partition(":")[0]
        if re.match(r"(configs|docs|experiments|tests|vdd_jax)/", path):
            assert _PLACEHOLDER.search(path) or (ROOT / path).exists(), f"there is no {path}"


def _module(name: str) -> Path | None:
    if not name.startswith("vdd_jax"):
        return None  # pytest and its like
    return ROOT / (name.replace(".", "/") + ".py")


def _check_flags(source: Path | None, words: list[str]) -> None:
    if source is None:
        return
    assert source.is_file(), f"there is no {source.relative_to(ROOT)}"
    siblings = source.parent.glob("*.py") if source.parent != ROOT / "vdd_jax" else [source]
    text = "".join(path.read_text() for path in {source, *siblings})
    for word in words:
        name = re.match(r"--([\w.]+)", word)
        if not name:
            continue
        if name[1].startswith("config."):
            assert name[1][len("config."):] in KEYS, f"there is no key {name[1]}"
        else:
            flag = rf'"--{name[1]}"|DEFINE_\w+\(\s*"{name[1]}"'
            assert re.search(flag, text), f"{source.name} has no --{name[1]}"


def _check_extras(words: list[str]) -> None:
    defined = (ROOT / "setup.py").read_text().split("extras_require", 1)[1]
    for word in words:
        if named := re.fullmatch(r"(?:\.|vdd_jax)\[([\w,]+)\]", word):
            for extra in named[1].split(","):
                assert f'"{extra}":' in defined, f"there is no extra {extra}"


def check_python(text: str) -> None:
    """That code compiles and that what it imports from this library exists."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vdd_jax":
            module = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
