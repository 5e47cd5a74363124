"""The floors of the house: a module imports from its own floor and those below it, never from one above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hessgnn

PACKAGE = Path(hessgnn.__file__).parent

FLOORS = {
    "hessgnn.runtime.allocator": 1,
    "hessgnn.runtime.blas": 1,
    "hessgnn.runtime.openmp": 1,
    "hessgnn.runtime.config": 1,
    "hessgnn.errors": 1,
    "hessgnn.runtime.extras": 1,
    "hessgnn.runtime.files": 1,
    "hessgnn.runtime.imports": 1,
    "hessgnn.runtime.progress": 1,
    "hessgnn.runtime.processes": 1,
    "hessgnn.units": 1,
    "hessgnn.data": 2,
    "hessgnn.potentials": 2,
    "hessgnn.curvature": 3,
    "hessgnn.testing": 3,
    "hessgnn.factory": 4,
    "hessgnn.training": 4,
    "hessgnn.surface.calculator": 4,
    "hessgnn.benchmark": 5,
    "hessgnn_bench": 5,
    "hessgnn.jobs": 6,
    "hessgnn.leaderboard": 6,
    "hessgnn.sweep": 6,
    "hessgnn.study": 6,
    "hessgnn.cli": 7,
}
"""The longest name that a module begins with counts."""

LATE = {
    ("hessgnn.potentials.base", "hessgnn.curvature.hessian"),
    ("hessgnn.potentials.base", "hessgnn.curvature.products"),
}
"""Imports inside a function that go up a floor: the base class's thin methods over the call."""

EXEMPT = {"hessgnn", "hessgnn.__main__", "hessgnn.sweep.__main__"}
"""The public names, and the two entries of the command line."""

LONGEST = 450


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def floor(module: str) -> int:
    parts = module.split(".")
    for length in range(len(parts), 1, -1):
        if (name := ".".join(parts[:length])) in FLOORS:
            return FLOORS[name]
    raise AssertionError(f"{module} stands on no floor: give it one in FLOORS")


def imported(node: ast.AST) -> Iterator[str]:
    """Modules of the package that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "hessgnn")
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide where they lead"
        base = node.module or ""
        if base.split(".")[0] == "hessgnn":
            for alias in node.names:  # `from package import module` and `from module import name`
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def imports_of(source: str) -> tuple[set[str], set[str]]:
    """Imports when the module is loaded, and those that wait for a function to be called."""
    at_once, late = set(), set()

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child, inside)
            return
        (late if inside else at_once).update(imported(node))
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return at_once, late


IMPORTS = {name: imports_of(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def test_the_parser_tells_imports_apart() -> None:
    """Else the tests below could pass without looking."""
    source = """
from typing import TYPE_CHECKING
import hessgnn.errors
from hessgnn import units as u
from hessgnn.data.batch import Batch
import torch
if TYPE_CHECKING:
    from hessgnn.cli import app
else:
    import hessgnn.runtime.files
try:
    import hessgnn.runtime.config
except ImportError:
    pass
class A:
    from hessgnn.training import run
def f():
    from hessgnn.sweep.sweep import sweep
    class B:
        import hessgnn.benchmark
"""
    at_once, late = imports_of(source)
    assert at_once == {f"hessgnn.{n}" for n in ("errors", "units", "data.batch", "files", "config", "training.run")}
    assert late == {"hessgnn.sweep.sweep", "hessgnn.benchmark"}
    assert len(MODULES) > 50
    assert sum(len(at_once) for at_once, _ in IMPORTS.values()) > 150


@pytest.mark.parametrize("name", [name for name in MODULES if name not in EXEMPT])
def test_a_module_imports_from_no_floor_above_its_own(name: str) -> None:
    above = {other for other in IMPORTS[name][0] if floor(other) > floor(name)}
    assert above == set(), f"floor {floor(name)} imports from above"


def test_late_imports_that_go_up_are_the_known_ones() -> None:
    found = {
        (name, other)
        for name, (_, late) in IMPORTS.items()
        for other in late
        if name not in EXEMPT and floor(other) > floor(name)
    }
    assert found == LATE


def test_curvature_knows_nothing_of_training() -> None:
    for name, (at_once, late) in IMPORTS.items():
        if name.startswith("hessgnn.curvature"):
            assert not [other for other in at_once | late if other.startswith("hessgnn.training")], name


def test_only_entries_import_the_command_line() -> None:
    found = {
        name
        for name, (at_once, late) in IMPORTS.items()
        if not name.startswith("hessgnn.cli") and any(other.startswith("hessgnn.cli") for other in at_once | late)
    }
    assert found == {"hessgnn.__main__", "hessgnn.sweep.__main__"}


def test_the_shipped_contract_needs_no_pytest_plugin_of_ours() -> None:
    for name, (at_once, late) in IMPORTS.items():
        if name.startswith("hessgnn.testing"):
            assert not [other for other in at_once | late if floor(other) > 3], name


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_about_one_thing(name: str) -> None:
    lines = MODULES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST, f"{lines} lines are usually two things"
