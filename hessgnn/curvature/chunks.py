"""Many products from one force pass, as many at a time as fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hessgnn.curvature.graph import ForceGraph
from hessgnn.curvature.model import EnergyModel
from hessgnn.curvature.products import Backend, fastest
from hessgnn.data.batch import Batch

MEMORY = 2**30
"""Bytes that the products of one chunk may take, roughly."""


@dataclass(frozen=True)
class Chunks:
    """How many products are formed.

    Attributes
    ----------
    size
        Products formed at a time: memory grows with it, not with the number of products. If it is not given, as many
        as fit into ``memory``.
    memory
        Bytes for the products of a chunk. A product touches what the force pass saved, so that is what it is taken
        to need; a chunk is never smaller than one product.
    backend
        How the products of a chunk are formed.
    """

    size: int | None = None
    memory: int = MEMORY
    backend: Backend = "vmap"

    def products(
        self,
        potential: EnergyModel,
        batch: Batch,
        number: int,
        vectors: Callable[[Tensor], Tensor],
        graph_of: Callable[..., ForceGraph] = ForceGraph.of,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Multiply the Hessian with vectors that are made when they are needed.

        Parameters
        ----------
        potential
            The potential.
        batch
            The structures.
        number
            How many vectors there are.
        vectors
            Makes those of given indices, in the shape that the graph multiplies.
        graph_of
            Runs the force pass, see :meth:`ForceGraph.of` and :meth:`ForceGraph.of_edges`.

        Yields
        ------
        tuple of Tensor
            Indices of a chunk, and its products without a graph.
        """
        size, backend, shared = self.size, self.backend, None
        if backend != "replicate" or size in (None, 1):
            saved = _Bytes()
            with torch.enable_grad(), saved.counted():
                shared = graph_of(potential, batch, derivatives=2, create_graph=True)
            size = size or max(1, self.memory // max(1, saved.total))
        assert size is not None
        if backend == "auto":
            sample = batch.positions.new_zeros(min(size, number), *batch.positions.shape)
            backend = fastest(potential, batch, sample, create_graph=False)
        # The pass that was run to measure the bytes serves one vector, copies of the batch the others.
        first = 1 if shared is not None and backend == "replicate" else size
        for part in torch.arange(number).tensor_split(list(range(first, number, size))):
            given = vectors(part)
            if shared is not None and (backend != "replicate" or len(part) == 1):
                products = shared.products(given, create_graph=False, vectorised=backend == "vmap", keep=True)
            else:
                with torch.enable_grad():
                    copies = graph_of(potential, batch.repeat(len(part)), derivatives=2, create_graph=True)
                flat = given.flatten(0, 1).unsqueeze(0)
                products = copies.products(flat, create_graph=False, vectorised=False).view_as(given)
            yield part, products


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
