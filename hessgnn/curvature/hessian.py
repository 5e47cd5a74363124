"""Full Hessians of a batch: at most ``3 max(N)`` products serve every structure, fewer where atoms are far apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from hessgnn.curvature.model import EdgeHessianModel, EnergyModel, has_edge_hessians
from hessgnn.curvature.probes import all_rows
from hessgnn.curvature.products import MEMORY, Backend, Chunks
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

    Products are formed as :class:`~hessgnn.curvature.products.Chunks` says for ``chunk``, ``memory`` and ``backend``.

    Returns
    -------
    Tensor
        ``(n_structures, D, D)`` with ``D = 3 max(N)``, eV/Å², not symmetrised; zeros behind each ``3N``.
    """
    if has_edge_hessians(potential):
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
    """Hessian of each structure, without a graph; arguments as of :func:`padded_hessians`.

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
    """Hessian of each structure without zeros for atoms that are too far apart to interact.

    Arguments are those of :func:`padded_hessians`.

    Returns
    -------
    list of scipy.sparse.csr_array
        ``(3N, 3N)`` in the type of the positions, eV/Å², on the CPU: the numbers of :func:`hessians`.
    """
    chunks = Chunks(chunk, memory, backend)
    whole: csr_array | None
    if has_edge_hessians(potential):
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


@dataclass(frozen=True)
class Blocks:
    """Contributions ``values`` ``(n_blocks, 3, 3)``, eV/Å², to Hessians; those of the same pair of atoms add up.

    ``first`` and ``second`` are ``(n_blocks,)``, indices of atoms in the batch.
    """

    first: Tensor
    second: Tensor
    values: Tensor


@torch.no_grad()
def hessian_blocks(potential: EdgeHessianModel, batch: Batch, memory: int) -> Iterator[Blocks]:
    """Contributions of some atoms after others, for potentials that write down the Hessians of their atoms' energies.

    The energy of an atom depends on the vectors ``R_j - R_i`` to its neighbours alone. Its second derivatives ``B_jk``
    in these belong to the pair ``(j, k)`` of atoms, and because a common translation changes nothing, their sums over
    k, over j and over both belong, with signs -, - and +, to ``(j, i)``, ``(i, k)`` and ``(i, i)``. The number of
    blocks grows linearly with that of atoms.

    At least one atom is done at a time, and as many as take about ``memory`` bytes.
    """
    atoms = torch.arange(len(batch.numbers), device=batch.numbers.device)
    for chunk in atoms.split(max(1, memory // max(1, potential.edge_hessian_bytes(batch)))):
        local = potential.edge_hessians(batch, chunk)
        n, most = local.neighbor.shape
        values = local.blocks.permute(0, 1, 3, 2, 4) * potential.scale.to(local.blocks)
        j, k = local.neighbor.unsqueeze(2).expand(n, most, most), local.neighbor.unsqueeze(1).expand(n, most, most)
        i = local.centre.unsqueeze(1).expand(n, most)
        by_first, by_second = values.sum(2), values.sum(1)
        yield Blocks(
            torch.cat([x.flatten() for x in (j, local.neighbor, i, local.centre)]),
            torch.cat([x.flatten() for x in (k, i, local.neighbor, local.centre)]),
            torch.cat([x.reshape(-1, 3, 3) for x in (values, -by_first, -by_second, by_first.sum(1))]),
        )


def local_hessians(potential: EdgeHessianModel, batch: Batch, memory: int) -> Tensor:
    """Sum the blocks: ``(n_structures, D, D)`` with ``D = 3 max(N)``, eV/Å²; zeros behind each ``3N``."""
    n = batch.max_atoms
    flat = batch.positions.new_zeros(batch.n_structures * n * n, 9)
    for blocks in hessian_blocks(potential, batch, memory):
        row = batch.batch[blocks.first] * n + batch.slot[blocks.first]
        flat.index_add_(0, row * n + batch.slot[blocks.second], blocks.values.flatten(1))
    return flat.view(-1, n, n, 3, 3).permute(0, 1, 3, 2, 4).reshape(-1, 3 * n, 3 * n)


def sparse_local_hessian(potential: EdgeHessianModel, batch: Batch, memory: int) -> csr_array:
    """Sum the blocks to the Hessian of the batch: ``(3 n_atoms, 3 n_atoms)``, eV/Å², block diagonal."""
    size = 3 * len(batch.numbers)
    xyz = torch.arange(3, device=batch.numbers.device)
    hessian = csr_array((size, size), dtype=batch.positions.new_empty(0).cpu().numpy().dtype)
    for blocks in hessian_blocks(potential, batch, memory):
        row = (3 * blocks.first[:, None, None] + xyz[:, None]).expand_as(blocks.values)
        column = (3 * blocks.second[:, None, None] + xyz).expand_as(blocks.values)
        entries, *place = (x.flatten().cpu().numpy() for x in (blocks.values, row, column))
        hessian = hessian + csr_array((entries, tuple(place)), shape=hessian.shape)
    return csr_array(hessian)
