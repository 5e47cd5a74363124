"""Checks of positions and cells: atoms too near, lengths in another unit, the same geometry twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hessgnn.data.checks.finding import Finding, Level, Seen, Suspects, finding
from hessgnn.data.checks.labels import LENGTH_UNITS, misreading
from hessgnn.data.neighbors import neighbors
from hessgnn.data.store.families import Duplicates
from hessgnn.data.store.splits import DISJOINT, VALIDATION, VALIDATION_STATIONARY
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError

COINCIDENT = 0.3
"""Atoms nearer than this are a fault, Å. The shortest bond, H₂, is 0.74 Å; strongly displaced frames reach 0.5 Å."""
BOND_SCALE = (0.7, 1.6)
"""Where the median of (distance to the nearest atom) / (sum of covalent radii) lies; about 0.95 in organic molecules,
1.1 in metals."""
CONTRADICTION = 1e-3
"""Energies of one geometry may differ by this, eV."""

_NOBLE_GASES = (2, 10, 18, 36, 54, 86)  # not bonded: how far apart they are says nothing of the unit
_TYPICAL_BOND = 0.95
_REACH = 6.0  # Å, how far neighbours are sought in crystals


class Distances:
    """Atoms at one place, periodic images included, broken cells, and lengths that are not in Å."""

    def __init__(self) -> None:
        self._cells = Suspects("error", "cell", "periodic, but the cell spans no volume")
        self._close = Suspects(
            "error", "coincident", f"atoms nearer than {COINCIDENT} Å (are positions in nm or fractional?)"
        )
        self._bonds: list[float] = []

    def see(self, seen: Seen) -> None:
        """Find the nearest neighbour of each atom."""
        structure = seen.structure
        if structure.pbc.any() and not _spans(structure):
            self._cells.add(seen)
            return
        nearest, partner = _nearest(structure)
        if len(nearest) and nearest.min() < COINCIDENT:
            self._close.add(seen)
        numbers = structure.numbers
        bonded = np.isfinite(nearest) & (nearest > 0) & ~np.isin(numbers, _NOBLE_GASES)
        if bonded.any():
            radii = covalent_radii[numbers] + covalent_radii[numbers[partner]]
            self._bonds.append(float(np.median((nearest / radii)[bonded])))

    def findings(self) -> Iterator[Finding]:
        """Judge all bonds together: a single stretched one is no wrong unit."""
        yield from self._cells.findings()
        yield from self._close.findings()
        if not self._bonds:
            return
        median = float(np.median(self._bonds))
        if not BOND_SCALE[0] <= median <= BOND_SCALE[1]:
            what = f"bonds are {median:.3g} times as long as covalent radii make them"
            reading = misreading(median / _TYPICAL_BOND, LENGTH_UNITS, "Å")
            yield Finding("error", "position-unit", f"{what}: {reading}")


@dataclass(frozen=True)
class _Copy:
    """What is kept of a structure to tell of its copies."""

    index: int
    name: str
    split: str
    energy: float | None


class Repetitions:
    """The same geometry twice, up to rotation, reflection and the order of like atoms."""

    def __init__(self) -> None:
        self._duplicates = Duplicates()
        self._seen: list[_Copy] = []

    def see(self, seen: Seen) -> None:
        """Sum one up."""
        structure = seen.structure
        self._duplicates.add(structure)
        self._seen.append(_Copy(seen.index, structure.name, structure.split, structure.energy))

    def findings(self) -> Iterator[Finding]:
        """Tell apart copies within a split, copies that leak, and copies whose energies differ."""
        classes = [[self._seen[place] for place in places] for places in self._duplicates.classes()]
        contradicting = [copies for copies in classes if _spread(copies) > CONTRADICTION]
        across = [copies for copies in classes if _leaks({copy.split for copy in copies})]
        within = [copies for copies in classes if not _leaks({copy.split for copy in copies})]
        if contradicting:
            spread = max(map(_spread, contradicting))
            what = f"one geometry with energies {spread:.3g} eV apart: two levels of theory, charges or spins?"
            yield _about("error", "contradiction", what, contradicting)
        same = "the same geometry (up to rotation, reflection or reordering)"
        if across:
            first = across[0][0]
            other = next(copy for copy in across[0] if copy.split != first.split)
            what = f"{first.name!r} ({first.split}) and {other.name!r} ({other.split}) are {same}"
            yield _about("error", "duplicate", what, across)
        if within:
            what = f"{within[0][0].name!r} and {within[0][1].name!r} are {same}"
            yield _about("warning", "duplicate", what, within)


def _about(level: Level, code: str, what: str, classes: list[list[_Copy]]) -> Finding:
    copies = [copy for same in classes for copy in same]
    return finding(level, code, what, [copy.index for copy in copies], [copy.name for copy in copies])


def _spread(copies: list[_Copy]) -> float:
    energies = [copy.energy for copy in copies if copy.energy is not None]
    return max(energies) - min(energies) if energies else 0.0


def _leaks(splits: set[str]) -> bool:
    """Whether a copy in one split tells of what another was trained, chosen or tested on."""
    splits = {VALIDATION if split == VALIDATION_STATIONARY else split for split in splits}
    return len(splits) > 1 and (bool(splits & {"train", "validation"}) or len(splits & set(DISJOINT)) > 1)


def _spans(structure: Structure) -> bool:
    vectors = np.zeros((3, 3)) if structure.cell is None else structure.cell
    return bool(np.linalg.matrix_rank(vectors[structure.pbc], tol=1e-3) == structure.pbc.sum())


def _nearest(structure: Structure) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance of each atom to the nearest other or image, Å, infinite where there is none; and which atom that is."""
    n_atoms = len(structure)
    nearest, partner = np.full(n_atoms, np.inf), np.zeros(n_atoms, dtype=np.int64)
    if structure.pbc.any():
        try:
            (i, j), shift = neighbors(structure.positions, _REACH, structure.cell, structure.pbc)
        except DataError:  # it refuses what lies at the very same place
            return np.zeros(n_atoms), partner
        lengths = np.linalg.norm(structure.positions[j] + shift - structure.positions[i], axis=1)
        farthest_first = np.argsort(-lengths)
        nearest[i[farthest_first]], partner[i[farthest_first]] = lengths[farthest_first], j[farthest_first]
    elif n_atoms > 1:
        distances, found = cKDTree(structure.positions).query(structure.positions, k=2)
        nearest, own = distances[:, 1], np.arange(n_atoms)
        partner = np.where(found[:, 1] == own, found[:, 0], found[:, 1])  # of two at one place either may come first
    return nearest, partner
