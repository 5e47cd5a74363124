"""Neighbour lists, found outside the differentiated graph; distances are recomputed inside it."""

from __future__ import annotations

import numpy as np
import vesin


class NeighborFinder:
    """Finds the neighbours of one structure again and again, as its atoms move.

    Parameters
    ----------
    cutoff
        Å. A pair at exactly this distance may be in or out: potentials must vanish there.
    skin
        Å. Candidates are found within ``cutoff + skin`` and kept until an atom has moved by half of the skin or the
        cell has changed; of them only those within the cutoff are given, so the answer is that without a skin.
    """

    def __init__(self, cutoff: float, skin: float = 0.0) -> None:
        self._finder = vesin.NeighborList(cutoff=cutoff, full_list=True, skin=skin)

    def __call__(
        self, positions: np.ndarray, cell: np.ndarray | None = None, pbc: np.ndarray | bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find every ordered pair within the cutoff, see :func:`neighbors`."""
        periodic = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,))
        if len(positions) < 2 and not periodic.any():
            return np.zeros((2, 0), dtype=np.int64), np.zeros((0, 3))
        box = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64)
        points = np.ascontiguousarray(positions, dtype=np.float64)
        i, j, images = self._finder.compute(points=points, box=box, periodic=periodic.tolist(), quantities="ijS")
        order = np.lexsort((*images.T[::-1], j, i))  # vesin promises no order; a fixed one keeps runs reproducible
        edge_index = np.stack([i, j]).astype(np.int64)[:, order]
        return edge_index, images[order].astype(np.float64) @ box


def neighbors(
    positions: np.ndarray, cutoff: float, cell: np.ndarray | None = None, pbc: np.ndarray | bool = False
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

    Returns
    -------
    edge_index
        ``(2, n_edges)`` int64: centre ``i`` and neighbour ``j``. Both orders of each pair are present.
    edge_shift
        ``(n_edges, 3)``, Å: the vector from ``i`` to ``j`` is ``positions[j] + shift - positions[i]``.
    """
    return NeighborFinder(cutoff)(positions, cell, pbc)
