"""Hessians of large structures from few products.

With a finite cutoff the energy of an atom depends on atoms at most L edges away (:attr:`Potential.n_hops`), so the
block of the Hessian that belongs to two atoms is zero unless they are at most 2L edges apart, and one product gives
many columns. There are two ways, both exact:

========  ==============================================  =======================================================
L         way                                             products
========  ==============================================  =======================================================
1         :class:`Environments`                           3 × largest number of neighbours
any       :class:`Columns`                                3 × colours: about half the atoms within 2L edges where
                                                          the structure is much larger than that, else up to all
========  ==============================================  =======================================================

Neither number grows with the structure. Formed column by column, a Hessian takes 3N products.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy.sparse import csr_array, eye_array
from torch import Tensor

from hessgnn.curvature.coloring import Coloring, color
from hessgnn.curvature.graph import ForceGraph
from hessgnn.curvature.model import EnergyModel
from hessgnn.curvature.products import Chunks, predict
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError

logger = logging.getLogger(__name__)

WORTHWHILE = 0.8
"""Share of the 3N products from which on compressing them is left alone."""

SMALLEST = 32
"""Atoms of the largest structure below which nobody looks: within three layers all of them interact."""


def compressed_hessian(potential: EnergyModel, batch: Batch, chunks: Chunks) -> csr_array | None:
    """Hessian of a whole batch, if it takes clearly fewer products than ``3 max(N)``.

    Returns
    -------
    scipy.sparse.csr_array or None
        ``(3 n_atoms, 3 n_atoms)``, eV/Å², block diagonal. It is not symmetrised, but of two mirror images the colouring
        computes only one.

    Raises
    ------
    UserError
        When atoms beyond ``n_hops`` edges have an influence: that is checked with one product.
    """
    way = _way(potential, batch)
    if way is None:
        return None
    hessian = way.hessian(potential, chunks)
    _verify(potential, batch, hessian)
    return hessian


def interacting_atoms(batch: Batch, n_edges: int) -> csr_array:
    """Pairs of atoms at most so many edges apart: ``(n_atoms, n_atoms)`` bool, symmetric, with the diagonal."""
    i, j = batch.edge_index.cpu().numpy()
    n = len(batch.numbers)
    near = csr_array((np.ones(len(i), dtype=bool), (i, j)), shape=(n, n)) + eye_array(n, dtype=bool, format="csr")
    near = near + near.T
    reached = eye_array(n, dtype=bool, format="csr")
    for _ in range(n_edges):
        reached = reached @ near
    reached.sort_indices()
    return csr_array(reached)


def edge_slots(centre: Tensor, n_atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    """Place of each edge among those of its centre, edges ordered by centre, and number of edges of each centre."""
    count = torch.bincount(centre, minlength=n_atoms)
    order = centre.argsort(stable=True)
    slot = torch.empty_like(centre)
    slot[order] = torch.arange(len(centre), device=centre.device) - (count.cumsum(0) - count)[centre[order]]
    return slot, order, count


class Columns:
    """Sums of columns of the Hessian that can be told apart, by :mod:`hessgnn.curvature.coloring`."""

    def __init__(self, batch: Batch, n_hops: int) -> None:
        self.batch = batch
        positions = batch.positions.detach().cpu().numpy()
        along = int(np.ptp(positions, axis=0).argmax())
        orders = [np.arange(len(positions)), positions[:, along].argsort(kind="stable")]
        self.coloring: Coloring = color(interacting_atoms(batch, 2 * n_hops), orders)
        self.color = torch.from_numpy(self.coloring.color).to(batch.positions.device)

    @property
    def n_products(self) -> int:
        """Products that the Hessian takes."""
        return 3 * self.coloring.number

    def hessian(self, potential: EnergyModel, chunks: Chunks) -> csr_array:
        """Hessian of the whole batch, ``(3 n_atoms, 3 n_atoms)``, eV/Å²."""
        chunked = chunks.products(potential, self.batch, self.n_products, self._vectors)
        products = np.concatenate([part.cpu().numpy() for _, part in chunked])
        return csr_array(self.coloring.recover(products.reshape(-1, 3, *products.shape[1:])))

    def _vectors(self, indices: Tensor) -> Tensor:
        """Vector ``3 c + xyz`` is one in this component of each atom of colour c."""
        indices = indices.to(self.color.device)
        atom = (indices // 3).unsqueeze(1) == self.color
        component = (indices % 3).unsqueeze(1) == torch.arange(3, device=indices.device)
        return (atom.unsqueeze(2) & component.unsqueeze(1)).to(self.batch.positions.dtype)


def _way(potential: EnergyModel, batch: Batch) -> Environments | Columns | None:
    """The one place that decides how Hessians are formed."""
    if potential.n_hops is None or batch.max_atoms < SMALLEST or not batch.edge_index.shape[1]:
        return None
    dense = 3 * batch.max_atoms
    way = Environments(batch) if potential.n_hops == 1 else Columns(batch, potential.n_hops)
    worthwhile = way.n_products <= WORTHWHILE * dense
    logger.info(
        "%s, %d structure(s) of up to %d atoms: Hessians from %d products%s",
        type(potential).__qualname__,
        batch.n_structures,
        batch.max_atoms,
        way.n_products if worthwhile else dense,
        f" instead of {dense}" if worthwhile else f", compressing them would leave {way.n_products}",
    )
    return way if worthwhile else None


def _verify(potential: EnergyModel, batch: Batch, hessian: csr_array) -> None:
    """Multiply with one random vector both ways: a range declared too short would give wrong numbers silently."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64).to(batch.positions)
    expected = predict(potential, batch, forces=False, vectors=vector.unsqueeze(0)).products.cpu().numpy().ravel()
    error = np.abs(hessian @ vector.cpu().numpy().ravel() - expected).max()
    scale, precision = np.abs(expected).max(), np.sqrt(np.finfo(expected.dtype).eps)
    if not error <= precision * scale:
        raise UserError(
            f"{type(potential).__qualname__} says that its range is {potential.n_hops} edge(s), but a product with the "
            f"Hessian formed so is wrong by {error:.1e} of {scale:.1e} eV/Å",
            hint="correct n_hops (None if unknown) and run `hessgnn check`, which tries it",
        )


class Environments:
    """Hessians of potentials without message passing, from the edges of a batch, of which there must be some.

    The edges are numbered from 0 on around each centre.

    With the vector of each edge as a variable of its own, ``E = Σ_k ε_k(edges of k)`` falls into terms without a common
    variable (a partially separable function: Griewank and Toint, Numer. Math. 39, 119 (1982)), and its second
    derivative into one dense block for each atom. One product serves one edge of every atom, so all blocks take three
    times the largest number of neighbours, whatever the number of atoms and in any dimension. Edge vectors are
    differences of positions, so the Hessian is the sum of the blocks with each edge replaced by its two atoms.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.slot, self.order, count = edge_slots(batch.edge_index[0], len(batch.numbers))
        self.count, self.start = count.cpu().numpy(), (count.cumsum(0) - count).cpu().numpy()

    @property
    def n_products(self) -> int:
        """Products that the Hessian takes."""
        return 3 * int(self.count.max())

    def hessian(self, potential: EnergyModel, chunks: Chunks) -> csr_array:
        """Hessian of the whole batch, ``(3 n_atoms, 3 n_atoms)``, eV/Å², not symmetrised."""
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

        Vectors ``indices`` ``(K,)`` gave the products ``(K, n_edges, 3)``, edges in order: around each atom one row of
        its block. ``ends`` is :meth:`_ends`.
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
