"""Running a recipe: one job per molecule or reaction. What is finished is kept, so a killed build goes on."""

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

from hessgnn.data.kinds import FRAMES, MINIMUM, STATIONARY
from hessgnn.data.store.splits import split_groups, split_of
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import ConfigError, DataError
from hessgnn.factory.geometries import starting_geometries
from hessgnn.factory.jobs import BuildJob, MoleculeJob, ReactionJob
from hessgnn.factory.reactions import reactions
from hessgnn.factory.recipe import Recipe
from hessgnn.factory.targets import PairTarget, WrittenTarget
from hessgnn.molecules.geometry import same_shape, sorted_distances
from hessgnn.runtime.config import dump
from hessgnn.runtime.files import write_text
from hessgnn.runtime.processes import each
from hessgnn.runtime.terminal import ProgressLog
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.engines.base import make_engine

_COPY_ENERGY = 1e-4
"""Copies agree so well in energy, eV; far more than two optimisations of one minimum differ by."""
_COPY_DISTANCE = 0.02
"""And in all their sorted distances, Å."""


@dataclass(frozen=True)
class BuildReport:
    """What became of a recipe: how much was labelled, and why the rest was not."""

    path: Path
    jobs: int
    structures: int
    skipped: dict[str, str]
    failed: dict[str, str]


