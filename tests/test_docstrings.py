"""Examples in docstrings (`>>>`) say what happens."""

import doctest
import importlib

import pytest
from documents import ROOT

FILES = [path for path in sorted((ROOT / "vdd_jax").rglob("*.py")) if ">>>" in path.read_text()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_of_a_module(path):
    """Each of them."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    found = doctest.testmod(importlib.import_module(name), verbose=False)
    assert found.attempted and not found.failed


def test_central_modules_have_examples():
    """The first things that a user of the mathematics or of a policy looks for."""
    names = {str(path.relative_to(ROOT / "vdd_jax")) for path in FILES}
    assert {"core/mixture.py", "core/gaussian.py", "core/schedules.py", "policy.py"} <= names
