"""Full Hessians of a batch: at most ``3 max(N)`` products serve every structure, fewer where atoms are far apart."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from hessgnn.curvature.chunks import MEMORY, Chunks
from hessgnn.curvature.local_hessian import local_hessians, sparse_local_hessian
from hessgnn.curvature.model import EnergyModel, has_closed_form
from hessgnn.curvature.probes import all_rows
from hessgnn.curvature.products import Backend
from hessgnn.curvature.sparse import compressed_hessian
from hessgnn.data.batch import Batch


def padded_hessians(
    potential: EnergyModel,
    batch: Batch,
    *,
    chunk: int | None = None,
    memory: int = MEMORY,
    backend: Backend = "vmap",
) -> Tensor:
    """Hessians of all structures in one tensor, without a graph.

    Parameters
    ----------
    potential
        The potential.
    batch
        The structures.
    chunk, memory, backend
        Products formed at a time, bytes for them, and how: see :class:`~hessgnn.curvature.chunks.Chunks`.

    Returns
    -------
    Tensor
        ``(n_structures, D, D)`` with ``D = 3 max(N)``, eV/Å², not symmetrised; zeros behind each ``3N``.
    """
    if has_closed_form(potential):
        return local_hessians(potential, batch, memory)
    chunks = Chunks(chunk, memory, backend)
    compressed = compressed_hessian(potential, batch, chunks)
    if compressed is None:
        return _row_by_row(potential, batch, chunks)
    entries = compressed.tocoo()
    row, column = (torch.from_numpy(axis.astype(np.int64)) for axis in entries.coords)
    atom, first = row // 3, 3 * batch.first_atom.cpu()
    structure = batch.batch.cpu()[atom]
    start, size = first[structure], 3 * batch.max_atoms
    padded = torch.zeros(batch.n_structures, size, size, dtype=batch.positions.dtype)
    padded[structure, row - start, column - start] = torch.from_numpy(entries.data)
    return padded.to(batch.positions.device)


def hessians(
    potential: EnergyModel,
    batch: Batch,
    *,
    chunk: int | None = None,
    memory: int = MEMORY,
    backend: Backend = "vmap",
) -> list[Tensor]:
    """Hessian of each structure, without a graph.

    Parameters
    ----------
    potential
        The potential.
    batch
        The structures.
    chunk, memory, backend
        See :func:`padded_hessians`.

    Returns
    -------
    list of Tensor
        ``(3N, 3N)``, eV/Å², not symmetrised: the asymmetry is a measure of the numerical error.
    """
    padded = padded_hessians(potential, batch, chunk=chunk, memory=memory, backend=backend)
    return [one[: 3 * n, : 3 * n] for one, n in zip(padded, batch.n_atoms.tolist(), strict=True)]


def sparse_hessians(
    potential: EnergyModel,
    batch: Batch,
    *,
    chunk: int | None = None,
    memory: int = MEMORY,
    backend: Backend = "vmap",
) -> list[csr_array]:
    """Hessian of each structure, without zeros for atoms that are too far apart to feel each other.

    Parameters
    ----------
    potential
        The potential.
    batch
        The structures.
    chunk, memory, backend
        See :func:`padded_hessians`.

    Returns
    -------
    list of scipy.sparse.csr_array
        ``(3N, 3N)`` in the type of the positions, eV/Å², on the CPU: the numbers of :func:`hessians`.
    """
    chunks = Chunks(chunk, memory, backend)
    whole: csr_array | None
    if has_closed_form(potential):
        whole = sparse_local_hessian(potential, batch, memory)
    else:
        whole = compressed_hessian(potential, batch, chunks)
    if whole is None:
        dense = _row_by_row(potential, batch, chunks).cpu().numpy()
        return [csr_array(one[: 3 * n, : 3 * n]) for one, n in zip(dense, batch.n_atoms.tolist(), strict=True)]
    firsts = (3 * batch.first_atom).tolist()
    sizes = (3 * batch.n_atoms).tolist()
    return [whole[first : first + n, first : first + n] for first, n in zip(firsts, sizes, strict=True)]


def _row_by_row(potential: EnergyModel, batch: Batch, chunks: Chunks) -> Tensor:
    rows = all_rows(batch).vectors
    products = chunks.products(potential, batch, len(rows), lambda part: rows[part])
    return torch.cat([batch.pad(part) for _, part in products]).transpose(0, 1)
