"""Importing from a source of any format to a store, and exporting. A killed import resumes when it is run again.

When importing, structures are read one at a time and kept in parts, stores themselves, each of which knows how far in
the source it reaches. When the source is at its end the parts are joined.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from hessgnn.data.formats import registry
from hessgnn.data.formats.common import composition, numbers_of
from hessgnn.data.store.layout import LABELS, HessianDtype
from hessgnn.data.store.store import Store
from hessgnn.data.store.writer import judged, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError
from hessgnn.runtime.terminal import ProgressLog

PART = 2000
"""Structures of one part: what a kill can cost."""
PART_NUMBERS = 2**25
"""A part ends sooner when its Hessians and directions have so many elements, which are in memory together."""
HOPELESS = 100
"""When none of so many first entries can be read, the rest is not tried."""


def export_data(store: Store, name: str, target: Path, *, split: str | None = None) -> int:
    """Write the structures of a store, or of one of its splits, in another format; return their number.

    Raises :class:`DataError` when the target exists, or a structure is more than the format can hold.
    """
    writer = registry.WRITERS[name]
    if target.exists():
        raise DataError("exists already", where=target, hint="remove it or give another name")
    indices = np.arange(len(store)) if split is None else store.indices(split)
    structures = (store[int(i)] for i in track(indices, description=f"writing {target.name}"))
    writer(structures, target, store.attributes.level_of_theory)
    return len(indices)


@dataclass(frozen=True)
class ImportOptions:
    """How a source is taken over.

    =============== =========================================================================================
    field           meaning
    =============== =========================================================================================
    level           level of theory of all labels; by default what the source says
    split           split of all structures; by default the source's own, else ``train``
    group           what must not be divided between splits: the ``source``'s molecule or reaction (its composition
                    where it names none), always the ``composition``, or each structure alone (``name``)
    hessian_dtype   precision of the stored Hessians
    =============== =========================================================================================
    """

    level: str = ""
    split: str = ""
    group: Literal["source", "composition", "name"] = "source"
    hessian_dtype: HessianDtype = "float32"

    def applied(self, structure: Structure) -> Structure:
        """A structure with these options."""
        group = {"source": structure.group, "name": structure.name, "composition": ""}[self.group]
        return replace(structure, group=group or composition(structure.numbers), split=self.split or structure.split)


@dataclass
class ImportReport:
    """What became of a source's entries."""

    path: Path
    entries: int
    structures: int = 0
    level: str = ""
    unreadable: dict[str, str] = field(default_factory=dict)
    """File and key -> reason."""
    renamed: int = 0
    """Structures whose name was taken and that got a number."""
    states: dict[str, int] = field(default_factory=dict)
    """Charge and multiplicity -> structures; ``usual`` for neutral ones without avoidable unpaired electrons."""


def import_data(
    name: str, source: Path, output: Path, options: ImportOptions = ImportOptions(), *, limit: int | None = None
) -> ImportReport:
    """Read a source of a named format and write a store, which must not exist.

    Parts are kept in ``<output>.parts/`` until it is written. ``limit`` takes only so many entries of the source. The
    report's list of what could not be read stands in the store's provenance too.

    Raises
    ------
    DataError
        When nothing can be read, the level of theory is not known, or two levels are mixed.
    """
    registry.READERS[name]  # an unknown name is an error before anything is read
    if output.exists():
        raise DataError("exists already", where=output, hint="remove it or give another name")
    if not source.exists():
        raise DataError("no such file or folder", where=source, hint="check the path")
    with closing(_first(registry.entries(name, source), limit)) as entries:
        total = sum(1 for _ in entries)
    if not total:
        raise DataError(f"holds nothing that {name} could read", where=source, hint="check the format")
    parts = _Parts(output, name, source, options)
    job = _Import(parts, options, ImportReport(output, total))
    start = job.resume(total)
    console = Console()
    log = ProgressLog(console)
    with _progress(console) as progress, closing(_first(registry.entries(name, source), limit)) as entries:
        task = progress.add_task(f"reading {source.name}", total=total, completed=start)
        for index, entry in enumerate(entries):
            if index >= start:
                job.take(entry, index)
                progress.advance(task)
            log.progress(f"import {source.name}", "entries", index + 1, total, f"{index + 1}/{total} entries read")
    job.finish(total)
    report = job.report
    record = {
        "import": {"format": name, "source": str(source), "limit": limit, **asdict(options)},
        "states": report.states,
        "unreadable": report.unreadable,
    }
    write_store(
        output,
        (structure for path in job.paths for structure in Store.open(path)),
        level_of_theory=report.level,
        provenance=yaml.safe_dump(record, sort_keys=False, allow_unicode=True),
        versions={package: version(package) for package in ("hessgnn", "ase", "h5py")},
        hessian_dtype=options.hessian_dtype,
    )
    parts.remove()
    return report


