"""Potentials that write their derivatives down, and the node that hands them to autograd."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential


class Evaluation(ABC):
    """Energies, their gradient and products with the Hessian, dimensionless as ``Potential.atomic_energies``.

    Attributes
    ----------
    parameters
        What they depend on, besides the batch.
    energies
        ``(n_atoms,)``.
    gradient
        ``(n_atoms, 3)``, Å⁻¹.
    products
        ``(K, n_atoms, 3)``, Å⁻² times the unit of the vectors.
    """

    parameters: Sequence[Tensor]
    energies: Tensor
    gradient: Tensor
    products: Tensor

    @abstractmethod
    def backward(self, energies: Tensor, gradient: Tensor, products: Tensor) -> Sequence[Tensor | None]:
        """Gradients in the parameters, from those in energies, gradient and products."""


class ClosedFormPotential(Potential):
    """A potential whose first and second derivatives are its own formulas, not autograd's.

    ``total_energy`` stays a plain function for autograd, of which any derivative can be taken: the reference that the
    formulas are tested against.
    """

    closed_form: bool = True
    """Whether the formulas are used; ``False`` leaves everything to autograd."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "evaluate" not in vars(cls) and {"atomic_energies", "total_energy"} & vars(cls).keys():
            cls.closed_form = False  # another energy, of which the inherited formulas know nothing

    @abstractmethod
    def evaluate(self, batch: Batch, vectors: Tensor) -> Evaluation:
        """Compute all for vectors ``(K, n_atoms, 3)``, K may be 0.

        If gradients are enabled, :meth:`Evaluation.backward` may follow. What is returned needs no graph, only
        parameters may have one.
        """

    @abstractmethod
    def product_bytes(self, batch: Batch) -> int:
        """Memory that one product with the Hessian takes, roughly."""

    def derivatives(self, batch: Batch, vectors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Energies, gradient and products, with their graph in the parameters if gradients are enabled.

        Returns
        -------
        energy
            ``(n_structures,)`` float64, eV.
        gradient
            ``(n_atoms, 3)``, eV/Å.
        products
            ``(K, n_atoms, 3)`` for vectors of that shape, eV/Å² times the unit of the vectors.
        """
        if vectors is None:
            vectors = batch.positions.new_zeros(0, *batch.positions.shape)
        evaluation = self.evaluate(batch, vectors)
        learned, gradient, products = _Node.apply(evaluation, *evaluation.parameters)
        energy = self.energy_of(batch, learned)
        scale = self.scale.to(gradient)
        return energy, gradient * scale, products * scale


class _Node(torch.autograd.Function):
    """An evaluation as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, evaluation: Evaluation, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.evaluation = evaluation
        ctx.save_for_backward(*parameters)
        # Aliases: what is returned refers to this node, and would keep itself alive through the evaluation for ever.
        return evaluation.energies.detach(), evaluation.gradient.detach(), evaluation.products.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # raises if a parameter was changed in the meantime
        return None, *ctx.evaluation.backward(*gradients)
