"""Hessians of potentials without message passing: the energy of an atom depends on its own edges only.

With the vector of each edge as a variable of its own, ``E = Σ_k ε_k(edges of k)`` falls into terms without a common
variable (a partially separable function: Griewank and Toint, Numer. Math. 39, 119 (1982)), and its second derivative
into one dense block for each atom. One product serves one edge of every atom, so all blocks take three times the
largest number of neighbours, whatever the number of atoms and in any dimension. Edge vectors are differences of
positions, so the Hessian is the sum of the blocks with each edge replaced by its two atoms.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from hessgnn.curvature.chunks import Chunks
from hessgnn.curvature.graph import ForceGraph
from hessgnn.curvature.model import EnergyModel
from hessgnn.data.batch import Batch


class Environments:
    """The edges of a batch, numbered from 0 on around each centre.

    Parameters
    ----------
    batch
        The structures, with at least one edge.
    """

    def __init__(self, batch: Batch) -> None:
        centre, _ = batch.edge_index
        count = torch.bincount(centre, minlength=len(batch.numbers))
        start = count.cumsum(0) - count
        self.batch = batch
        self.order = centre.argsort(stable=True)
        self.slot = torch.empty_like(centre)
        self.slot[self.order] = torch.arange(len(centre), device=centre.device) - start.repeat_interleave(count)
        self.count, self.start = count.cpu().numpy(), start.cpu().numpy()

    @property
    def n_products(self) -> int:
        """Products that the Hessian takes."""
        return 3 * int(self.count.max())

    def hessian(self, potential: EnergyModel, chunks: Chunks) -> csr_array:
        """Hessian of the whole batch.

        Parameters
        ----------
        potential
            The potential.
        chunks
            How many products are formed at a time.

        Returns
        -------
        scipy.sparse.csr_array
            ``(3 n_atoms, 3 n_atoms)``, eV/Å², not symmetrised.
        """
        ends = self._ends()
        hessian = csr_array((ends.shape[1], ends.shape[1]), dtype=ends.dtype)
        chunked = chunks.products(potential, self.batch, self.n_products, self._vectors, ForceGraph.of_edges)
        for part, products in chunked:
            values = products.index_select(1, self.order).cpu().numpy()
            hessian = hessian + self._assembled(part.numpy(), values, ends)
        return hessian

    def _vectors(self, indices: Tensor) -> Tensor:
        """Vector ``3 s + xyz`` is one in this component of edge s of each atom that has so many edges."""
        indices = indices.to(self.slot.device)
        slot = (indices // 3).unsqueeze(1) == self.slot
        component = (indices % 3).unsqueeze(1) == torch.arange(3, device=indices.device)
        return (slot.unsqueeze(2) & component.unsqueeze(1)).to(self.batch.positions.dtype)

    def _ends(self) -> csr_array:
        """Matrix from displacements of atoms to changes of edge vectors, ``(3 n_edges, 3 n_atoms)``, edges in order."""
        i, j = self.batch.edge_index.index_select(1, self.order).cpu().numpy()
        row = np.arange(3 * len(i))
        column = np.concatenate([3 * j[:, None] + np.arange(3), 3 * i[:, None] + np.arange(3)]).ravel()
        sign = np.repeat([1.0, -1.0], len(row))
        matrix = csr_array((sign, (np.tile(row, 2), column)), shape=(len(row), 3 * len(self.count)))
        return matrix.astype(self.batch.positions.new_empty(0).cpu().numpy().dtype)

    def _assembled(self, indices: np.ndarray, products: np.ndarray, ends: csr_array) -> csr_array:
        """What the rows of edges that were multiplied with contribute to the Hessian.

        Parameters
        ----------
        indices
            ``(K,)``, of the vectors.
        products
            ``(K, n_edges, 3)``, edges in order: around each atom one row of its block.
        ends
            See :meth:`_ends`.
        """
        number, size = len(indices), products[0].size
        starts = np.arange(number)[:, None] * size + 3 * self.start
        columns = np.tile(np.arange(size), number)
        rows = csr_array(
            (products.ravel(), columns, np.append(starts.ravel(), products.size)), shape=(starts.size, size)
        )
        slot, component = (indices // 3)[:, None], (indices % 3)[:, None]
        there = (slot < self.count).ravel()
        edge = (3 * (self.start + slot) + component).ravel()
        return csr_array(ends[edge[there]].T @ (rows[there] @ ends))
