"""Full Hessians of a batch: ``3 max(N)`` products serve every structure."""

from __future__ import annotations

import torch
from torch import Tensor

from hessgnn.curvature.autotune import fastest
from hessgnn.curvature.local_hessian import local_hessians
from hessgnn.curvature.probes import all_rows
from hessgnn.curvature.products import Backend, ForceGraph, predict
from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential
from hessgnn.potentials.closed_form import ClosedFormPotential

MEMORY = 2**30
"""Bytes that the products of one chunk may take, roughly."""


def padded_hessians(
    potential: Potential,
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
    chunk
        Products formed at a time: memory grows with it, not with the number of rows. If it is not given, as many as
        fit into ``memory``.
    memory
        Bytes for the products of a chunk. A product touches what the force pass saved, so that is what it is taken
        to need; a chunk is never smaller than one product.
    backend
        How the products of a chunk are formed.

    Returns
    -------
    Tensor
        ``(n_structures, D, D)`` with ``D = 3 max(N)``, eV/Å², not symmetrised; zeros behind each ``3N``.
    """
    if isinstance(potential, ClosedFormPotential) and potential.closed_form:
        return local_hessians(potential, batch, memory)
    vectors = all_rows(batch).vectors
    saved = _Bytes()
    with torch.enable_grad(), saved.counted():
        graph = ForceGraph.of(potential, batch, derivatives=2, create_graph=True)
    if chunk is None:
        chunk = max(1, memory // max(1, saved.total))
    if backend == "auto":
        backend = fastest(potential, batch, vectors[:chunk], create_graph=False)
    rows = []
    for part in vectors.split(chunk):
        if backend == "replicate":
            products = predict(potential, batch, forces=False, vectors=part, backend=backend).products
        else:
            products = graph.products(part, create_graph=False, vectorised=backend == "vmap", keep=True)
        rows.append(batch.pad(products))
    return torch.cat(rows).transpose(0, 1)


def hessians(
    potential: Potential,
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


class _Bytes:
    """Counts what a graph saves for its backward passes; each storage once."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    @property
    def total(self) -> int:
        return sum(self.seen.values())

    def counted(self) -> torch.autograd.graph.saved_tensors_hooks:
        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            self.seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
