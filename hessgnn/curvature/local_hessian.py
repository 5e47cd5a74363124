"""Hessians put together from those of the single atoms' energies, for potentials that write these down.

The energy of an atom depends on the vectors ``R_j - R_i`` to its neighbours alone. Its second derivatives ``B_jk`` in
these belong to the pair ``(j, k)`` of atoms, and because a common translation changes nothing, their sums over k, over
j and over both belong, with signs -, - and +, to ``(j, i)``, ``(i, k)`` and ``(i, i)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.sparse import csr_array
from torch import Tensor

from hessgnn.curvature.model import ClosedFormModel
from hessgnn.data.batch import Batch


@dataclass(frozen=True)
class Blocks:
    """Contributions to Hessians; those of the same pair add up.

    Attributes
    ----------
    first, second
        ``(n_blocks,)``, indices of atoms in the batch.
    values
        ``(n_blocks, 3, 3)``, eV/Å².
    """

    first: Tensor
    second: Tensor
    values: Tensor


@torch.no_grad()
def hessian_blocks(potential: ClosedFormModel, batch: Batch, memory: int) -> Iterator[Blocks]:
    """Compute the contributions of some atoms after others.

    Parameters
    ----------
    potential
        The potential.
    batch
        The structures.
    memory
        Bytes that may be taken at a time, roughly; at least one atom is done at a time.

    Yields
    ------
    Blocks
        The number of blocks grows linearly with that of atoms.
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


def local_hessians(potential: ClosedFormModel, batch: Batch, memory: int) -> Tensor:
    """Put the Hessians together.

    Parameters
    ----------
    potential, batch, memory
        See :func:`hessian_blocks`.

    Returns
    -------
    Tensor
        ``(n_structures, D, D)`` with ``D = 3 max(N)``, eV/Å²; zeros behind each ``3N``.
    """
    n = batch.max_atoms
    flat = batch.positions.new_zeros(batch.n_structures * n * n, 9)
    for blocks in hessian_blocks(potential, batch, memory):
        row = batch.batch[blocks.first] * n + batch.slot[blocks.first]
        flat.index_add_(0, row * n + batch.slot[blocks.second], blocks.values.flatten(1))
    return flat.view(-1, n, n, 3, 3).permute(0, 1, 3, 2, 4).reshape(-1, 3 * n, 3 * n)


def sparse_local_hessian(potential: ClosedFormModel, batch: Batch, memory: int) -> csr_array:
    """Put the Hessians together without their zeros.

    Parameters
    ----------
    potential, batch, memory
        See :func:`hessian_blocks`.

    Returns
    -------
    scipy.sparse.csr_array
        ``(3 n_atoms, 3 n_atoms)`` of the whole batch, eV/Å², block diagonal.
    """
    size = 3 * len(batch.numbers)
    xyz = torch.arange(3, device=batch.numbers.device)
    hessian = csr_array((size, size), dtype=batch.positions.new_empty(0).cpu().numpy().dtype)
    for blocks in hessian_blocks(potential, batch, memory):
        row = (3 * blocks.first[:, None, None] + xyz[:, None]).expand_as(blocks.values)
        column = (3 * blocks.second[:, None, None] + xyz).expand_as(blocks.values)
        entries, *place = (x.flatten().cpu().numpy() for x in (blocks.values, row, column))
        hessian = hessian + csr_array((entries, tuple(place)), shape=hessian.shape)
    return csr_array(hessian)
