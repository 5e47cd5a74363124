"""More labels for an existing data set: directions with products, and energies, forces and Hessians that are missing.

The structures are divided into parts, which processes work on with an engine of their own each. Finished parts are
kept, so a killed run resumes, and the number of processes changes nothing.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from hessgnn.data.store.growing import join_versions
from hessgnn.data.store.store import Store
from hessgnn.data.store.writer import write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, DataError
from hessgnn.factory.label_parts import LabellingSettings, Part, label_part, measure_part
from hessgnn.factory.labels import LINE_COST, LINES, DirectionMaker, Measured, smoothness_of
from hessgnn.factory.provenance import extended, labelled_records, records_of, relabelled
from hessgnn.runtime.files import locked
from hessgnn.runtime.processes import each
from hessgnn.runtime.terminal import ProgressLog, time_left, work_bar
from hessgnn.surface.base import Surface, digest
from hessgnn.surface.differences import Line, Smoothness
from hessgnn.surface.engines.base import ENGINES, make_engine

OTHER_LEVEL = 0.01
"""eV/Å: RMS difference of forces beyond which they are of another surface. Two functionals differ by a tenth."""

_SAME = 1e-7
"""eV/Å: RMS difference up to which stored forces are as good as new ones."""
_PARTS, _LARGEST_PART = 100, 64
"""About so many parts, of at most so many structures: little is lost by a kill, and files are not too many."""


@dataclass(frozen=True)
class LabellingReport:
    """What became of it.

    Attributes
    ----------
    path : Path
        The new store.
    labelled : int
        Structures with new labels.
    failed : dict
        Name -> reason of the others; they are in the new store as they were.
    cost : dict
        ``gradients`` and ``hessians``: calls of the label engine; ``gradients_for_modes``: of the cheap one.
    """

    path: Path
    labelled: int
    failed: dict[str, str]
    cost: dict[str, int]


@dataclass
class Labelling:
    """Adds labels to structures of a store and writes a new one.

    Parameters
    ----------
    store
        The source, which stays as it is.
    settings
        What to add.
    output
        The HDF5 file to write. It must not exist, unless the same labelling wrote it.
    indices
        The structures that get labels; all by default. The others are copied.

    Attributes
    ----------
    earlier : LabellingReport or None
        What became of it, where an earlier run finished.

    Raises
    ------
    DataError
        When the file exists and is not that of the same labelling, nothing is missing, or the engine computes another
        level of theory than that of the store.
    ConfigError
        When nothing is asked for, or the engine cannot be made.
    """

    store: Store
    settings: LabellingSettings
    output: Path
    indices: Sequence[int] | None = None
    earlier: LabellingReport | None = field(init=False, default=None)
    _maker: DirectionMaker | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        wanted = self.settings
        if not (wanted.directions or wanted.hessian or wanted.energy_forces):
            hint = "name a kind of directions, or ask for energies and forces or for Hessians"
            raise ConfigError("there is nothing to compute", where=self.store.path, hint=hint)
        self.engine = make_engine(wanted.engine)
        own, level = self.engine.level_of_theory, self.store.attributes.level_of_theory
        if own != level and not wanted.relabel:
            raise DataError(
                f"is at {level}, and the engine computes {own}: a set has one level of theory",
                where=self.store.path,
                hint="choose the engine and its settings accordingly, or drop the labels of the set: --relabel",
            )
        if wanted.directions is not None:
            self._maker = DirectionMaker(wanted.directions, self.engine, wanted.seed)
        if self.output.exists():
            self.earlier = self._told()
        elif not self.todo:
            having = "what is asked for" if self._maker is None else f"all its directions of kind {self._kind!r}"
            hint = "choose other structures or other labels"
            raise DataError(f"every structure has {having} already", where=self.store.path, hint=hint)

    def _told(self) -> LabellingReport:
        """The report of the same labelling, which wrote the output; :class:`DataError` where another did."""
        with suppress(DataError):
            for record in labelled_records(records_of(Store.open(self.output).attributes.provenance))[:1]:
                if record.get("digest") == self._digest:
                    return LabellingReport(self.output, record["structures"], record["failed"], record["cost"])
        raise DataError("exists already", where=self.output, hint="give another name, or remove it first")

    @property
    def _kind(self) -> str:
        assert self._maker is not None
        return self._maker.settings.kind

    @cached_property
    def todo(self) -> list[int]:
        """Structures that lack something that is asked for, in the order of the store."""
        store, wanted = self.store, self.settings
        lacking = np.zeros(len(store), dtype=bool) if self._maker is None else (self._left > 0) | (self._own == 0)
        if wanted.energy_forces:
            lacking |= self._without_forces
        if wanted.hessian:
            lacking |= self._without_hessian
        chosen = range(len(store)) if self.indices is None else sorted(set(map(int, self.indices)))
        return [i for i in chosen if lacking[i]]

    @cached_property
    def _without_forces(self) -> NDArray[np.bool_]:
        """Structures without energy or forces that can be kept, ``(n,)``."""
        return ~(self.store.has_energy & self.store.has_forces) | self.settings.relabel

    @cached_property
    def _without_hessian(self) -> NDArray[np.bool_]:
        """Structures without a Hessian that can be kept, ``(n,)``."""
        return ~self.store.has_hessian | self.settings.relabel

    @cached_property
    def _own(self) -> NDArray[np.int64]:
        """Directions of the kind that is asked for that each structure has, ``(n,)``."""
        kept = 0 if self.settings.relabel else self.store.n_directions
        owners = np.repeat(np.arange(len(self.store)), kept)
        if len(owners):
            owners = owners[self.store.columns.rows("direction_kind", 0, len(owners)) == self._kind.encode()]
        return np.bincount(owners, minlength=len(self.store))

    @cached_property
    def _left(self) -> NDArray[np.float64]:
        """Directions of that kind that each can get at most, ``(n,)``; none or fewer where there are no more."""
        assert self._maker is not None
        periodic: NDArray[np.bool_] = np.any(self.store.columns.rows("pbc", 0, len(self.store)), axis=1)
        facts = zip(self.store.n_atoms.tolist(), self._own.tolist(), periodic.tolist(), strict=True)
        return np.array([self._maker.kind.remaining(*one) for one in facts], dtype=np.float64)

    def price(self) -> dict[str, int]:
        """What is still to be paid, if the forces of the store can be used: parts that are finished cost nothing more.

        Returns
        -------
        dict
            ``gradients`` and ``hessians``: calls of the label engine; ``gradients_for_modes``: of the cheap one;
            ``lines``: how many of the gradients are for steps and error estimates; ``full``: gradients of full Hessians
            of the same structures by central differences.
        """
        store = self.store
        chosen = np.array([i for one in self._parts(None, False) if not one.done for i in one.indices], dtype=np.int64)
        sizes = store.n_atoms[chosen]
        hessians = sizes[self._without_hessian[chosen]] if self.settings.hessian else sizes[:0]
        found = {"gradients": int(self._without_forces[chosen].sum()), "hessians": len(hessians)}
        if _is_differenced(self.engine):
            found["gradients"] += int(6 * hessians.sum())
        if self._maker is not None:
            left = self._left[chosen]
            samples = np.array([one.indices[0] for one in self._lines() if not one.done], dtype=np.int64)
            samples = samples[self._left[samples] > 0]
            found["lines"] = LINE_COST * len(samples)
            found["gradients"] += found["lines"] + sum(map(self._maker.gradients, left))
            if self._maker.cheap is not None and _is_differenced(self._maker.cheap):
                found["gradients_for_modes"] = int(6 * (sizes[left > 0].sum() + store.n_atoms[samples].sum()))
        return found | {"full": int(6 * sizes.sum())}

    def finished(self) -> int:
        """Structures whose labels an earlier run computed."""
        return sum(len(part.indices) for part in self._parts(None, False) if part.done)

    def run(self, processes: int = 1) -> LabellingReport:
        """Compute what is missing, and write the store, unless that was done :attr:`earlier`.

        Parameters
        ----------
        processes
            Parts worked on at once, each on one thread. The result does not depend on it.

        Raises
        ------
        DataError
            When no structure could be labelled, or the forces of the store are not those of the engine.
        """
        if self.earlier is not None:
            return self.earlier
        with locked(self.output):
            console = Console()
            log = ProgressLog(console, self.output.with_name(self.output.name + ".log"))
            samples, known, fresh = self._measure(processes, log)
            parts = self._parts(known, fresh)
            self._work_on(parts, processes, console, log)
            told = [part.told() for part in parts]
            cost = sum((Counter(one["cost"]) for one in [*samples, *told]), Counter[str]())
            failed = {name: reason for one in told for name, reason in one["failed"].items()}
            report = LabellingReport(self.output, len(self.todo) - len(failed), failed, dict(cost))
            if not report.labelled:
                raise self._hopeless(next(iter(failed.values())))
            self._write(parts, report, known)
            log.line(self._title, f"{report.labelled} structures, {cost['gradients']} gradients: {self.output}")
        self._clear()
        return report

    @property
    def _title(self) -> str:
        return f"label {self.output.name}"

    @property
    def _folder(self) -> Path:
        return self.output.with_name(self.output.name + ".parts")

    @cached_property
    def _digest(self) -> str:
        """Changes with everything that the numbers depend on."""
        cheap = "" if self._maker is None or self._maker.cheap is None else self._maker.cheap.fingerprint
        earlier = set() if self.settings.relabel else {"relabel"}  # files of versions without it are still known
        wanted = self.settings.model_dump_json(exclude=earlier), json.dumps(self.todo)
        return digest(self.store.attributes.content_hash, *wanted, self.engine.fingerprint, cheap)[:16]

    def _part(self, name: str, indices: Sequence[int], known: Smoothness | None, fresh: bool) -> Part:
        path = self._folder / f"{name}-{self._digest}.json"
        return Part(path, self.store.path, tuple(indices), self.settings, known, fresh)

    def _parts(self, known: Smoothness | None, fresh: bool) -> list[Part]:
        size = min(_LARGEST_PART, 1 + len(self.todo) // _PARTS)
        starts = range(0, len(self.todo), size)
        return [self._part(f"part-{k:06d}", self.todo[k : k + size], known, fresh) for k in starts]

    def _lines(self) -> list[Part]:
        """Structures on which the surface is measured: evenly spread, of those with forces if there are some."""
        able = [i for i in self.todo if self._left[i] > 0] or self.todo
        candidates = [i for i in able if not self._without_forces[i]] or able
        places = sorted({round((len(candidates) - 1) * j / (LINES - 1)) for j in range(LINES)})
        return [self._part(f"line-{k}", (candidates[place],), None, False) for k, place in enumerate(places)]

    def _measure(self, processes: int, log: ProgressLog) -> tuple[list[dict[str, Any]], Smoothness | None, bool]:
        """What was told of the samples, what it says of the surface, and whether stored forces cannot be used."""
        if self.settings.directions is None:
            return [], None, False
        samples = self._lines()
        if todo := [one for one in samples if not one.done]:
            for _ in each(measure_part, todo, processes, where=self._title):
                pass
        told = [one.told() for one in samples]
        good = [Measured([Line(**line) for line in one["lines"]], one["mismatch"]) for one in told if one["lines"]]
        if not good:
            raise self._hopeless(told[0]["reason"])
        known, typical = smoothness_of(good), float(np.median([one.mismatch for one in good]))
        mismatch = max(one.mismatch for one in good)
        if typical > OTHER_LEVEL:
            self._clear()
            raise DataError(
                f"its forces are not those of the engine: they differ by {typical:.2g} eV/Å (RMS)",
                where=self.store.path,
                hint="use the engine and the settings that the labels were computed with",
            )
        fresh = mismatch > max(_SAME, 5 * known.noise)
        if fresh:
            known = replace(known, reference_noise=known.noise)
            log.line(self._title, f"stored forces differ by {mismatch:.1e} eV/Å; those of the structures are computed")
        scheme, step = self.settings.directions.scheme, self.settings.directions.step
        shown = known.step(scheme) if step == "auto" else step
        log.line(self._title, f"noise of the forces {known.noise:.1e} eV/Å, step {shown:.1e} Å, {scheme} differences")
        return told, known, fresh

    def _work_on(self, parts: list[Part], processes: int, console: Console, log: ProgressLog) -> None:
        todo, total = [part for part in parts if not part.done], len(self.todo)
        kept, began = total - sum(len(part.indices) for part in todo), time.monotonic()
        done, failed = kept, 0
        with work_bar(console) as progress:
            bar = progress.add_task(self._title, total=total, completed=done, failed=0)
            for number, missed in each(label_part, todo, processes, where=self._title) if todo else ():
                done, failed = done + number, failed + missed
                progress.update(bar, completed=done, failed=failed)
                left = time_left(time.monotonic() - began, done - kept, total - kept)
                text = f"{done}/{total} structures, {failed} failed{left}"
                log.progress(self._title, "structures", done, total, text)

    def _write(self, parts: list[Part], report: LabellingReport, known: Smoothness | None) -> None:
        attributes, wanted = self.store.attributes, self.settings
        record: dict[str, Any] = {
            "digest": self._digest,
            "settings": wanted.model_dump(mode="json"),
            "structures": report.labelled,
            "failed": report.failed,
            "cost": report.cost,
        }
        known_versions = [attributes.versions, self.engine.versions()]
        if known is not None:
            record["forces"] = {key: float(f"{value:.3g}") for key, value in asdict(known).items()}
        write_store(
            self.output,
            self._structures(parts),
            level_of_theory=self.engine.level_of_theory,
            provenance=extended(relabelled(self.store) if wanted.relabel else attributes.provenance, record),
            versions=self.engine.versions() if wanted.relabel else join_versions(known_versions),
            hessian_dtype=attributes.hessian_dtype,
            split_by=attributes.split_by,
        )

    def _structures(self, parts: list[Part]) -> Iterator[Structure]:
        """All structures of the source, with their new labels; those that have some, where the old ones are dropped."""
        where = {i: part for part in parts for i in part.indices}
        opened: tuple[Path | None, dict[str, Structure]] = None, {}
        for i, structure in enumerate(self.store):
            part = where.get(i)
            if part is None and self.settings.relabel:
                continue
            if part is not None and part.path != opened[0]:
                file = part.path.with_suffix(".h5")
                opened = part.path, {one.name: one for one in Store.open(file)} if file.exists() else {}
            new = opened[1].get(structure.name) if part is not None else None
            if self.settings.relabel:
                if new is not None:
                    yield new
            elif new is None:
                yield structure
            elif structure.hessian is None:
                yield replace(
                    structure,
                    energy=new.energy,
                    forces=new.forces,
                    hessian=new.hessian,
                    hessian_asymmetry=new.hessian_asymmetry,
                    directions=new.directions,
                )
            else:
                yield replace(structure, energy=new.energy, forces=new.forces, directions=new.directions)

    def _clear(self) -> None:
        """Remove the parts."""
        for path in self._folder.glob(f"*-{self._digest}.*"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # parts of other settings
            self._folder.rmdir()

    def _hopeless(self, reason: str) -> DataError:
        self._clear()  # the next run tries again
        hint = "see what the engine and the kind of directions need"
        return DataError(f"nothing could be labelled: {reason}", where=self.store.path, hint=hint)


def engine_of(store: Store) -> dict[str, Any] | None:
    """Settings of the engine that a set was built or last labelled with, from its provenance.

    ``None`` if it names no engine, or one that runs what its settings name: others may have written the set.
    """
    told = records_of(store.attributes.provenance)
    for record in (told.get("recipe"), *(one.get("settings") for one in labelled_records(told))):
        if isinstance(record, dict) and isinstance(found := record.get("engine"), dict):
            known = ENGINES.own().get(str(found.get("name")))
            return found if known is not None and known.of_data else None
    return None


def choose(store: Store, names: Path | None, split: str | None) -> list[int] | None:
    """Structures by a file with one name a line, or by split; all (``None``) if neither is given.

    Empty lines and lines that begin with ``#`` are skipped. Raises :class:`DataError` when a name or the split is not
    there, or the file cannot be read.
    """
    if names is None:
        return None if split is None else store.indices(split).tolist()
    try:
        lines = names.read_text(encoding="utf-8").split("\n")  # other line breaks may stand in a name
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=names, hint="give a text file, one name a line") from error
    index = {name: i for i, name in enumerate(store.names)}
    found = []
    for number, raw in enumerate(lines, 1):
        line = raw if raw in index else raw.strip()
        if line in index:
            found.append(index[line])
        elif line and not line.startswith("#"):
            hint = "write names as they are in the set, one a line"
            raise DataError(f"{store.path} has no structure {line!r}", where=f"{names}, line {number}", hint=hint)
    if not found:
        raise DataError("names no structure", where=names, hint="write one name a line")
    if split is not None:
        found = sorted(set(found) & set(store.indices(split).tolist()))
    return found


def _is_differenced(surface: Surface) -> bool:
    """Whether Hessians of a surface are differences of its forces."""
    return type(surface).second_derivatives is Surface.second_derivatives
