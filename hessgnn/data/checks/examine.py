"""Reading a store once for all checks, and the report of what they found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from hessgnn.data.checks.directions import DirectionLabels
from hessgnn.data.checks.finding import Check, Finding, Level, Seen, Suspects
from hessgnn.data.checks.geometry import Distances, Repetitions
from hessgnn.data.checks.labels import (
    ForceMagnitude,
    HessianMagnitude,
    Invariances,
    LabelNoise,
    Noise,
    Placeholders,
    Symmetry,
)
from hessgnn.data.checks.membership import (
    Compositions,
    Counts,
    counts,
    leaks,
    missing_labels,
    molecules,
    unseen_elements,
)
from hessgnn.data.checks.outliers import Outliers
from hessgnn.data.checks.slopes import Slopes
from hessgnn.data.store.store import Store
from hessgnn.errors import DataError
from hessgnn.runtime.terminal import tracked

TRAINING_SAMPLE = 20_000
"""Structures read before training, drawn with :data:`SEED` from a larger set. ``hessgnn data check`` reads all."""
COMPARED = 2_000
"""Structures of groups with several that are read again, to be compared with each other."""
SEED = 0
_LEVELS = get_args(Level)


@dataclass(frozen=True)
class Report:
    """What an examination found.

    Attributes
    ----------
    findings : tuple of Finding
        Errors first, notes last.
    counts : dict
        Split -> labels, of all structures.
    compositions : dict
        Split -> (compositions, of these in train), of the structures read.
    structures, read, compared : int
        Structures checked, those whose numbers were read, and those compared with others of their group.
    """

    findings: tuple[Finding, ...]
    counts: dict[str, Counts]
    compositions: dict[str, tuple[int, int]]
    noise: tuple[Noise, ...]
    structures: int
    read: int
    compared: int

    @property
    def errors(self) -> list[Finding]:
        """The findings that forbid training."""
        return [finding for finding in self.findings if finding.level == "error"]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return asdict(self)


def examine(store: Store, indices: Iterable[int] | None = None, *, sample: int | None = None) -> Report:
    """Check a store.

    Parameters
    ----------
    store
        Each structure is read once, in the order of the file, and again if it is compared.
    indices
        Structures to look at; all by default. Leaks are sought in the whole store.
    sample
        Read the numbers of so many at most, drawn at random with a fixed seed. Counts, missing labels, elements and
        leaks are of all.
    """
    chosen = np.arange(len(store)) if indices is None else np.unique(np.fromiter(indices, dtype=np.int64))
    read = _sampled(chosen, sample)
    wide = [*leaks(store), *unseen_elements(store, chosen), *missing_labels(store, chosen)]
    slopes, outliers, noise, compositions = Slopes(), Outliers(), LabelNoise(), Compositions()
    products = DirectionLabels()
    reading = _Reading(store)
    checks: list[Check] = [
        Distances(),
        HessianMagnitude(),
        ForceMagnitude(),
        slopes,
        Symmetry(),
        Invariances(),
        products,
        Placeholders(),
        Repetitions(),
        outliers,
    ]
    what = f"checking {store.path.name}" + (f", {len(read)} of {len(chosen)}" if len(read) < len(chosen) else "")
    for seen in reading.of(tracked(read, what)):
        compositions.see(seen)
        noise.see(seen)
        for check in checks:
            check.see(seen)
    compared = 0
    for members in tracked(molecules(store, read, COMPARED, SEED), "comparing neighbouring frames"):
        frames = {seen.index: seen.structure for seen in reading.of(members)}
        slopes.see_molecule(frames)
        products.see_molecule(frames)
        compared += len(frames)
    found = [*reading.findings(), *wide, *(finding for check in checks for finding in check.findings())]
    return Report(
        findings=tuple(sorted(_without_echoes(found), key=lambda finding: _LEVELS.index(finding.level))),
        counts=counts(store, chosen),
        compositions=compositions.shared(),
        noise=tuple(noise.estimates(slopes.energy_residuals, slopes.force_residuals)),
        structures=len(chosen),
        read=len(read),
        compared=compared,
    )


def check(store: Store, indices: Iterable[int] | None = None) -> list[Finding]:
    """Check a store, reading every structure (by default all). Errors come first; empty when nothing is found."""
    return list(examine(store, indices).findings)


def require_sound(store: Store, indices: Iterable[int] | None = None) -> None:
    """Raise :class:`DataError` with the first error and the number of others.

    Above :data:`TRAINING_SAMPLE` structures a sample is read; ``indices`` are those to look at, all by default.
    """
    errors = examine(store, indices, sample=TRAINING_SAMPLE).errors
    if errors:
        others = f" (and {len(errors) - 1} more, see `hessgnn data check`)" if len(errors) > 1 else ""
        raise DataError(errors[0].message + others, where=store.path, hint=REMEDIES.get(errors[0].code, _REMEDY))


_REMEDY = "correct the labels and write the file again"
REMEDIES = {
    "leakage": "split whole groups with `hessgnn data split`",
    "duplicate": "split again with `hessgnn data split`, which keeps copies together, or remove them",
    "unseen-element": "draw another split, or leave these structures out",
    "direction-zero": "leave these directions out",
    "direction-kind": "give the vectors as they were drawn, or name another kind: it decides the weight",
    "direction-weight": "let hessgnn.data.directions.Directions.make choose the weights",
    "direction-duplicate": "keep one of them",
    "direction-sign": "store H v = -[F(R + h v) - F(R - h v)] / 2h",
    "direction-unit": "store H v = -[F(R + h v) - F(R - h v)] / 2h in eV/Å², with v as it is stored",
}
"""What to do about an error, where it is not the labels."""


class _Reading:
    """Reads structures, and keeps those out of every check that cannot be read or hold NaN."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reasons: dict[str, Suspects] = {}
        self._bad: set[int] = set()

    def of(self, indices: Iterable[int]) -> Iterator[Seen]:
        """Yield the sound ones."""
        for index in map(int, indices):
            if index in self._bad:
                continue
            try:
                structure = self._store[index]
            except DataError as error:
                self._spoil(index, "unreadable", f"cannot be read: {error.what}")
                continue
            values = {key: getattr(structure, key) for key in ("positions", "cell", "energy", "forces", "hessian")}
            if structure.directions is not None:
                values |= {"directions": structure.directions.vectors, "products": structure.directions.products}
            for key, value in values.items():
                if value is not None and not np.isfinite(value).all():
                    self._spoil(index, "not-finite", f"{key} hold NaN or infinity")
            if index not in self._bad:
                yield Seen(index, structure)

    def findings(self) -> Iterator[Finding]:
        for suspects in self._reasons.values():
            yield from suspects.findings()

    def _spoil(self, index: int, code: str, what: str) -> None:
        self._bad.add(index)
        suspects = self._reasons.setdefault(what, Suspects("error", code, what.replace("{", "{{").replace("}", "}}")))
        suspects.add_named(index, self._store.names[index])


