"""Energy, forces and products with the Hessian from one graph, by reverse over reverse differentiation.

Structures of a batch do not interact, so the Hessian of the whole batch is block diagonal and one product
``H·v = ∂/∂R (∂E/∂R · v)`` serves every structure at once: K products cost K backward passes whatever the batch holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hessgnn.curvature.prediction import Prediction
from hessgnn.curvature.refusals import explained, require_connected, require_sound_graph, require_sound_modules
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError
from hessgnn.potentials.base import Potential
from hessgnn.potentials.closed_form import has_closed_form

Backend = Literal["loop", "vmap", "replicate", "auto"]
"""How K products are formed.

``loop``: one backward pass after another. ``vmap``: one pass vectorised over the vectors; every operation of the
potential must know how to be (``hessgnn check`` says). ``replicate``: one pass for K copies of the batch, which costs
K forward and force passes but asks nothing of the potential. ``auto``: the fastest, measured once, see
:func:`hessgnn.curvature.backends.fastest`; equal runs may then differ in their last digits.
"""


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
    potential, batch
        What it was made from.
    """

    leaf: Tensor
    energy: Tensor
    gradient: Tensor
    potential: Potential
    batch: Batch

    @classmethod
    def of(cls, potential: Potential, batch: Batch, *, derivatives: int, create_graph: bool) -> ForceGraph:
        """Run a forward and a force pass.

        Parameters
        ----------
        potential
            The potential.
        batch
            The structures.
        derivatives
            1 for forces, 2 for products.
        create_graph
            Keep the graph of the gradient.
        """
        positions = batch.positions.detach().requires_grad_(True)
        return cls._of(potential, batch.replace(positions=positions, derivatives=derivatives), positions, create_graph)

    @classmethod
    def of_edges(cls, potential: Potential, batch: Batch, *, derivatives: int, create_graph: bool) -> ForceGraph:
        """Run a forward and a force pass with the vector of each edge as a variable of its own.

        Parameters
        ----------
        potential, batch, derivatives, create_graph
            See :meth:`of`.
        """
        vectors = batch.edge_vectors().detach().requires_grad_(True)
        # With all atoms at the origin the shift of an edge is its vector.
        origin = torch.zeros_like(batch.positions)
        batch = batch.replace(positions=origin, edge_shift=vectors, derivatives=derivatives)
        return cls._of(potential, batch, vectors, create_graph)

    @classmethod
    def _of(cls, potential: Potential, batch: Batch, leaf: Tensor, create_graph: bool) -> ForceGraph:
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
        """Multiply the Hessian with vectors.

        Parameters
        ----------
        vectors
            ``(K, *leaf.shape)``.
        create_graph
            Keep the graph of the products.
        vectorised
            In one pass instead of K.
        keep
            Keep the graph of the gradient for further calls.

        Returns
        -------
        Tensor
            ``(K, *leaf.shape)``.

        Raises
        ------
        UserError
            When an operation of the potential cannot be vectorised, or not be differentiated twice.
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
                    remedy="ask for backend='loop', in a training configuration loss.probes.backend=loop",
                ) from error
        last = len(vectors) - 1
        products = [
            _gradient(gradient, leaf, v, create_graph=create_graph, retain_graph=keep or k < last)
            for k, v in enumerate(vectors)
        ]
        return torch.stack(products)


def predict(
    potential: Potential,
    batch: Batch,
    *,
    forces: bool = True,
    vectors: Tensor | None = None,
    create_graph: bool = False,
    backend: Backend = "loop",
) -> Prediction:
    """Compute what is asked for, and nothing else.

    Parameters
    ----------
    potential
        The potential.
    batch
        The structures.
    forces
        Whether forces are wanted.
    vectors
        ``(K, n_atoms, 3)``, in the type and on the device of the positions.
    create_graph
        Keep the graph for a loss. Without it nothing that is returned holds a graph.
    backend
        See :data:`Backend`.

    Returns
    -------
    Prediction
        Energy, forces and products.

    Raises
    ------
    UserError
        When the vectors have the wrong shape, type or device.
    """
    if vectors is not None:
        check_vectors(vectors, batch)
    if not forces and vectors is None:
        with torch.set_grad_enabled(create_graph):
            return Prediction(potential.total_energy(batch))
    with torch.enable_grad():
        if has_closed_form(potential):
            if vectors is not None:
                require_sound_modules(potential, batch)
            with torch.set_grad_enabled(create_graph):
                energy, gradient, products = potential.derivatives(batch, vectors)
        elif vectors is None:
            graph = ForceGraph.of(potential, batch, derivatives=1, create_graph=create_graph)
            energy, gradient, products = graph.energy, graph.gradient, None
        else:
            if backend == "auto":
                from hessgnn.curvature.backends import fastest  # it measures this function

                backend = fastest(potential, batch, vectors, create_graph)
            energy, gradient, products = _with_products(potential, batch, vectors, create_graph, backend)
    if not create_graph:
        energy, gradient = energy.detach(), gradient.detach()
    return Prediction(energy, -gradient if forces else None, products if vectors is not None else None)


def _with_products(
    potential: Potential, batch: Batch, vectors: Tensor, create_graph: bool, backend: Backend
) -> tuple[Tensor, Tensor, Tensor]:
    """Energy, gradient and products."""
    if backend == "replicate" and len(vectors) > 1:
        copies = ForceGraph.of(potential, batch.repeat(len(vectors)), derivatives=2, create_graph=True)
        flat = copies.products(vectors.flatten(0, 1).unsqueeze(0), create_graph=create_graph, vectorised=False)
        return copies.energy[: batch.n_structures], copies.gradient[: len(batch.numbers)], flat.view_as(vectors)
    graph = ForceGraph.of(potential, batch, derivatives=2, create_graph=True)
    products = graph.products(vectors, create_graph=create_graph, vectorised=backend == "vmap")
    return graph.energy, graph.gradient, products


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


def check_vectors(vectors: Tensor, batch: Batch) -> None:
    """Refuse vectors that do not fit a batch.

    Parameters
    ----------
    vectors
        To multiply with.
    batch
        The structures.

    Raises
    ------
    UserError
        With the wrong shape, type or device.
    """
    expected = tuple(batch.positions.shape)
    if vectors.ndim != 3 or tuple(vectors.shape[1:]) != expected:
        raise UserError(f"vectors have shape {tuple(vectors.shape)}", remedy=f"give (K, {expected[0]}, 3)")
    for name in ("dtype", "device"):
        got, wanted = getattr(vectors, name), getattr(batch.positions, name)
        if got != wanted:
            raise UserError(f"vectors have {name} {got}, positions {wanted}", remedy="convert one with .to()")
