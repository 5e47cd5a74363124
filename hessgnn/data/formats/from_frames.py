"""Products from frames that exist: forces of displaced geometries become directions of the geometry between them."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import yaml

from hessgnn.data.directions import Directions
from hessgnn.data.displacements import (
    MAX_DISPLACEMENT,
    MIN_DISPLACEMENT,
    At,
    Differences,
    anharmonicity,
    differences,
    directions_of,
    displacement,
    mismatch,
    parted,
    require_signs,
    too_far,
)
from hessgnn.data.formats import registry
from hessgnn.data.formats.transfer import ImportOptions, import_data
from hessgnn.data.store.layout import FORMAT
from hessgnn.data.store.splits import TRAIN
from hessgnn.data.store.store import Store, bundled_names
from hessgnn.data.store.writer import write_store
from hessgnn.data.structure import STATIONARY, TRANSITION_STATE, Array, Structure
from hessgnn.errors import ConfigError, DataError, did_you_mean
from hessgnn.runtime.terminal import tracked

KIND = "displacement"
"""Kind of these directions: nobody knows the distribution that the displacements were drawn from."""
PARENT, NEAREST = "parent", "nearest"

Moved = tuple[Array, Array]  # displacement and forces of a frame
_PHONOPY = "phonopy*.yaml*"
_SUFFIXES = {".xyz": "extxyz", ".extxyz": "extxyz", ".db": "ase-db", ".fchk": "gaussian", ".fch": "gaussian"}


@dataclass(frozen=True)
class DirectionOptions:
    """How frames are turned into products.

    ================= ========================================================================================
    field             meaning
    ================= ========================================================================================
    reference         what a frame is a displacement of: its ``parent``; the ``nearest`` stationary structure of
                      the same atoms (where there is none, the one with the smallest forces); a structure, by its
                      name; or the nearest structure of a file. By default ``parent``, and ``nearest`` in a set
                      without parents
    max_displacement  Å, of the atom that moves most
    at                products of one-sided differences: at the ``reference``, or at a new structure at the
                      ``midpoint``
    keep_frames       whether frames that were used stay in the set, for their energies and forces
    ================= ========================================================================================
    """

    reference: str = ""
    max_displacement: float = MAX_DISPLACEMENT
    at: At = "reference"
    keep_frames: bool = True


@dataclass
class DirectionReport:
    """What became of the frames; ``left_out`` holds a reason for each that was not used."""

    structures: int = 0
    references: int = 0
    used: int = 0
    directions: int = 0
    central: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    errors_from: str = "unknown"
    anharmonicity: float | None = None
    relative_error: float | None = None
    step: float | None = None
    """Median ε, Å."""


@contextmanager
def opened(source: str, name: str = "", level: str = "") -> Iterator[tuple[Store, dict[str, str]]]:
    """Open a store by path or name, or read a source of another format into a temporary one.

    Parameters
    ----------
    name
        The format; by default told from the file's name.
    level
        Level of theory, where the source does not say it.

    Yields
    ------
    store, unreadable
        The second maps places in the source to the reason why a structure could not be read.
    """
    path = Path(source)
    if not name and (source in bundled_names() or not path.exists() or _is_store(path)):
        with Store.open(source) as store:
            yield store, {}
        return
    known = name or _SUFFIXES.get(path.suffix.lower(), "")
    if known == "phonopy" or (not known and (path.match(_PHONOPY) or any(path.rglob(_PHONOPY)))):
        raise ConfigError("phonopy's files hold products", where=path, hint=f"hessgnn data import phonopy {path}")
    if not known:
        formats = ", ".join(name for name in registry.READERS.names() if name != "phonopy")
        raise ConfigError("its format is not known", where=path, hint=f"give it: --format, one of {formats}")
    with tempfile.TemporaryDirectory(prefix="hessgnn-") as folder:
        options = ImportOptions(level=level, hessian_dtype="float64")
        with redirect_stdout(sys.stderr):  # progress; the report may be JSON
            report = import_data(known, path, Path(folder) / "frames.h5", options)
        with Store.open(report.path) as store:
            yield store, report.unreadable


def _is_store(path: Path) -> bool:
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return bool(file.attrs.get("format") == FORMAT)


def make_directions(
    store: Store,
    output: Path | None,
    options: DirectionOptions = DirectionOptions(),
    others: Store | None = None,
    *,
    source: str = "",
) -> DirectionReport:
    """Turn the frames of a set into products, and write the set with these.

    The products are in memory until they are written: as much as the forces of the frames that are used, twice.

    Parameters
    ----------
    store
        The frames, and their references unless ``others`` holds these.
    output
        The store to write; nothing is written without.
    others
        References from another file, which are added to the set.
    source
        Where the frames come from, for messages; the file of ``store`` by default.

    Raises
    ------
    DataError
        When a reference has no forces, a frame is none of its stated reference, levels of theory differ, the sign of
        the forces is wrong, or no frame is near enough to its reference.
    """
    if output is not None and output.exists():
        raise DataError("exists already", where=output, hint="remove it or give another name")
    job = _Job(store, options, others, source or str(store.path))
    made = job.run()
    report = job.report
    if output is not None:
        record = {
            "directions": {"file": source or str(store.path)} | asdict(options) | asdict(report),
            "source": store.attributes.provenance,
        }
        attributes = store.attributes
        write_store(
            output,
            job.result(made),
            level_of_theory=attributes.level_of_theory,
            provenance=yaml.safe_dump(record, sort_keys=False, allow_unicode=True),
            versions=attributes.versions | {"hessgnn": version("hessgnn")},
            hessian_dtype=attributes.hessian_dtype,
            split_by=attributes.split_by,
        )
    return report


class _Around(NamedTuple):
    """Products of one reference: an index of the set, or ``-1 - k`` for number k of the other file."""

    reference: int
    frames: list[int]
    """Those that were used, in the order of the products' sources."""
    displacements: Array
    made: Differences


