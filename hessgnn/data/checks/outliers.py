"""Outliers: structures far from the rest. They are listed, never dropped: some are the chemistry one wants."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hessgnn.data.checks.finding import Finding, Seen, finding
from hessgnn.data.structure import Array, Structure

DEVIATIONS = 10.0
"""Robust standard deviations (1.4826 × median absolute deviation) beyond which a value is an outlier."""
ENERGY_FLOOR = 3.0
"""…and at least so far from what the composition explains, eV per atom: strain and odd bonds reach 2 in small sets."""
HEIGHT_FLOOR = 5.0
"""…or from the median of the frames of one group, eV."""
FORCE_FLOOR = 50.0
"""…or with a largest force of so much, eV/Å."""
HESSIAN_FLOOR = 500.0
"""…or with a largest element of so much, eV/Å²; triple bonds reach 180, strongly displaced frames 400. Products along
unit vectors have this bound too."""
MAX_SPREAD = 5.0
"""Robust standard deviation of energies beyond their composition, eV per atom, that one level of theory can have."""

_MIN_STRUCTURES = 10  # fewer have no rest to be far from
_ROUNDS = 3  # of the fit to compositions, each without the outliers of the one before


class Outliers:
    """Energies, forces and Hessians far from the rest. Keeps a few numbers of each structure."""

    def __init__(self) -> None:
        self._indices = array("q")
        self._names: list[str] = []
        self._composition: dict[bytes, int] = {}
        self._compositions = array("q")
        self._group: dict[tuple[str, int], int] = {}
        self._groups = array("q")
        self._energies, self._forces, self._hessians = array("d"), array("d"), array("d")
        self._products = array("d")

    def see(self, seen: Seen) -> None:
        """Keep its composition, its energy, and the largest of its forces and second derivatives."""
        structure = seen.structure
        self._indices.append(seen.index)
        self._names.append(structure.name)
        atoms = np.sort(structure.numbers).astype(np.uint8).tobytes()
        composition = self._composition.setdefault(atoms, len(self._composition))
        self._compositions.append(composition)
        self._groups.append(self._group.setdefault((structure.group, composition), len(self._group)))
        self._energies.append(np.nan if structure.energy is None else structure.energy)
        self._forces.append(_largest(structure.forces))
        self._hessians.append(_largest(structure.hessian))
        self._products.append(_largest(_along_unit_vectors(structure)))

    def findings(self) -> Iterator[Finding]:
        """One for each kind of outlier."""
        energies = np.array(self._energies)
        known = np.flatnonzero(np.isfinite(energies))
        if len(known) >= _MIN_STRUCTURES:
            residuals, spread = beyond_composition(energies[known], self._atoms_of_elements()[known])
            if spread > MAX_SPREAD:
                what = f"energies spread by {spread:.3g} eV per atom around what compositions explain, expected below"
                what += f" {MAX_SPREAD:g}: two levels of theory in one set, or another unit?"
                yield finding("error", "energy-spread", what, *self._who(known))
            else:
                yield from self._listed(
                    known[far(residuals, ENERGY_FLOOR)],
                    "energies far from what their composition explains (largest {:.3g} eV per atom)",
                    residuals[far(residuals, ENERGY_FLOOR)],
                )
                heights = _within(np.array(self._groups)[known], energies[known])
                yield from self._listed(
                    known[far(heights, HEIGHT_FLOOR)],
                    "energies far from those of the same group (largest {:.3g} eV)",
                    heights[far(heights, HEIGHT_FLOOR)],
                )
        for values, floor, what in (
            (np.array(self._forces), FORCE_FLOOR, "forces far larger than the rest (up to {:.3g} eV/Å)"),
            (np.array(self._hessians), HESSIAN_FLOOR, "Hessian elements far larger than the rest (up to {:.3g} eV/Å²)"),
            (
                np.array(self._products),
                HESSIAN_FLOOR,
                "products far larger than the rest (components up to {:.3g} eV/Å² along unit vectors)",
            ),
        ):
            there = np.flatnonzero(np.isfinite(values))
            if len(there) >= _MIN_STRUCTURES:
                chosen = there[far(values[there], 0.0) & (values[there] > floor)]
                yield from self._listed(chosen, what, values[chosen])

    def _atoms_of_elements(self) -> Array:
        """Atoms of each element, ``(n, n_elements)``."""
        counts = np.array([np.bincount(np.frombuffer(key, np.uint8), minlength=119) for key in self._composition])
        return counts[:, counts.any(axis=0)][np.array(self._compositions)].astype(np.float64)

    def _who(self, places: NDArray[np.int64]) -> tuple[list[int], list[str]]:
        return [self._indices[i] for i in places], [self._names[i] for i in places]

    def _listed(self, places: NDArray[np.int64], what: str, values: Array) -> Iterator[Finding]:
        if len(places):
            worst_first = np.argsort(-np.abs(values), kind="stable")
            indices, names = self._who(places[worst_first])
            yield finding("warning", "outlier", what.format(np.abs(values).max()), indices, names)


def far(values: Array, floor: float) -> NDArray[np.bool_]:
    """Tell which values ``(n,)`` are outliers.

    They are further from the median than ``floor`` and than :data:`DEVIATIONS` robust standard deviations.
    """
    distances = np.abs(values - np.median(values))
    return distances > max(DEVIATIONS * 1.4826 * float(np.median(distances)), floor)


def beyond_composition(energies: Array, compositions: Array) -> tuple[Array, float]:
    """Subtract from energies what a sum over elements explains, fitted so that outliers do not bend it.

    ``energies`` are ``(n,)`` in eV, ``compositions`` ``(n, n_elements)`` the atoms of each element. Returns the
    residuals ``(n,)``, eV per atom, and their robust standard deviation.
    """
    n_atoms = compositions.sum(axis=1)
    shares, per_atom = compositions / n_atoms[:, None], energies / n_atoms
    kept = np.ones(len(energies), dtype=bool)
    for _ in range(_ROUNDS):
        solution, *_ = np.linalg.lstsq(shares[kept], per_atom[kept], rcond=None)
        residuals = per_atom - shares @ solution
        kept = ~far(residuals, 1e-9)
    return residuals, 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))


def _within(groups: NDArray[np.int64], energies: Array) -> Array:
    """Energy above the median of its group, eV; zero in groups of fewer than three, which have no middle."""
    heights = np.zeros(len(energies))
    order = np.argsort(groups, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        if len(members) > 2:
            heights[members] = energies[members] - np.median(energies[members])
    return heights


def _along_unit_vectors(structure: Structure) -> Array | None:
    directions = structure.directions
    if directions is None:
        return None
    lengths = np.linalg.norm(directions.vectors, axis=(1, 2), keepdims=True)
    return np.divide(directions.products, lengths, out=np.zeros_like(directions.products), where=lengths > 0)


def _largest(values: Array | None) -> float:
    return np.nan if values is None else float(np.abs(values).max())
