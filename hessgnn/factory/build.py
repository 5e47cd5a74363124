"""Running a recipe: one job per molecule or reaction. Finished jobs are kept, so a killed build resumes."""

from __future__ import annotations

import hashlib
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.data import chemical_symbols
from rich.console import Console

from hessgnn.data.store.families import divide
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import (
    IRC,
    MINIMUM,
    PRODUCT,
    REACTANT,
    STATIONARY,
    TRANSITION_STATE,
    Array,
    Structure,
)
from hessgnn.errors import ConfigError, DataError
from hessgnn.factory.elementary import find_step
from hessgnn.factory.frames import frames_around, label
from hessgnn.factory.geometries import starting_geometries
from hessgnn.factory.labels import LINES, DirectionMaker, RecipeLabels, smoothness_of
from hessgnn.factory.reactions import reactions
from hessgnn.factory.recipe import Recipe, require_same
from hessgnn.factory.targets import PairTarget, Target, WrittenTarget
from hessgnn.molecules.geometry import same_shape, sorted_distances
from hessgnn.runtime.config import dump
from hessgnn.runtime.files import write_text
from hessgnn.runtime.processes import each
from hessgnn.runtime.terminal import ProgressLog, time_left, work_bar
from hessgnn.surface.base import Surface, SurfaceError
from hessgnn.surface.differences import GRADIENTS, LINE_CALLS
from hessgnn.surface.engines.base import make_engine
from hessgnn.surface.stationary import find_minimum

_COPY_ENERGY = 1e-4
"""Copies agree so well in energy, eV; far more than two optimisations of one minimum differ by."""
_COPY_DISTANCE = 0.02
"""And in all their sorted distances, Å."""


@dataclass(frozen=True)
class JobResult:
    """What a job made: structures without splits, and name -> reason of frames that could not be made.

    ``facts`` are what it cost and found, for the records of the set.
    """

    structures: list[Structure]
    failed: dict[str, str]
    facts: dict[str, Any]