class _Job:
    """Assigns frames to references, makes the products and lists what is left out."""

    def __init__(self, store: Store, options: DirectionOptions, others: Store | None, source: str) -> None:
        self.store, self.options, self.others, self.source = store, options, others, source
        self.report = DirectionReport()
        if others is not None:
            level, own = others.attributes.level_of_theory, store.attributes.level_of_theory
            if level != own:
                what = f"is at {level}, and the frames at {own}: forces of two levels have no difference"
                raise DataError(
                    what, where=options.reference or others.path, hint="give a reference at the same level of theory"
                )
        self._reasons: Counter[str] = Counter()
        self._place = {name: index for index, name in enumerate(store.names)}

    def run(self) -> list[_Around]:
        """Make the products; nothing is written."""
        groups = self._groups()
        made = []
        for key in tracked(list(groups), "frames around their references"):
            found = self._around(key, groups[key])
            if found is not None:
                made.append(found)
        report = self.report
        report.reasons = dict(self._reasons.most_common())
        if not made:
            name, reason = next(iter(report.left_out.items()), ("", "no structure has another as its reference"))
            what = f"no frame can be used; the first: {name}: {reason}" if name else reason
            raise DataError(what, where=self.source, hint="see --reference and --max-displacement")
        judged = [
            one.made
            for one in made
            if self._structure(one.reference).kind != TRANSITION_STATE or np.isfinite(one.made.slopes).any()
        ]
        require_signs(judged, self.source)
        self._count(made)
        return made

    def result(self, made: list[_Around]) -> Iterator[Structure]:
        """The set with its products: references of another file first, structures at midpoints last."""
        at_midpoint = self.options.at == "midpoint"
        labels = {} if at_midpoint else {one.reference: self._directions(one) for one in made}
        dropped = self._dropped(made)
        for one in made:
            if one.reference < 0:
                structure = self._structure(one.reference)
                yield structure if at_midpoint else structure.with_directions(labels[one.reference])
        for index in range(len(self.store)):
            if index not in dropped:
                structure = self.store[index]
                yield structure.with_directions(labels[index]) if index in labels else structure
        if at_midpoint:
            for one in made:
                yield from self._midpoints(one)

    def _dropped(self, made: list[_Around]) -> set[int]:
        """Frames that the result does not keep; one that is a reference too stays."""
        if self.options.keep_frames:
            return set()
        return {index for one in made for index in one.frames} - {one.reference for one in made}

    def _midpoints(self, one: _Around) -> Iterator[Structure]:
        """Structures halfway between frames and their reference, without energy and forces."""
        reference, labels = self._structure(one.reference), self._directions(one)
        for k, index in enumerate(one.frames):
            frame = self.store[index]
            yield replace(
                reference,
                positions=reference.positions + one.displacements[k] / 2,
                energy=None,
                forces=None,
                hessian=None,
                hessian_asymmetry=None,
                directions=labels.select([k]),
                name=f"{frame.name}/midpoint",
                group=frame.group,
                kind=frame.kind,
                split=frame.split,
                parent=reference.name,
            )

    def _directions(self, one: _Around) -> Directions:
        return directions_of(one.made, KIND, self._anharmonicity.errors(one.made, self.options.at))

    # Who is a frame of whom

    def _groups(self) -> dict[int, list[int]]:
        """Frames of each reference, in the order of the set."""
        store, wanted = self.store, self.options.reference
        self._stated = True
        if self.others is not None and len(self.others) == 1:
            return {-1: list(range(len(store)))}
        if self.others is not None:
            self._stated = False
            return self._nearest(range(len(store)), [-1 - k for k in range(len(self.others))])
        parents = store.parents
        if wanted == PARENT or (not wanted and any(parents)):
            return self._of_parents(parents)
        if wanted in ("", NEAREST):
            self._stated = False
            stationary = [i for i, kind in enumerate(store.kinds) if kind in STATIONARY]
            references = [*stationary, *self._calmest(stationary)]
            return self._nearest(sorted(set(range(len(store))) - set(references)), references)
        if wanted not in self._place:
            hint = did_you_mean(wanted, self._place)
            hint = hint if hint.startswith("did") else "give a name of it, a file, parent or nearest"  # not thousands
            raise DataError(f"has no structure {wanted!r}", where=self.source, hint=hint)
        index = self._place[wanted]
        return {index: [i for i in range(len(store)) if i != index]}

    def _of_parents(self, parents: list[str]) -> dict[int, list[int]]:
        groups, named = defaultdict(list), set(parents)
        for index, parent in enumerate(parents):
            if parent in self._place:
                groups[self._place[parent]].append(index)
            elif parent:
                self._leave(index, "its parent is not in the set")
            elif self.store.names[index] not in named:
                self._leave(index, "has no parent")
        return dict(groups)

    def _calmest(self, stationary: list[int]) -> list[int]:
        """Of molecules without a stationary structure the one with the smallest forces."""
        known = {self._atoms(index) for index in stationary}
        calmest: dict[tuple, tuple[float, int]] = {}
        for index in np.flatnonzero(self.store.has_forces).tolist():
            atoms = self._atoms(index)
            if atoms not in known:
                forces = float(np.square(self.store.per_atom("forces", index)).sum())
                calmest[atoms] = min(calmest.get(atoms, (np.inf, index)), (forces, index))
        return [index for _, index in calmest.values()]

    def _nearest(self, frames: Sequence[int], references: list[int]) -> dict[int, list[int]]:
        candidates = defaultdict(list)
        for key in references:
            candidates[self._atoms(key)].append(key)
        groups = defaultdict(list)
        for index in tracked(frames, "finding references"):
            near = candidates.get(self._atoms(index), [])
            if len(near) > 1:
                frame = self.store[index]
                near = [min(near, key=lambda key, frame=frame: self._distance(frame, key))]  # type: ignore[misc]
            if near:
                groups[near[0]].append(index)
            else:
                self._leave(index, "no reference has its atoms")
        return dict(groups)

    def _distance(self, frame: Structure, key: int) -> float:
        reference = self._structure(key)
        return float("inf") if mismatch(frame, reference) else float(np.linalg.norm(displacement(frame, reference)[0]))

    def _atoms(self, key: int) -> tuple[bytes, bytes]:
        """Atoms in their order, and the cell."""
        store, index = self._owner(key)
        cell = np.round(store.columns.rows("cell", index, index + 1), 4) + 0.0
        return store.per_atom("numbers", index).tobytes(), cell.tobytes()

    def _owner(self, key: int) -> tuple[Store, int]:
        if key >= 0:
            return self.store, key
        assert self.others is not None
        return self.others, -1 - key

    def _structure(self, key: int) -> Structure:
        store, index = self._owner(key)
        return store[index]

    def _leave(self, index: int, reason: str, detail: str = "") -> None:
        """Note why a frame is not used: the reason that is counted, and what is known of this frame."""
        self.report.left_out[self.store.names[index]] = detail or reason
        self._reasons[reason] += 1

    # Products

    def _around(self, key: int, frames: list[int]) -> _Around | None:
        """Products around one reference; ``None`` where no frame can be used."""
        reference = self._structure(key)
        taken = [taken for index in frames if (taken := self._taken(index, reference)) is not None]
        if not taken:
            return None
        where = f"{self.source if key >= 0 else self.options.reference}, {reference.name}"
        if reference.forces is None:
            raise DataError(
                f"is the reference of {len(taken)} frames and has no forces", where=where, hint="label it with forces"
            )
        if reference.directions is not None and KIND in reference.directions.kinds:
            raise DataError(f"has directions of kind {KIND} already", where=where, hint="start without them")
        indices = [index for index, _ in taken]
        superposed, upright = (np.array([found[k] for _, found in taken]) for k in (0, 1))  # (K, 2, N, 3)
        lost = parted(superposed[:, 0], upright[:, 0])
        superposed[lost] = upright[lost]
        displacements, forces = superposed[:, 0], superposed[:, 1]
        made = differences(
            displacements,
            forces,
            reference.forces,
            energies=np.where(self.store.has_energy[indices], self.store.energies[indices], np.nan),
            reference_energy=reference.energy,
            at=self.options.at,
        )
        return _Around(key, indices, displacements, made)

    def _taken(self, index: int, reference: Structure) -> tuple[int, tuple[Moved, Moved]] | None:
        """Displacement and forces of a frame, superposed and as it lies; ``None`` where it is left out."""
        frame, limit = self.store[index], self.options.max_displacement
        reason, detail = mismatch(frame, reference), ""
        if reason and self._stated:
            raise DataError(
                f"is no displacement of {reference.name}: {reason}",
                where=f"{self.source}, {frame.name}",
                hint=f"try --reference {NEAREST}",
            )
        if not reason and frame.forces is None:
            reason = "has no forces"
        if not reason and self.options.at == "reference" and reference.split == TRAIN and frame.split != TRAIN:
            reason = f"its reference is in {TRAIN} and it is not"  # its forces would be trained on
            detail = f"is in {frame.split}, and its reference in {TRAIN}"
        if not reason:
            moved, upright = displacement(frame, reference), displacement(frame, reference, turn=False)
            largest, own = (float(np.linalg.norm(one[0], axis=1).max()) for one in (moved, upright))
            if MIN_DISPLACEMENT <= largest <= limit:
                return index, (moved, upright if own <= limit else moved)
            reason = "is its reference, displaced by nothing"
            if largest > limit:
                reason, detail = "too far from its reference", too_far(frame, reference, largest, limit)
        self._leave(index, reason, detail)
        return None

    def _count(self, made: list[_Around]) -> None:
        report = self.report
        self._anharmonicity = anharmonicity([one.made for one in made])
        errors = np.concatenate([self._anharmonicity.errors(one.made, self.options.at) for one in made])
        sizes = np.concatenate([one.made.sizes for one in made])
        known = np.isfinite(errors) & (sizes > 0)
        report.references, report.directions = len(made), len(sizes)
        report.central = int(sum(one.made.central.sum() for one in made))
        report.errors_from = self._anharmonicity.source
        report.step = float(np.median(np.concatenate([one.made.steps for one in made])))
        if known.any():
            report.relative_error = float(np.median(errors[known] / sizes[known]))
        if np.isfinite(self._anharmonicity.rate):
            report.anharmonicity = self._anharmonicity.rate
        report.used = sum(len(one.frames) for one in made)
        report.structures = len(self.store) - len(self._dropped(made)) + sum(one.reference < 0 for one in made)
        report.structures += report.directions if self.options.at == "midpoint" else 0
