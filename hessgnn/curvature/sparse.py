"""Hessians of large structures from few products.

With a finite cutoff the energy of an atom depends on atoms at most L edges away (:attr:`Potential.n_hops`), so the
block of the Hessian that belongs to two atoms is zero unless they are at most 2L edges apart, and one product can tell
many columns. There are two ways, both exact:

========  ==============================================  =======================================================
L         way                                             products
========  ==============================================  =======================================================
1         :mod:`hessgnn.curvature.environments`           3 × largest number of neighbours
any       :mod:`hessgnn.curvature.coloring`               3 × colours: about half the atoms within 2L edges where
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

from hessgnn.curvature.chunks import Chunks
from hessgnn.curvature.coloring import Coloring, color
from hessgnn.curvature.environments import Environments
from hessgnn.curvature.model import EnergyModel
from hessgnn.curvature.products import predict
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError

logger = logging.getLogger(__name__)

WORTHWHILE = 0.8
"""Share of the 3N products from which on compressing them is left alone."""

SMALLEST = 32
"""Atoms of the largest structure below which nobody looks: within three layers all of them interact."""


def compressed_hessian(potential: EnergyModel, batch: Batch, chunks: Chunks) -> csr_array | None:
    """Hessian of a whole batch, if it takes clearly fewer products than ``3 max(N)``.

    Parameters
    ----------
    potential
        The potential; its ``n_hops`` is checked with one product.
    batch
        The structures.
    chunks
        How many products are formed at a time.

    Returns
    -------
    scipy.sparse.csr_array or None
        ``(3 n_atoms, 3 n_atoms)``, eV/Å², block diagonal. Nobody symmetrises it, but of two mirror images the colouring
        computes only one.

    Raises
    ------
    UserError
        When atoms beyond ``n_hops`` edges have an influence.
    """
    way = _way(potential, batch)
    if way is None:
        return None
    hessian = way.hessian(potential, chunks)
    _verify(potential, batch, hessian)
    return hessian


def interacting_atoms(batch: Batch, n_edges: int) -> csr_array:
    """Pairs of atoms that are at most so many edges apart.

    Parameters
    ----------
    batch
        The structures.
    n_edges
        How many edges.

    Returns
    -------
    scipy.sparse.csr_array
        ``(n_atoms, n_atoms)`` bool, symmetric, with the diagonal.
    """
    i, j = batch.edge_index.cpu().numpy()
    n = len(batch.numbers)
    near = csr_array((np.ones(len(i), dtype=bool), (i, j)), shape=(n, n)) + eye_array(n, dtype=bool, format="csr")
    near = near + near.T
    reached = eye_array(n, dtype=bool, format="csr")
    for _ in range(n_edges):
        reached = reached @ near
    reached.sort_indices()
    return csr_array(reached)


class Columns:
    """Sums of columns of the Hessian that can be told apart.

    Parameters
    ----------
    batch
        The structures.
    n_hops
        See :attr:`Potential.n_hops`.
    """

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
            ``(3 n_atoms, 3 n_atoms)``, eV/Å².
        """
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
