"""Minima that were found twice: two names of one molecule, two starts that end in one conformer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from hessgnn.data.kinds import MINIMUM, STATIONARY
from hessgnn.data.structure import Array, Structure

_ENERGY = 1e-4
"""Copies agree so well in energy, eV; far more than two optimisations of one minimum differ by."""
_DISTANCE = 0.02
"""And in all their sorted distances, Å."""


def find_copies(structures: Sequence[Structure]) -> dict[str, str]:
    """Find minima that are also there under another name, whatever the order of their atoms and their handedness.

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
            twin = next((other for other, its in kept if _same(structure, fingerprint, other, its)), None)
            if twin is not None and structure.kind == MINIMUM:
                copies[structure.name] = twin.name
            else:
                kept.append((structure, fingerprint))
    return copies


def _same(first: Structure, its: Array, second: Structure, others: Array) -> bool:
    close = abs((first.energy or 0.0) - (second.energy or 0.0)) < _ENERGY
    return close and its.shape == others.shape and bool(np.abs(its - others).max() < _DISTANCE)


def sorted_distances(numbers: NDArray[np.int64], positions: Array) -> Array:
    """All distances, sorted within each pair of elements: equal for copies, whatever their order and handedness.

    Parameters
    ----------
    numbers
        ``(N,)`` atomic numbers.
    positions
        ``(N, 3)``, Å.

    Returns
    -------
    (N (N - 1) / 2,) float64
        Å.
    """
    distances = pdist(positions)
    i, j = np.triu_indices(len(numbers), 1)
    pair = np.maximum(numbers[i], numbers[j]) * 1000 + np.minimum(numbers[i], numbers[j])
    return distances[np.lexsort([distances, pair])]
