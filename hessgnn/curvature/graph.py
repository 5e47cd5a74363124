"""Energy and its gradient with their graph, from which products with the Hessian are taken.

Structures of a batch do not interact, so the Hessian of the whole batch is block diagonal and one product
``H·v = ∂/∂R (∂E/∂R · v)`` serves every structure at once: K products cost K backward passes whatever the batch holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hessgnn.curvature.model import EnergyModel
from hessgnn.curvature.refusals import explained, require_connected, require_sound_graph, require_sound_modules
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError


@dataclass(frozen=True)
class ForceGraph:
    """Energy and its gradient, with the graph that products are taken from.

    Attributes
    ----------
    leaf
        What is differentiated in, nobody else's tensor: positions ``(n_atoms, 3)`` or edge vectors ``(n_edges, 3)``, Å.
    energy
        ``(n_structures,)``, eV.
    gradient
        Of the energy, in the shape of the leaf, eV/Å.
    """

    leaf: Tensor
    energy: Tensor
    gradient: Tensor
    potential: EnergyModel
    batch: Batch

    @classmethod
    def of(cls, potential: EnergyModel, batch: Batch, *, derivatives: int, create_graph: bool) -> ForceGraph:
        """Run a forward and a force pass for 1 (forces) or 2 (products) ``derivatives``."""
        positions = batch.positions.detach().requires_grad_(True)
        return cls._of(potential, batch.replace(positions=positions, derivatives=derivatives), positions, create_graph)

    @classmethod
    def of_edges(cls, potential: EnergyModel, batch: Batch, *, derivatives: int, create_graph: bool) -> ForceGraph:
        """The same with the vector of each edge as a variable of its own."""
        vectors = batch.edge_vectors().detach().requires_grad_(True)
        # With all atoms at the origin the shift of an edge is its vector.
        origin = torch.zeros_like(batch.positions)
        batch = batch.replace(positions=origin, edge_shift=vectors, derivatives=derivatives)
        return cls._of(potential, batch, vectors, create_graph)

    @classmethod
    def _of(cls, potential: EnergyModel, batch: Batch, leaf: Tensor, create_graph: bool) -> ForceGraph:
        second = batch.derivatives != 1
        if second:
            require_sound_modules(potential, batch)
        energy = potential.total_energy(batch)
        require_connected(potential, batch, energy, "energy")
        if second:
            require_sound_graph(potential, batch, energy, leaf)
        with explained(potential, batch):
            gradient = _gradient(energy.sum(), leaf, create_graph=create_graph)
        return cls(leaf, energy, gradient, potential, batch)

    def products(self, vectors: Tensor, *, create_graph: bool, vectorised: bool, keep: bool = False) -> Tensor:
        """Multiply the Hessian with vectors ``(K, *leaf.shape)``; the products have that shape.

        Parameters
        ----------
        vectors
            What is multiplied with.
        create_graph
            Keep the graph of the products.
        vectorised
            In one pass instead of K.
        keep
            Keep the graph of the gradient for further calls.

        Raises
        ------
        UserError
            When an operation of the potential cannot be vectorised or differentiated twice.
        """
        gradient, keep = self.gradient, keep or create_graph
        require_connected(self.potential, self.batch, gradient, "gradient of the energy")
        if not gradient.requires_grad or not len(vectors):  # no atom has a neighbour, or nothing is asked for
            return torch.zeros_like(vectors)
        with explained(self.potential, self.batch):
            return self._products(vectors, create_graph, vectorised, keep)

    def _products(self, vectors: Tensor, create_graph: bool, vectorised: bool, keep: bool) -> Tensor:
        gradient, leaf = self.gradient, self.leaf
        if vectorised and len(vectors) > 1:
            try:
                return _gradient(
                    gradient, leaf, vectors, create_graph=create_graph, retain_graph=keep, is_grads_batched=True
                )
            except RuntimeError as error:
                if "vmap" not in str(error) and "atching rule" not in str(error):
                    raise
                raise UserError(
                    f"products cannot be vectorised for this potential: {error}",
                    hint="ask for backend='loop', in a training configuration loss.probes.backend=loop",
                ) from error
        last = len(vectors) - 1
        products = [
            _gradient(gradient, leaf, v, create_graph=create_graph, retain_graph=keep or k < last)
            for k, v in enumerate(vectors)
        ]
        return torch.stack(products)


def _gradient(
    output: Tensor,
    leaf: Tensor,
    vector: Tensor | None = None,
    *,
    create_graph: bool,
    retain_graph: bool | None = None,
    is_grads_batched: bool = False,
) -> Tensor:
    if not output.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(
        output,
        leaf,
        grad_outputs=vector,
        create_graph=create_graph,
        retain_graph=retain_graph,
        is_grads_batched=is_grads_batched,
        allow_unused=True,
        materialize_grads=not is_grads_batched,
    )
    if gradient is None:  # atoms without neighbours: the energy does not depend on positions
        return torch.zeros_like(leaf if vector is None else vector)
    return gradient
