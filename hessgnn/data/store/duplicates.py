"""Finding the same geometry again, however it is turned, mirrored or its atoms ordered, without comparing all pairs.

Each molecule is summed up in four numbers that no rotation, reflection or exchange of like atoms changes. Mirror images
count as the same on purpose: their energies are equal, and no potential of this package tells them apart. Different
geometries that agree in all four would be a coincidence of more than twenty digits.
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hessgnn.data.structure import Structure
from hessgnn.molecules.geometry import invariants

TOLERANCE = 1e-6
"""Relative difference of the four numbers within one geometry: some 1e-6 Å, what float32 or eight decimals leave."""

_WINDOW = 8  # candidates compared with each; more do not stand between two copies in the order of the first number


class Duplicates:
    """Sees structures one by one and tells which are the same. Keeps five numbers of each."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, int] = {}
        self._kind = array("q")
        self._invariants = array("d")

    def add(self, structure: Structure) -> None:
        """Take one more."""
        key = np.sort(structure.numbers).tobytes()
        if structure.pbc.any() and structure.cell is not None:  # no images are compared, but other cells are others
            key += b"|" + structure.pbc.tobytes() + np.round(structure.cell, 6).tobytes()
        self._kind.append(self._kinds.setdefault(key, len(self._kinds)))
        self._invariants.extend(invariants(structure.numbers, structure.positions))

    def classes(self) -> list[NDArray[np.int64]]:
        """Structures that are the same, as places in the order of :meth:`add`.

        Returns
        -------
        list of (k,) int64
            Sorted, k ≥ 2; in the order of their first members.
        """
        kind = np.array(self._kind)
        values = np.array(self._invariants).reshape(-1, 4)
        order = np.lexsort((values[:, 0], kind))
        kind, values = kind[order], values[order]
        same: list[NDArray[np.int64]] = []
        for step in range(1, min(_WINDOW, len(order) - 1) + 1):
            near = np.abs(values[step:] - values[:-step]) <= TOLERANCE * np.abs(values[:-step])
            found = np.flatnonzero((kind[step:] == kind[:-step]) & near.all(axis=1))
            same.append(np.stack([order[found], order[found + step]]))
        if not same:
            return []
        first, second = np.concatenate(same, axis=1)
        links = coo_array((np.ones(len(first)), (first, second)), shape=(len(order), len(order)))
        _, label = connected_components(links, directed=False)
        members: dict[int, list[int]] = {}
        for place in np.unique(np.concatenate([first, second])).tolist():
            members.setdefault(int(label[place]), []).append(place)
        return [np.array(places) for places in members.values()]
