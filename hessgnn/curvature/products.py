"""Energy, forces and products with the Hessian from one graph, by reverse over reverse differentiation.

Structures of a batch do not interact, so the Hessian of the whole batch is block diagonal and one product
``H·v = ∂/∂R (∂E/∂R · v)`` serves every structure at once: K products cost K backward passes whatever the batch holds.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.errors import UserError
from hessgnn.potentials.base import Potential
from hessgnn.potentials.prediction import Prediction

Backend = Literal["loop", "vmap"]
"""How K products are formed: one backward pass after another, or one pass vectorised over the vectors."""


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
        _check_vectors(vectors, batch)
    if not forces and vectors is None:
        with torch.set_grad_enabled(create_graph):
            return Prediction(potential.total_energy(batch))
    with torch.enable_grad():
        positions = batch.positions.detach().requires_grad_(True)
        derivatives = 1 if vectors is None else 2
        energy = potential.total_energy(batch.replace(positions=positions, derivatives=derivatives))
        gradient = _gradient(energy.sum(), positions, create_graph=create_graph or vectors is not None)
        products = None
        if vectors is not None:
            products = _products(gradient, positions, vectors, create_graph, backend)
    if not create_graph:
        energy, gradient = energy.detach(), gradient.detach()
    return Prediction(energy, -gradient if forces else None, products)


def _products(gradient: Tensor, positions: Tensor, vectors: Tensor, create_graph: bool, backend: Backend) -> Tensor:
    if not gradient.requires_grad or not len(vectors):  # no atom has a neighbour, or nothing is asked for
        return torch.zeros_like(vectors)
    if backend == "vmap" and len(vectors) > 1:
        return _gradient(gradient, positions, vectors, create_graph=create_graph, is_grads_batched=True)
    products = [
        _gradient(gradient, positions, v, create_graph=create_graph, retain_graph=create_graph or k < len(vectors) - 1)
        for k, v in enumerate(vectors)
    ]
    return torch.stack(products)


def _gradient(
    output: Tensor,
    positions: Tensor,
    vector: Tensor | None = None,
    *,
    create_graph: bool,
    retain_graph: bool | None = None,
    is_grads_batched: bool = False,
) -> Tensor:
    if not output.requires_grad:
        return torch.zeros_like(positions)
    (gradient,) = torch.autograd.grad(
        output,
        positions,
        grad_outputs=vector,
        create_graph=create_graph,
        retain_graph=retain_graph,
        is_grads_batched=is_grads_batched,
        allow_unused=True,
        materialize_grads=not is_grads_batched,
    )
    if gradient is None:  # atoms without neighbours: the energy does not depend on positions
        return torch.zeros_like(positions if vector is None else vector)
    return gradient


def _check_vectors(vectors: Tensor, batch: Batch) -> None:
    expected = tuple(batch.positions.shape)
    if vectors.ndim != 3 or tuple(vectors.shape[1:]) != expected:
        raise UserError(f"vectors have shape {tuple(vectors.shape)}", remedy=f"give (K, {expected[0]}, 3)")
    for name in ("dtype", "device"):
        got, wanted = getattr(vectors, name), getattr(batch.positions, name)
        if got != wanted:
            raise UserError(f"vectors have {name} {got}, positions {wanted}", remedy="convert one with .to()")