def _first(entries: Iterator[registry.Entry], limit: int | None) -> Generator[registry.Entry, None, None]:
    """The first entries; closing it closes the reader's files too."""
    with closing(entries):  # type: ignore[type-var]
        yield from islice(entries, limit)


USUAL = "usual"
_KEPT = ("unreadable", "renamed", "states")  # of a report, in every part


class _Import:
    """The state of an import between two parts."""

    def __init__(self, parts: _Parts, options: ImportOptions, report: ImportReport) -> None:
        self.parts, self.options, self.report = parts, options, report
        self.report.level = options.level
        self.paths: list[Path] = []
        self._names: set[str] = set()
        self._repeats: dict[str, int] = {}
        self._waiting: list[Structure] = []
        self._numbers = 0

    def resume(self, total: int) -> int:
        """Take over the finished parts; return how many entries they cover."""
        start = 0
        while (path := self.parts.path(len(self.paths))).exists():
            store = Store.open(path)
            done = json.loads(store.attributes.provenance)
            if done["stop"] > total:
                break
            start = done["stop"]
            self.paths.append(path)
            self._names.update(store.names)
            self.report.structures += len(store)
            self.report.level = store.attributes.level_of_theory
            for key in _KEPT:
                setattr(self.report, key, done[key])
        return start

    def take(self, entry: registry.Entry, index: int) -> None:
        """Read one entry, or note why it cannot be."""
        report = self.report
        try:
            structure, level, state = entry.read()
            _require_sound(structure)
        except DataError as error:
            report.unreadable[entry.where] = error.what
            if len(report.unreadable) >= HOPELESS and not (report.structures or self._waiting):
                raise DataError(
                    f"none of the first {HOPELESS} entries can be read; the first: {error}", where=self.parts.source
                ) from error
            return
        self._require_level(level, state, entry.where)
        report.states[state or USUAL] = report.states.get(state or USUAL, 0) + 1
        self._waiting.append(self._named(self.options.applied(structure)))
        self._numbers += numbers_of(structure)
        if len(self._waiting) == PART or self._numbers > PART_NUMBERS:
            self._write(index + 1)

    def finish(self, total: int) -> None:
        """Write what is left."""
        if self._waiting:
            self._write(total)
        if not self.paths:
            where, what = next(iter(self.report.unreadable.items()))
            raise DataError(
                f"none of its {total} entries can be read; the first: {where}: {what}", where=self.parts.source
            )

    def _write(self, stop: int) -> None:
        path = self.parts.path(len(self.paths))
        done = {"stop": stop} | {key: getattr(self.report, key) for key in _KEPT}
        write_store(
            path,
            self._waiting,
            level_of_theory=self.report.level,
            provenance=json.dumps(done),
            hessian_dtype=self.options.hessian_dtype,
        )
        self.report.structures += len(self._waiting)
        self.paths.append(path)
        self._waiting, self._numbers = [], 0

    def _require_level(self, level: str, state: str, where: str) -> None:
        if self.options.level:
            return
        found = f"{level}, {state}" if state else level
        if not level:
            raise DataError(
                "the level of theory is not in the source",
                where=where,
                hint='give it, as in --level "wB97X/6-31G(d)"',
            )
        if self.report.level and found != self.report.level:
            raise DataError(
                f"is at {found}, what came before at {self.report.level}: a set has one level of theory",
                where=where,
                hint="import them one by one, or give --level if these are to be one",
            )
        self.report.level = found

    def _named(self, structure: Structure) -> Structure:
        name = structure.name
        if name in self._names:
            self.report.renamed += 1
            number = self._repeats.get(name, 1)
            while (new := f"{name}#{(number := number + 1)}") in self._names:
                pass
            self._repeats[name] = number
            structure = replace(structure, name=new)
        self._names.add(structure.name)
        return structure


class _Parts:
    """Where the parts of one import are: their names change with the source and with how it is taken over."""

    def __init__(self, output: Path, name: str, source: Path, options: ImportOptions) -> None:
        self.source = source
        files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
        state = [(str(path.relative_to(source)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        what = json.dumps([name, str(source.resolve()), state, asdict(options)])
        self._digest = hashlib.sha256(what.encode()).hexdigest()[:16]
        self._folder = output.with_name(output.name + ".parts")

    def path(self, number: int) -> Path:
        return self._folder / f"part-{self._digest}-{number:06d}.h5"

    def remove(self) -> None:
        """Remove the parts, those of earlier attempts and what a kill left of one as well."""
        for pattern in ("part-*.h5", ".part-*.tmp"):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # somebody keeps something else there
            self._folder.rmdir()


def _require_sound(structure: Structure) -> None:
    if all(getattr(structure, key) is None for key in (*LABELS, "directions")):
        raise DataError("has no energy, forces, Hessian or directions", where=structure.name)
    judged(structure)


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)
