"""Running a recipe: one task per molecule. What is finished is kept, so that a killed build goes on where it was."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from ase import Atoms
from ase.data import atomic_numbers
from rich.progress import track

from hessgnn.config import dump
from hessgnn.data.factory.engine import LabelError, TBLiteEngine
from hessgnn.data.factory.geometries import starting_geometries
from hessgnn.data.factory.molecule import label_molecule
from hessgnn.data.factory.recipe import Recipe
from hessgnn.data.splits import split_groups, split_of
from hessgnn.data.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError


@dataclass(frozen=True)
class BuildReport:
    """What became of a recipe's molecules: how many were labelled, and why others were not."""

    path: Path
    molecules: int
    structures: int
    skipped: dict[str, str]
    failed: dict[str, str]


def build(recipe: Recipe, output: Path, *, processes: int = 1) -> BuildReport:
    """Run a recipe and write the store.

    Finished molecules are kept in ``<output>.parts/``, under a name that changes with the recipe and the starting
    geometry, until the store is written.

    Parameters
    ----------
    recipe
        What to make.
    output
        The HDF5 file.
    processes
        Molecules worked on at once, each on one thread. The result does not depend on it.

    Returns
    -------
    BuildReport
        Also written into the store's provenance, but for the path.

    Raises
    ------
    DataError
        When no molecule can be labelled, or the training split lacks an element of the recipe.
    """
    geometries, skipped = starting_geometries(recipe.geometries)
    parts = {name: part_path(output, recipe, name, atoms) for name, atoms in geometries.items()}
    todo = {name: atoms for name, atoms in geometries.items() if not parts[name].exists()}
    failed = _label_all(recipe, todo, parts, processes)
    structures = [structure for name in geometries if name not in failed for structure in Store.open(parts[name])]
    if not structures:
        raise DataError("no molecule could be labelled", where=recipe.name, remedy="see the reasons: " + str(failed))
    structures = assign_splits(recipe, structures)
    record = {"recipe": yaml.safe_load(dump(recipe)), "skipped": skipped, "failed": failed}
    engine = TBLiteEngine(recipe.engine)
    write_store(
        output,
        structures,
        level_of_theory=engine.level_of_theory,
        provenance=yaml.safe_dump(record, sort_keys=False, allow_unicode=True),
        versions=engine.versions(),
    )
    _remove(parts.values())
    return BuildReport(output, len(geometries) - len(failed), len(structures), skipped, failed)


def assign_splits(recipe: Recipe, structures: list[Structure]) -> list[Structure]:
    """Divide the molecules; where their displaced frames go is told by :func:`~hessgnn.data.splits.split_of`.

    Parameters
    ----------
    recipe
        Fractions, seed, and the elements that training must show.
    structures
        All that was labelled.

    Returns
    -------
    list of Structure
        The same, with their splits.

    Raises
    ------
    DataError
        When the training split lacks an element of the recipe.
    """
    minima = [structure for structure in structures if structure.kind == "minimum"]
    of_group = split_groups((structure.group for structure in minima), recipe.split.fractions, recipe.split.seed)
    shown = {int(z) for structure in minima if of_group[structure.group] == "train" for z in structure.numbers}
    absent = [symbol for symbol in recipe.geometries.elements if atomic_numbers[symbol] not in shown]
    if absent:
        raise DataError(
            f"the training split has no {', '.join(absent)}",
            where=recipe.name,
            remedy="change split.seed in the recipe",
        )
    return [replace(structure, split=split_of(structure.kind, of_group[structure.group])) for structure in structures]


def part_path(output: Path, recipe: Recipe, name: str, atoms: Atoms) -> Path:
    """Where a finished molecule is kept until the store is written.

    Parameters
    ----------
    output
        The store to be.
    recipe, name, atoms
        What the content depends on; how molecules are chosen and split is not part of it.

    Returns
    -------
    Path
        Inside ``<output>.parts/``.
    """
    relevant = recipe.model_dump_json(include={"seed", "engine", "minimum", "displaced"})
    digest = hashlib.sha256(relevant.encode() + name.encode() + atoms.numbers.tobytes() + atoms.positions.tobytes())
    return output.with_name(output.name + ".parts") / f"{name}-{digest.hexdigest()[:16]}.h5"


def _label_all(recipe: Recipe, todo: Mapping[str, Atoms], parts: Mapping[str, Path], processes: int) -> dict[str, str]:
    """Label the molecules in worker processes; return the reasons of those that failed."""
    failed: dict[str, str] = {}
    if not todo:
        return failed
    context = multiprocessing.get_context("spawn")
    workers = min(processes, len(todo))
    with _one_thread_each(), ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        tasks = {pool.submit(_label_one, recipe, name, atoms, parts[name]): name for name, atoms in todo.items()}
        try:
            for task in track(as_completed(tasks), description="labelling molecules", total=len(tasks)):
                reason = task.result()
                if reason is not None:
                    failed[tasks[task]] = reason
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died (out of memory, or killed)",
                where=recipe.name,
                remedy="run the same command again: finished molecules are kept; use fewer --processes",
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return dict(sorted(failed.items()))


def _end_with_parent() -> None:
    """Let a worker end when the build is killed; the pool's own workers would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _label_one(recipe: Recipe, name: str, atoms: Atoms, part: Path) -> str | None:
    engine = TBLiteEngine(recipe.engine)
    try:
        structures = label_molecule(recipe, engine, name, atoms)
    except LabelError as error:
        return str(error)
    write_store(part, structures, level_of_theory=engine.level_of_theory, hessian_dtype="float64")
    return None


def _remove(parts: Iterable[Path]) -> None:
    for part in parts:
        part.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: parts of another recipe
            part.parent.rmdir()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that are started meanwhile use one thread: molecules this small gain nothing from more."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
