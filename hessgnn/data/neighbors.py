"""Neighbour lists, found outside the differentiated graph; distances are recomputed inside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import vesin
from torch import Tensor

from hessgnn.errors import DataError

COINCIDENT = 1e-4
"""Å: float32 cannot tell atoms apart that are nearer, and the derivatives of a distance of zero are not finite."""


class CoincidentAtoms(DataError):
    """Two atoms, or an atom and an image, lie at the same place."""


class NeighborFinder:
    """Finds the neighbours of one structure again and again, as its atoms move.

    Parameters
    ----------
    cutoff
        Å, as of :func:`neighbors`.
    skin
        Å. Candidates are found within ``cutoff + skin`` and kept until an atom has moved by half of the skin or the
        cell has changed. Only those within the cutoff are returned, so the result does not depend on the skin.
    """

    def __init__(self, cutoff: float, skin: float = 0.0) -> None:
        self._finder = vesin.NeighborList(cutoff=cutoff, full_list=True, skin=skin)

    def __call__(
        self,
        positions: np.ndarray,
        cell: np.ndarray | None = None,
        pbc: np.ndarray | bool = False,
        where: object | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find every ordered pair within the cutoff, see :func:`neighbors`."""
        periodic = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,))
        if len(positions) < 2 and not periodic.any():
            return np.zeros((2, 0), dtype=np.int64), np.zeros((0, 3))
        box = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64)
        points = np.ascontiguousarray(positions, dtype=np.float64)
        found = self._finder.compute(points=points, box=box, periodic=periodic.tolist(), quantities="ijSd")
        i, j, images, distances = found
        if len(distances) and distances.min() < COINCIDENT:
            nearest = distances.argmin()
            image = " (of a periodic image)" if images[nearest].any() else ""
            raise CoincidentAtoms(
                f"atoms {i[nearest]} and {j[nearest]}{image} lie at the same place, {distances[nearest]:.1e} Å apart",
                where=where,
                hint="remove one of them or correct positions and cell",
            )
        order = np.lexsort((*images.T[::-1], j, i))  # vesin promises no order; a fixed one keeps runs reproducible
        edge_index = np.stack([i, j]).astype(np.int64)[:, order]
        return edge_index, images[order].astype(np.float64) @ box


def neighbors(
    positions: np.ndarray,
    cutoff: float,
    cell: np.ndarray | None = None,
    pbc: np.ndarray | bool = False,
    where: object | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find every ordered pair of atoms within a cutoff, periodic images included.

    Parameters
    ----------
    positions
        ``(n_atoms, 3)``, Å.
    cutoff
        Å. A pair at exactly this distance may be in or out: potentials must vanish there.
    cell
        ``(3, 3)``, Å, one lattice vector per row; not needed without periodicity.
    pbc
        ``(3,)`` or one value: which lattice vectors are periodic.
    where
        Names the structure in an error.

    Returns
    -------
    edge_index
        ``(2, n_edges)`` int64: centre ``i`` and neighbour ``j``. Both orders of each pair are present.
    edge_shift
        ``(n_edges, 3)``, Å: the vector from ``i`` to ``j`` is ``positions[j] + shift - positions[i]``.

    Raises
    ------
    CoincidentAtoms
        When two atoms, or an atom and an image, lie at the same place.
    """
    return NeighborFinder(cutoff)(positions, cell, pbc, where)


def neighbors_of_molecules(
    positions: np.ndarray, sizes: np.ndarray, cutoff: float, where: Callable[[int], object]
) -> np.ndarray:
    """Find every ordered pair of atoms within a cutoff in many small molecules at once, by looking at all pairs.

    Parameters
    ----------
    positions
        ``(n_atoms, 3)``, Å, of one molecule after the other.
    sizes
        ``(n_molecules,)``, their numbers of atoms.
    cutoff
        Å.
    where
        Names a molecule, given its place, in the :class:`CoincidentAtoms` that two atoms at one place raise.

    Returns
    -------
    ndarray
        ``(2, n_edges)`` int64: the edges that :func:`neighbors` finds in each molecule, one molecule after the other.
    """
    n_molecules, most = len(sizes), int(sizes.max())
    first = np.cumsum(sizes) - sizes
    if (sizes == most).all():
        padded = positions.reshape(n_molecules, most, 3)
    else:
        padded = np.full((n_molecules, most, 3), np.nan)  # compares as false with any distance
        padded[np.arange(most) < sizes[:, None]] = positions
    x = np.ascontiguousarray(padded.transpose(2, 0, 1))
    difference = x[..., :, None] - x[..., None, :]
    difference *= difference
    squares = difference.sum(axis=0)
    squares.reshape(n_molecules, -1)[:, :: most + 1] = np.inf  # an atom is not its own neighbour
    if (squares < COINCIDENT**2).any():
        molecule = int(np.argwhere(squares < COINCIDENT**2)[0, 0])
        neighbors(padded[molecule, : sizes[molecule]], cutoff, where=where(molecule))  # tells which atoms
    near = squares <= cutoff**2
    atom = first[:, None] + np.arange(most)
    centre = np.repeat(atom.ravel(), near.sum(axis=2).ravel())
    return np.stack([centre, np.broadcast_to(atom[:, None, :], near.shape)[near]])


def pairs_of_edges(centre: Tensor, n_atoms: int) -> Tensor:
    """Find each pair of edges with a common centre, once: ``(2, n_pairs)``, given the ``(n_edges,)`` centres."""
    counts = torch.bincount(centre, minlength=n_atoms)
    a, b = torch.tril_indices(most := int(counts.max()), most, -1, device=centre.device)
    there = a < counts.unsqueeze(1)
    start = (counts.cumsum(0) - counts).unsqueeze(1)
    order = centre.argsort(stable=True)
    return torch.stack([order[(start + a)[there]], order[(start + b)[there]]])


def triplets(positions: np.ndarray, edges: tuple[np.ndarray, np.ndarray], cutoff: float) -> np.ndarray:
    """Find each pair of edges with a common centre, both within a cutoff in Å, once: ``(2, n_triplets)`` int64.

    ``positions`` are ``(n_atoms, 3)`` in Å, ``edges`` those of :func:`neighbors`.
    """
    (i, j), shift = edges
    squares = np.zeros(len(i))
    for axis in range(3):  # one after the other is three times as fast as rows of three
        column = positions[:, axis]
        squares += (column[j] + shift[:, axis] - column[i]) ** 2
    near = np.flatnonzero(np.sqrt(squares) < cutoff)
    # The pairs of pairs_of_edges in their order: each edge with those before it around the same centre. This is a good
    # part of what a loader does for ANI, and numpy repeats four times as fast as torch.
    centre = i[near]
    counts = np.bincount(centre, minlength=len(positions))
    order = centre.argsort(kind="stable")
    before = np.arange(len(near)) - (np.cumsum(counts) - counts)[centre[order]]
    later = np.repeat(np.arange(len(near)), before)
    earlier = np.arange(len(later)) + np.repeat(np.arange(len(near)) - np.cumsum(before), before)
    return near[order[np.stack([later, earlier])]]