def _sampled(chosen: NDArray[np.int64], sample: int | None) -> NDArray[np.int64]:
    if sample is None or len(chosen) <= sample:
        return chosen
    return np.sort(np.random.default_rng(SEED).choice(chosen, size=sample, replace=False))


_ECHOES = {
    # A wrong sign or unit of forces or Hessians breaks the rule for turns too, structure by structure.
    "rotation": (
        "forces-sign",
        "forces-unit",
        "hessian-forces-sign",
        "hessian-forces-unit",
        "hessian-sign",
        "position-unit",
    ),
    "energy-spread": ("energy-unit",),
    # Products are compared with forces and Hessians, whose faults are told by themselves.
    "direction-sign": ("forces-sign", "hessian-sign", "hessian-forces-sign"),
    "direction-unit": ("forces-unit", "hessian-unit", "hessian-forces-unit", "position-unit"),
    "direction-rotation": ("forces-sign", "forces-unit", "position-unit", "direction-sign", "direction-unit"),
    "direction-hessian": ("hessian-sign", "hessian-unit", "hessian-forces-sign", "hessian-forces-unit"),
}


def _without_echoes(found: list[Finding]) -> Iterator[Finding]:
    """Leave out what an error explains."""
    codes = {finding.code for finding in found if finding.level == "error"}
    return (finding for finding in found if codes.isdisjoint(_ECHOES.get(finding.code, ())))