class BuildJob(ABC):
    """A piece of a build. Its name is that of its structures, before the first ``/``."""

    name: str

    @abstractmethod
    def identity(self) -> bytes:
        """All that the result depends on beside the recipe."""

    @abstractmethod
    def stationary(self, recipe: Recipe, surface: Surface) -> tuple[list[Structure], dict[str, Any]]:
        """Make the structures that frames are displaced from, and what is to be said of them."""

    def run(self, recipe: Recipe, surface: Surface) -> JobResult:
        """Make and label everything; raises :class:`SurfaceError` when nothing can be had."""
        began, before = time.perf_counter(), surface.calls.gradients
        made, facts = self.stationary(recipe, surface)
        structures: list[Structure] = []
        failed: dict[str, str] = {}
        for structure in made:
            frames, reasons = frames_around(recipe, surface, structure)
            structures += [structure, *frames]
            failed |= reasons
        if recipe.labels.directions is not None:
            maker = DirectionMaker(recipe.labels.directions, surface, recipe.seed)
            structures, reasons = _directed(maker, structures)
            failed |= reasons
            facts |= {} if maker.cheap is None else {"gradients_for_modes": maker.cheap.calls.gradients}
        structures = [  # others were needed to verify stationary points, or to displace frames
            one if recipe.labels.wants_hessian(one.kind) else replace(one, hessian=None, hessian_asymmetry=None)
            for one in structures
        ]
        cost = {"seconds": round(time.perf_counter() - began, 2), "gradients": surface.calls.gradients - before}
        return JobResult(structures, failed, facts | cost)

    def digest(self, recipe: Recipe) -> str:
        """Fingerprint of the result: changes with what the numbers depend on, not with splits or what else is built."""
        rest = {"name", "description", "geometries", "reactions", "pairs", "split", "resolution"}
        if recipe.labels == RecipeLabels():  # as before there was a choice: earlier parts stay valid
            rest.add("labels")
        relevant = recipe.model_dump_json(exclude=rest)
        return hashlib.sha256(relevant.encode() + self.name.encode() + self.identity()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class MoleculeJob(BuildJob):
    """A molecule: its minimum."""

    name: str
    start: Atoms

    def identity(self) -> bytes:
        """The starting geometry."""
        return self.start.numbers.tobytes() + self.start.positions.tobytes()

    def stationary(self, recipe: Recipe, surface: Surface) -> tuple[list[Structure], dict[str, Any]]:
        """The minimum."""
        well, start, hessian = recipe.minimum, self.start, None
        if well.first is not None:
            # What is no minimum there may still be one here.
            cheap = find_minimum(
                make_engine(well.first), start, well.fmax, well.max_steps, pushes=well.pushes, far=None, prove=False
            )
            start, hessian = cheap.atoms, cheap.hessian.symmetric
        found = find_minimum(surface, start, well.fmax, well.max_steps, pushes=well.pushes, far=None, hessian=hessian)
        made = label(surface, found.atoms, name=self.name, kind=MINIMUM, hessian=found.hessian)
        return [made], {"gradients_to_minimum": found.gradients}


@dataclass(frozen=True)
class ReactionJob(BuildJob):
    """A reaction: its saddle point ``NAME/ts``, its ends, and frames of its path, ``NAME/ts/irc-00`` and so on."""

    target: Target

    @property
    def name(self) -> str:  # type: ignore[override]
        """The target's."""
        return self.target.name

    def identity(self) -> bytes:
        """What the target says."""
        return self.target.identity()

    def stationary(self, recipe: Recipe, surface: Surface) -> tuple[list[Structure], dict[str, Any]]:
        """The saddle point, its two minima and the frames of the path."""
        step = find_step(recipe, surface, self.target)
        saddle = f"{self.name}/ts"
        points = [
            (saddle, TRANSITION_STATE, "", step.saddle),
            (f"{self.name}/reactant", REACTANT, saddle, step.reactant),
            (f"{self.name}/product", PRODUCT, saddle, step.product),
        ]
        made = [
            label(surface, point.atoms, name=name, kind=kind, parent=parent, hessian=point.hessian)
            for name, kind, parent, point in points
        ]
        numbers = step.saddle.atoms.numbers
        # Frames move along their modes.
        wanted = recipe.labels.wants_hessian(IRC) or recipe.displaced.frames.get(IRC, 0) > 0
        made += [
            label(surface, Atoms(numbers, frame), name=f"{saddle}/irc-{k:02d}", kind=IRC, parent=saddle, wanted=wanted)
            for k, frame in enumerate(step.frames)
        ]
        energies = [structure.energy or 0.0 for structure in made[:3]]
        facts = {
            **self.target.facts(),
            "barrier": round(energies[0] - energies[1], 4),
            "reaction_energy": round(energies[2] - energies[1], 4),
            "imaginary_frequency": round(float(step.saddle.modes.frequencies[0]), 1),
        }
        return made, facts


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
    """List the jobs of a recipe, molecules first; and name -> reason for molecules that were left out.

    Raises :class:`ConfigError` when it asks for nothing, or for two things of one name.
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


def price_of_directions(recipe: Recipe, jobs: Sequence[BuildJob]) -> tuple[int, int]:
    """Count the structures of jobs, and the gradient calls of the label engine for their directions; both at most."""
    molecules = sum(isinstance(job, MoleculeJob) for job in jobs)
    number = dict.fromkeys((TRANSITION_STATE, REACTANT, PRODUCT), len(jobs) - molecules)
    number |= {MINIMUM: molecules, IRC: 2 * recipe.irc.frames * (len(jobs) - molecules)}
    structures = sum(count * (1 + recipe.displaced.frames.get(kind, 0)) for kind, count in number.items())
    structures += molecules * recipe.thermal.frames
    wanted = recipe.labels.directions
    if wanted is None:
        return structures, 0
    lines = len(jobs) * (LINES * LINE_CALLS + 2)
    return structures, structures * wanted.number * GRADIENTS[wanted.scheme] + lines


def build(recipe: Recipe, output: Path, *, processes: int = 1) -> BuildReport:
    """Run a recipe and write the store.

    Finished jobs are kept in ``<output>.parts/``, under a name that changes with the recipe and what they start from,
    until the store is written.

    Parameters
    ----------
    recipe
        What to make.
    output
        The HDF5 file. Where it exists, the same recipe must have made it, of no other molecules and reactions.
    processes
        Jobs worked on at once, each on one thread. The result does not depend on it.

    Returns
    -------
    BuildReport
        Also written into the store's provenance, but for the path.

    Raises
    ------
    DataError
        When the file is of another recipe, nothing can be labelled, or the training split lacks an element that occurs.
    """
    jobs, skipped = jobs_of(recipe)
    require_same(recipe, [job.name for job in jobs], output)
    engine = make_engine(recipe.engine)  # what is wrong with it is told before anything is computed
    first = {} if recipe.minimum.first is None else make_engine(recipe.minimum.first).versions()
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
        versions=first | engine.versions(),
        split_by=recipe.split.by,
    )
    _remove(parts.values())
    return BuildReport(output, len(good), len(structures), skipped, finished.failed | finished.frames_failed)


def assign_splits(recipe: Recipe, structures: Sequence[Structure]) -> list[Structure]:
    """Draw the splits, see :func:`~hessgnn.data.store.families.divide`; the group of a structure becomes its family.

    A set of few families may lack a split.

    Raises :class:`DataError` when the training split lacks an element that occurs.
    """
    wanted = recipe.split
    single = [replace(structure, group=structure.name) for structure in structures]  # parents connect what belongs
    together = wanted.frames == "together"
    made = divide(single, by=wanted.by, fractions=wanted.fractions, seed=wanted.seed, together=together)
    divided = [
        replace(structure, group=family, split=split)
        for structure, family, split in zip(structures, made.families, made.splits, strict=True)
    ]
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

    Neither the order of the atoms nor their handedness matters. Returns the name of a minimum -> name of the structure
    that it is a copy of: the end of a reaction or an earlier minimum. Ends of reactions are never copies, since a band
    needs both in one atom order.
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
    """Where a finished job is kept until the store is written, inside ``<output>.parts/``.

    The name changes with what the content depends on; how molecules are chosen and split is not part of it. A job that
    failed has a file of the same name with the suffix ``.failed``.
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
    work = [(recipe, job, parts[job.name]) for job in todo]
    with work_bar(console) as progress:
        bar = progress.add_task(recipe.name, total=total, completed=total - len(todo), failed=0)
        failed, kept, began = 0, total - len(todo), time.monotonic()
        for done, (name, succeeded) in enumerate(each(_run_one, work, workers, where=recipe.name), 1):
            failed += not succeeded
            progress.update(bar, advance=1, failed=failed)
            left = time_left(time.monotonic() - began, done, len(todo))
            log.line(f"build {recipe.name}", f"{kept + done}/{total} {name}{'' if succeeded else ': failed'}{left}")


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


def _directed(maker: DirectionMaker, structures: Sequence[Structure]) -> tuple[list[Structure], dict[str, str]]:
    """Add directions to all structures of a job, and tell name -> reason where that fails."""
    known, failed = smoothness_of([maker.measure(structures[0], LINES)]), dict[str, str]()
    made = []
    for structure in structures:
        assert structure.forces is not None
        try:
            made.append(structure.with_directions(maker.directions(structure, known, structure.forces)))
        except (SurfaceError, DataError) as error:
            made.append(structure)
            failed[structure.name] = f"no directions: {error}"
    return made, failed


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
