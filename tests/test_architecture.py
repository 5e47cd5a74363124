"""The rooms of the house: a package imports only from packages below it, and no files import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import hessgnn_bench
import pytest

import hessgnn

ROOTS = (Path(hessgnn.__file__).parent, Path(hessgnn_bench.__file__).parent)
LONGEST = 450
ROOMS, FLOORS = 20, 12
"""More than these and the house has to be thought over."""


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path, root): path for root in ROOTS for path in sorted(root.rglob("*.py"))}


def imported(node: ast.AST) -> Iterator[str]:
    """Modules of the project that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in MODULES)
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide where they lead"
        for alias in node.names:  # `from package import module` and `from module import name`
            full = f"{node.module}.{alias.name}"
            if full in MODULES or node.module in MODULES:
                yield full if full in MODULES else str(node.module)


def imports_of(source: str) -> set[str]:
    """Every import counts: inside functions and for type checkers, too."""
    return {name for node in ast.walk(ast.parse(source)) for name in imported(node)}


@cache
def imports() -> dict[str, set[str]]:
    """Module -> modules that it imports."""
    return {name: imports_of(path.read_text(encoding="utf-8")) - {name} for name, path in MODULES.items()}


def room(module: str) -> str:
    """The package that a module lies in, or the module where it lies in none."""
    parts = module.split(".")
    return parts[0] if parts[0] != "hessgnn" else ".".join(parts[:2]) if len(parts) > 1 else "hessgnn"


def used_rooms() -> dict[str, set[str]]:
    """Room -> rooms that it imports from."""
    found: dict[str, set[str]] = {room(name): set() for name in MODULES}
    for name, others in imports().items():
        found[room(name)] |= {room(other) for other in others} - {room(name)}
    return found


def floors() -> list[list[str]]:
    """Rooms floor by floor, the ground first: each stands one above the highest that it imports from."""
    below, height = used_rooms(), {}
    for name in TopologicalSorter(below).static_order():
        height[name] = 1 + max((height[other] for other in below[name]), default=0)
    return [sorted(name for name in height if height[name] == k) for k in range(1, max(height.values()) + 1)]


def floor_plan(sizes: bool = True) -> str:
    """The rooms, the highest floor first; docs/architecture.md shows them without sizes, which change every day."""
    below = used_rooms()
    lines = [
        "| floor | room | imports from |" + " modules | lines, about |" * sizes,
        "|---|---|---|" + "---|---|" * sizes,
    ]
    for number, names in reversed(list(enumerate(floors(), 1))):
        for name in names:
            uses = ", ".join(sorted(other.removeprefix("hessgnn.") for other in below[name])) or "–"
            line = f"| {number} | `{name.removeprefix('hessgnn.')}` | {uses} |"
            inside = [MODULES[other] for other in MODULES if room(other) == name]
            length = sum(path.read_text(encoding="utf-8").count("\n") for path in inside)
            lines.append(line + f" {len(inside)} | {round(length, -2)} |" * sizes)
    return "\n".join(lines)


def test_every_import_is_seen() -> None:
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
class A:
    from hessgnn.training import run
def f():
    from hessgnn.sweep.sweep import sweep
    class B:
        import hessgnn_bench.steps
"""
    names = ("errors", "units", "data.batch", "cli", "runtime.files", "training.run", "sweep.sweep")
    assert imports_of(source) == {*(f"hessgnn.{name}" for name in names), "hessgnn_bench.steps"}
    assert len(MODULES) > 50
    assert sum(map(len, imports().values())) > 150


def test_no_room_imports_from_one_above_it() -> None:
    """Rooms that import from each other, straight or in a ring, have no floors."""
    try:
        floors()
    except CycleError as error:
        ring = error.args[1]
        ties = [
            f"{name} -> {other}"
            for name, others in imports().items()
            for other in sorted(others)
            if any((room(other), room(name)) == pair for pair in pairwise(ring))
        ]
        pytest.fail(f"{' <- '.join(ring)}: {'; '.join(ties)}")


def test_no_files_import_each_other() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_the_house_is_no_larger_than_it_must_be() -> None:
    assert len(used_rooms()) <= ROOMS
    assert len(floors()) <= FLOORS


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_about_one_thing(name: str) -> None:
    lines = MODULES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST, f"{lines} lines are usually two things"


if __name__ == "__main__":
    print(floor_plan())
