"""Running a recipe: one task per molecule or reaction. What is finished is kept, so a killed build goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase.data import chemical_symbols
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hessgnn.data.kinds import FRAMES
from hessgnn.data.store.splits import split_groups, split_of
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, DataError
from hessgnn.factory.copies import find_copies
from hessgnn.factory.geometries import starting_geometries
from hessgnn.factory.reactions import reactions
from hessgnn.factory.recipe import Recipe
from hessgnn.factory.targets import PairTarget, WrittenTarget
from hessgnn.factory.tasks import MoleculeTask, ReactionTask, Task
from hessgnn.runtime.config import dump
from hessgnn.runtime.files import write_text
from hessgnn.runtime.processes import each
from hessgnn.runtime.terminal import ProgressLog
from hessgnn.surface.engines import Engine, LabelError, make_engine


@dataclass(frozen=True)
class BuildReport:
    """What became of a recipe: how much was labelled, and why the rest was not."""

    path: Path
    tasks: int
    structures: int
    skipped: dict[str, str]
    failed: dict[str, str]


@dataclass
class Finished:
    """What is known of the tasks that are done: facts of the good ones, reasons of the others."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    frames_failed: dict[str, str] = field(default_factory=dict)


def tasks_of(recipe: Recipe) -> tuple[list[Task], dict[str, str]]:
    """List what a recipe asks for.

    Parameters
    ----------
    recipe
        What to make.

    Returns
    -------
    list of Task, dict
        The tasks, molecules first; and name -> reason for molecules that were left out.

    Raises
    ------
    ConfigError
        When it asks for nothing, or for two things of one name.
    """
    geometries, skipped = starting_geometries(recipe.geometries)
    tasks: list[Task] = [MoleculeTask(name, atoms) for name, atoms in geometries.items()]
    if recipe.reactions is not None:
        tasks += [ReactionTask(WrittenTarget(reaction)) for reaction in reactions(recipe.reactions)]
    tasks += [ReactionTask(PairTarget.read(pair)) for pair in recipe.pairs]
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError("a molecule and a reaction have this name", where=twice[0], remedy="rename one of them")
    if not tasks:
        raise ConfigError("asks for nothing", where=recipe.name, remedy="add geometries or reactions to the recipe")
    return tasks, skipped


def build(recipe: Recipe, output: Path, *, processes: int = 1) -> BuildReport:
    """Run a recipe and write the store.

    Finished tasks are kept in ``<output>.parts/``, under a name that changes with the recipe and what they start from,
    until the store is written.

    Parameters
    ----------
    recipe
        What to make.
    output
        The HDF5 file.
    processes
        Tasks worked on at once, each on one thread. The result does not depend on it.

    Returns
    -------
    BuildReport
        Also written into the store's provenance, but for the path.

    Raises
    ------
    DataError
        When nothing can be labelled, or the training split lacks an element that occurs.
    """
    tasks, skipped = tasks_of(recipe)
    engine = make_engine(recipe.engine)  # what is wrong with it is told before anything is computed
    parts = {task.name: part_path(output, recipe, task) for task in tasks}
    finished = _finish(recipe, tasks, parts, processes)
    good = [task.name for task in tasks if task.name in finished.facts]
    if not good:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in finished.failed.items())
        raise DataError("nothing could be labelled", where=recipe.name, remedy=f"see the reasons: {reasons}")
    structures = [structure for name in good for structure in Store.open(parts[name])]
    copies = find_copies(structures)
    skipped |= {name: f"is {other}" for name, other in copies.items()}
    structures = [s for s in structures if s.name not in copies and s.parent not in copies]
    structures = [_rounded(s, recipe.resolution) for s in assign_splits(recipe, structures)]
    record = {
        "recipe": yaml.safe_load(dump(recipe)),
        "skipped": skipped,
        "failed": finished.failed | finished.frames_failed,
        "tasks": finished.facts,
    }
    write_store(
        output,
        structures,
        level_of_theory=engine.level_of_theory,
        provenance=yaml.safe_dump(record, sort_keys=False, allow_unicode=True),
        versions=engine.versions(),
    )
    _remove(parts.values())
    return BuildReport(output, len(good), len(structures), skipped, finished.failed | finished.frames_failed)


