"""Who may import whom (DESIGN): held by reading the sources, not by running them."""

import ast
import sys
from pathlib import Path

import pytest

import vdd_jax

ROOT = Path(vdd_jax.__file__).parent
REQUIRED = {"absl", "chex", "flax", "jax", "ml_collections", "numpy", "optax", "orbax"}
FILES = sorted(ROOT.rglob("*.py"))
FIGURES = ("vdd_jax.figures", "vdd_jax.figures_avoiding")
STAGES = ("train_teacher", "distill", "evaluate", "baselines")


def module_name(path: Path) -> str:
    parts = ("vdd_jax", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str) -> set[tuple[str, bool]]:
    """Dotted names a source imports, each with whether it does so when it is itself imported.

    `from a import b` counts as `a.b`: b may be a module.
    """
    found = set()

    def visit(node, at_once):
        if isinstance(node, ast.Import):
            found.update((name.name, at_once) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            found.update((f"{node.module}.{name.name}", at_once) for name in node.names)
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, at_once and not inside)

    visit(ast.parse(source), True)
    return found


IMPORTS = {module_name(path): imports(path.read_text()) for path in FILES}


def under(name: str, *prefixes: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


def internal(module: str) -> set[str]:
    """Modules of this library that `module` imports, at once or later."""
    names = set()
    for name, _ in IMPORTS[module]:
        while under(name, "vdd_jax") and name not in IMPORTS:
            name = name.rpartition(".")[0]
        if name in IMPORTS:
            names.add(name)
    return names - {"vdd_jax", module}


def reachable(module: str) -> set[str]:
    seen, todo = set(), [module]
    while todo:
        new = internal(todo.pop()) - seen
        seen |= new
        todo += new
    return seen


def external(module: str, at_once_only=False) -> set[str]:
    """Packages outside this library and the standard library."""
    return {name.split(".")[0] for name, at_once in IMPORTS[module]
            if at_once or not at_once_only} - set(sys.stdlib_module_names) - {"vdd_jax"}


def test_the_reader_sees_every_kind_of_import():
    """Plain, from, aliased, and inside functions, which count as later."""
    source = ("import a.b as c\nfrom d import e\nif x:\n    import f\n"
              "def g():\n    from h.i import j\n")
    assert imports(source) == {("a.b", True), ("d.e", True), ("f", True), ("h.i.j", False)}
    assert internal("vdd_jax.core.mixture") == {"vdd_jax.core.gaussian"}
    assert "vdd_jax.models.moe" in reachable("vdd_jax.distill")
    assert "flax" in external("vdd_jax.models.moe")


CORE = [m for m in IMPORTS if under(m, "vdd_jax.core")]


@pytest.mark.parametrize("module", CORE)
def test_core_is_mathematics_only(module):
    """JAX, NumPy, chex, the standard library and itself."""
    assert external(module) <= {"jax", "numpy", "chex"}
    assert all(under(name, "vdd_jax.core") for name in internal(module))


@pytest.mark.parametrize("package, home", [
    ("flax.linen", ("vdd_jax.models",)),
    ("orbax", ("vdd_jax.checkpoint",)),
    ("matplotlib", FIGURES),
    ("onnx", ("vdd_jax.export_onnx",)),
])
def test_a_package_has_one_home(package, home):
    """Flax layers, checkpoints and plots are each imported in one place, and there they are."""
    users = {m for m, names in IMPORTS.items() if any(under(n, package) for n, _ in names)}
    assert users
    assert all(under(m, *home) for m in users)


LOW = [m for m in IMPORTS if under(m, *(f"vdd_jax.{n}" for n in (
    "tasks", "formats", "data", "checkpoint", "metrics", "loggers", "sharding", "types", "config",
    "core")))]


@pytest.mark.parametrize("module", LOW)
def test_data_and_tools_know_no_models(module):
    """Neither directly nor by way of another module."""
    above = ("models", "teachers", "problem", "policy", "stages", "main", *STAGES)
    assert not {m for m in reachable(module) if under(m, *(f"vdd_jax.{n}" for n in above))}


@pytest.mark.parametrize("module", [m for m in IMPORTS if under(m, "vdd_jax.formats")])
def test_formats_know_no_tasks(module):
    """A reader of files can be used by itself."""
    assert {name.rpartition("vdd_jax.")[2].split(".")[0] for name in reachable(module)} <= {
        "formats", "types"}


@pytest.mark.parametrize("layer, above", [
    ("models", ("teachers", "problem", *STAGES, "policy", "stages", "main")),
    ("teachers", (*STAGES, "policy", "stages", "main")),
    *((stage, ("stages", "main")) for stage in STAGES),
    ("policy", ("stages", "main")),
    ("stages", ("main",)),
])
def test_layers(layer, above):
    """core ← models ← teachers ← train_teacher, distill, baselines, evaluate ← main."""
    for module in (m for m in IMPORTS if under(m, f"vdd_jax.{layer}")):
        assert not {m for m in reachable(module) if under(m, *(f"vdd_jax.{n}" for n in above))}


@pytest.mark.parametrize("module", IMPORTS)
def test_importing_needs_the_base_installation_only(module):
    """What an extra brings (plots, simulators) is imported where it is used; torch where its
    checkpoints are read and nowhere else."""
    allowed = REQUIRED | ({"matplotlib"} if module in FIGURES else set())
    assert external(module, at_once_only=True) <= allowed
    assert "torch" not in external(module) or module == "vdd_jax.torch_checkpoints"


def test_the_numpy_policy_is_a_file_of_its_own():
    """A robot has NumPy and this file."""
    assert external("vdd_jax.numpy_policy") == {"numpy"}
    assert not internal("vdd_jax.numpy_policy")


def test_figures_are_imported_late():
    """Without the plot extra everything else works."""
    users = {(m, at_once) for m, names in IMPORTS.items() if m not in FIGURES
             for name, at_once in names if under(name, *FIGURES)}
    assert users and not any(at_once for _, at_once in users)
