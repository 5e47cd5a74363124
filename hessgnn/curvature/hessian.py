"""Full Hessians of a batch: ``3 max(N)`` products serve every structure."""

from __future__ import annotations

import torch
from torch import Tensor

from hessgnn.curvature.probes import all_rows
from hessgnn.curvature.products import Backend, predict
from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential


def padded_hessians(potential: Potential, batch: Batch, *, chunk: int = 16, backend: Backend = "vmap") -> Tensor:
    """Hessians of all structures in one tensor, without a graph.

    Parameters
    ----------
    potential
        The potential.
    batch
        The structures.
    chunk
        Products formed at a time: memory grows with it, not with the number of rows.
    backend
        How the products of a chunk are formed.

    Returns
    -------
    Tensor
        ``(n_structures, D, D)`` with ``D = 3 max(N)``, eV/Å², not symmetrised; zeros behind each ``3N``.
    """
    vectors = all_rows(batch).vectors
    rows = [
        batch.pad(predict(potential, batch, forces=False, vectors=part, backend=backend).products)
        for part in vectors.split(chunk)
    ]
    return torch.cat(rows).transpose(0, 1)


def hessians(potential: Potential, batch: Batch, *, chunk: int = 16, backend: Backend = "vmap") -> list[Tensor]:
    """Hessian of each structure, without a graph.

    Parameters
    ----------
    potential
        The potential.
    batch
        The structures.
    chunk
        See :func:`padded_hessians`.
    backend
        See :func:`padded_hessians`.

    Returns
    -------
    list of Tensor
        ``(3N, 3N)``, eV/Å², not symmetrised: the asymmetry is a measure of the numerical error.
    """
    padded = padded_hessians(potential, batch, chunk=chunk, backend=backend)
    return [one[: 3 * n, : 3 * n] for one, n in zip(padded, batch.n_atoms.tolist(), strict=True)]