@dataclass
class Finished:
    """What is known of the jobs that are done: facts of the good ones, reasons of the others."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    frames_failed: dict[str, str] = field(default_factory=dict)


def jobs_of(recipe: Recipe) -> tuple[list[BuildJob], dict[str, str]]:
    """List what a recipe asks for.

    Returns
    -------
    list of BuildJob, dict
        The jobs, molecules first; and name -> reason for molecules that were left out.

    Raises
    ------
    ConfigError
        When it asks for nothing, or for two things of one name.
    """
    geometries, skipped = starting_geometries(recipe.geometries)
    jobs: list[BuildJob] = [MoleculeJob(name, atoms) for name, atoms in geometries.items()]
    if recipe.reactions is not None:
        jobs += [ReactionJob(WrittenTarget(reaction)) for reaction in reactions(recipe.reactions)]
    jobs += [ReactionJob(PairTarget.read(pair)) for pair in recipe.pairs]
    names = [job.name for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError("a molecule and a reaction have this name", where=twice[0], hint="rename one of them")
    if not jobs:
        raise ConfigError("asks for nothing", where=recipe.name, hint="add geometries or reactions to the recipe")
    return jobs, skipped


def build(recipe: Recipe, output: Path, *, processes: int = 1) -> BuildReport:
    """Run a recipe and write the store.

    Finished jobs are kept in ``<output>.parts/``, under a name that changes with the recipe and what they start from,
    until the store is written.

    Parameters
    ----------
    recipe
        What to make.
    output
        The HDF5 file.
    processes
        Jobs worked on at once, each on one thread. The result does not depend on it.

    Returns
    -------
    BuildReport
        Also written into the store's provenance, but for the path.

    Raises
    ------
    DataError
        When nothing can be labelled, or the training split lacks an element that occurs.
    """
    jobs, skipped = jobs_of(recipe)
    engine = make_engine(recipe.engine)  # what is wrong with it is told before anything is computed
    parts = {job.name: part_path(output, recipe, job) for job in jobs}
    finished = _finish(recipe, jobs, parts, processes)
    good = [job.name for job in jobs if job.name in finished.facts]
    if not good:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in finished.failed.items())
        raise DataError("nothing could be labelled", where=recipe.name, hint=f"see the reasons: {reasons}")
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
            hint="change split.seed in the recipe",
        )
    return divided


def find_copies(structures: Sequence[Structure]) -> dict[str, str]:
    """Find minima that are also there under another name: of a molecule with two names, of a conformer twice.

    Neither the order of the atoms nor their handedness matters.

    Parameters
    ----------
    structures
        With energies. Ends of reactions are never copies, since a band needs both in one atom order.

    Returns
    -------
    dict
        Name of a minimum -> name of the structure that it is a copy of: the end of a reaction or an earlier minimum.
    """
    groups: dict[str, list[Structure]] = {}
    for structure in structures:
        if structure.kind in STATIONARY:
            groups.setdefault(structure.group, []).append(structure)
    copies: dict[str, str] = {}
    for members in groups.values():
        kept: list[tuple[Structure, Array]] = []
        for structure in sorted(members, key=lambda one: one.kind == MINIMUM):
            fingerprint = sorted_distances(structure.numbers, structure.positions)
            twin = next(
                (
                    other
                    for other, others in kept
                    if abs((structure.energy or 0.0) - (other.energy or 0.0)) < _COPY_ENERGY
                    and same_shape(fingerprint, others, _COPY_DISTANCE)
                ),
                None,
            )
            if twin is not None and structure.kind == MINIMUM:
                copies[structure.name] = twin.name
            else:
                kept.append((structure, fingerprint))
    return copies


def part_path(output: Path, recipe: Recipe, job: BuildJob) -> Path:
    """Where a finished job is kept until the store is written.

    Parameters
    ----------
    output
        The store to be.
    recipe, job
        What the content depends on; how molecules are chosen and split is not part of it.

    Returns
    -------
    Path
        Inside ``<output>.parts/``. A job that failed has a file of the same name with the suffix ``.failed``.
    """
    readable = re.sub(r"[^A-Za-z0-9_+-]", "_", job.name)[:80]
    return output.with_name(output.name + ".parts") / f"{readable}-{job.digest(recipe)}.h5"


def _finish(recipe: Recipe, jobs: Sequence[BuildJob], parts: dict[str, Path], processes: int) -> Finished:
    """Work on the jobs that are not done yet in worker processes, then gather what became of all."""
    todo = [job for job in jobs if not parts[job.name].exists() and not _failure(parts[job.name]).exists()]
    if todo:
        _work_on(recipe, todo, parts, len(jobs), min(processes, len(todo)))
    finished = Finished()
    for job in jobs:
        part = parts[job.name]
        if part.exists():
            told = json.loads(Store.open(part).attributes.provenance)
            finished.facts[job.name] = told["facts"]
            finished.frames_failed |= told["failed"]
        else:
            finished.failed[job.name] = _failure(part).read_text(encoding="utf-8").strip()
    return finished


def _work_on(recipe: Recipe, todo: Sequence[BuildJob], parts: dict[str, Path], total: int, workers: int) -> None:
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
    work = [(recipe, job, parts[job.name]) for job in todo]
    with progress:
        bar = progress.add_task(recipe.name, total=total, completed=total - len(todo), failed=0)
        failed, kept = 0, total - len(todo)
        for done, (name, succeeded) in enumerate(each(_run_one, work, workers, where=recipe.name), kept + 1):
            failed += not succeeded
            progress.update(bar, advance=1, failed=failed)
            log.line(f"build {recipe.name}", f"{done}/{total} {name}{'' if succeeded else ': failed'}")


def _run_one(work: tuple[Recipe, BuildJob, Path]) -> tuple[str, bool]:
    """Run a job in a worker; return its name and whether it succeeded. Each job has an engine of its own."""
    recipe, job, part = work
    engine = make_engine(recipe.engine)
    try:
        outcome = job.run(recipe, engine)
    except SurfaceError as error:
        write_text(_failure(part), f"{error}\n")
        return job.name, False
    except Exception as error:  # what a library raises on one odd geometry must not end a build of thousands
        write_text(_failure(part), f"{type(error).__name__}: {error}\n")
        return job.name, False
    told = json.dumps({"facts": outcome.facts, "failed": outcome.failed})
    write_store(
        part,
        outcome.structures,
        level_of_theory=engine.level_of_theory,
        provenance=told,
        hessian_dtype="float64",
    )
    return job.name, True


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