def assign_splits(recipe: Recipe, structures: Sequence[Structure]) -> list[Structure]:
    """Divide the groups; where frames go is told by :func:`~hessgnn.data.store.splits.split_of`.

    Parameters
    ----------
    recipe
        Fractions and seed.
    structures
        All that was labelled.

    Returns
    -------
    list of Structure
        The same, with their splits.

    Raises
    ------
    DataError
        When the training split lacks an element that occurs.
    """
    of_group = split_groups((structure.group for structure in structures), recipe.split.fractions, recipe.split.seed)
    origins: dict[str, list[str]] = {kind: [] for kind in FRAMES}
    divided = []
    for structure in structures:
        split = split_of(structure.kind, of_group[structure.group])
        if split == "validation" and structure.kind in FRAMES:
            # All frames of one origin together: both sides of a symmetric path are the same geometries.
            met = origins[structure.kind]
            met += [] if structure.parent in met else [structure.parent]
            split = structure.kind if met.index(structure.parent) % recipe.split.validation_every else split
        divided.append(replace(structure, split=split))
    shown = {int(z) for structure in divided if structure.split == "train" for z in structure.numbers}
    absent = sorted({int(z) for structure in divided for z in structure.numbers} - shown)
    if absent:
        raise DataError(
            f"the training split has no {', '.join(chemical_symbols[z] for z in absent)}",
            where=recipe.name,
            remedy="change split.seed in the recipe",
        )
    return divided


def part_path(output: Path, recipe: Recipe, task: Task) -> Path:
    """Where a finished task is kept until the store is written.

    Parameters
    ----------
    output
        The store to be.
    recipe, task
        What the content depends on; how molecules are chosen and split is not part of it.

    Returns
    -------
    Path
        Inside ``<output>.parts/``. A task that failed has a file of the same name with the suffix ``.failed``.
    """
    readable = re.sub(r"[^A-Za-z0-9_+-]", "_", task.name)[:80]
    return output.with_name(output.name + ".parts") / f"{readable}-{task.digest(recipe)}.h5"


def _finish(recipe: Recipe, tasks: Sequence[Task], parts: dict[str, Path], processes: int) -> Finished:
    """Work on the tasks that are not done yet in worker processes, then gather what became of all."""
    todo = [task for task in tasks if not parts[task.name].exists() and not _failure(parts[task.name]).exists()]
    if todo:
        _work_on(recipe, todo, parts, len(tasks), min(processes, len(todo)))
    finished = Finished()
    for task in tasks:
        part = parts[task.name]
        if part.exists():
            told = json.loads(Store.open(part).attributes.provenance)
            finished.facts[task.name] = told["facts"]
            finished.frames_failed |= told["failed"]
        else:
            finished.failed[task.name] = _failure(part).read_text(encoding="utf-8").strip()
    return finished


def _work_on(recipe: Recipe, todo: Sequence[Task], parts: dict[str, Path], total: int, workers: int) -> None:
    console = Console()
    log = ProgressLog(console)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]} failed"),
        console=console,
    )
    jobs = [(recipe, task, parts[task.name]) for task in todo]
    with progress:
        bar = progress.add_task(recipe.name, total=total, completed=total - len(todo), failed=0)
        failed, kept = 0, total - len(todo)
        for done, (name, succeeded) in enumerate(each(_run_one, jobs, workers, where=recipe.name), kept + 1):
            failed += not succeeded
            progress.update(bar, advance=1, failed=failed)
            log.line(f"build {recipe.name}", f"{done}/{total} {name}{'' if succeeded else ': failed'}")


def _run_one(job: tuple[Recipe, Task, Path]) -> tuple[str, bool]:
    """Run a task in a worker; return its name and whether it succeeded. Each task has an engine of its own."""
    recipe, task, part = job
    engine: Engine = make_engine(recipe.engine)
    try:
        outcome = task.run(recipe, engine)
    except LabelError as error:
        write_text(_failure(part), f"{error}\n")
        return task.name, False
    except Exception as error:  # what a library raises on one odd geometry must not end a build of thousands
        write_text(_failure(part), f"{type(error).__name__}: {error}\n")
        return task.name, False
    told = json.dumps({"facts": outcome.facts, "failed": outcome.failed})
    write_store(
        part,
        outcome.structures,
        level_of_theory=engine.level_of_theory,
        provenance=told,
        hessian_dtype="float64",
    )
    return task.name, True


def _failure(part: Path) -> Path:
    return part.with_suffix(".failed")


def _rounded(structure: Structure, resolution: float | None) -> Structure:
    """Round the Hessian to a grid of a power of two, whose multiples float32 holds exactly: zeros compress."""
    if resolution is None or structure.hessian is None:
        return structure
    grid = 2.0 ** np.floor(np.log2(resolution))
    symmetric = (structure.hessian + structure.hessian.T) / 2
    return replace(structure, hessian=np.round(symmetric / grid) * grid)


def _remove(parts: Iterable[Path]) -> None:
    for part in parts:
        part.unlink(missing_ok=True)
        _failure(part).unlink(missing_ok=True)
        with suppress(OSError):  # not empty: parts of another recipe
            part.parent.rmdir()
