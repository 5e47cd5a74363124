"""Potentials that write their derivatives down, and the node that hands them to autograd."""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential
from hessgnn.potentials.structure import Structure

ENERGIES = ("atomic_energies", "total_energy", "energy_of")
"""Methods that the formulas stand for."""


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
        """Gradients in the parameters, from those in energies, gradient and products.

        It may use the evaluation up: where the graph is retained, it is called on a copy (:func:`copy.copy`).
        """


class ChangedPotentialWarning(UserWarning):
    """The modules of a potential are not those that its formulas were written for."""


class ClosedFormPotential(Potential):
    """A potential whose first and second derivatives are its own formulas, not autograd's.

    ``total_energy`` stays a plain function for autograd, of which any derivative can be taken: the reference that the
    formulas are tested against.
    """

    closed_form: bool = True
    """Whether the formulas are used; ``False`` leaves everything to autograd.

    Subclasses that override the energy but not :meth:`evaluate` start with ``False``.
    """

    _structure: Structure | None = None
    """Modules at the end of the ``__init__`` that belongs to :meth:`evaluate`."""

    _change_reported: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "evaluate" in vars(cls) and "__init__" in vars(cls):
            cls.__init__ = _recorded(cls.__init__)  # type: ignore[method-assign]
        if "closed_form" not in vars(cls):
            written = _place(cls, "evaluate")
            inherited = cls.evaluate is not ClosedFormPotential.evaluate
            if inherited and any(_place(cls, name) < written for name in ENERGIES):
                cls.closed_form = False  # another energy, of which the inherited formulas know nothing
            elif "evaluate" in vars(cls):
                cls.closed_form = True

    def formulas_hold(self) -> bool:
        """Whether the modules are still those that the formulas were written for; warns once if not.

        The formulas read weights and do not call the modules. Replaced modules or activations, inserted layers and
        hooks would be ignored, so such a potential is left to autograd. Parametrizations of weights are fine.

        Warns
        -----
        ChangedPotentialWarning
            With the name of the first module that differs.
        """
        change = self.change()
        if change is not None and not self._change_reported:
            self._change_reported = True
            warnings.warn(
                f"the closed-form derivatives of {type(self).__qualname__} are not used, because {change}: autograd "
                "computes forces and Hessian products instead, which is slower. Hint: set closed_form = False on the "
                "potential to silence this warning",
                ChangedPotentialWarning,
                stacklevel=3,
            )
        return change is None

    def change(self) -> str | None:
        """What differs from the potential that the formulas were written for, or ``None``."""
        for name in ENERGIES:
            if name in vars(self):
                return f"its method {name} was replaced"
        if self._structure is None:
            self._structure = Structure(self)
        return self._structure.change(self)

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
        _ = ctx.saved_tensors  # raises if a parameter was changed in the meantime, or the graph was freed
        evaluation = ctx.evaluation
        if torch._C._autograd._get_current_graph_task_keep_graph():
            evaluation = copy(evaluation)
        else:
            del ctx.evaluation  # as saved tensors, which are freed too
        return None, *evaluation.backward(*gradients)


def _place(cls: type, name: str) -> int:
    """Place of the class that defines a method, in the method resolution order."""
    return next(n for n, base in enumerate(cls.__mro__) if name in vars(base))


def _recorded(init: Callable[..., None]) -> Callable[..., None]:
    """Let an ``__init__`` record the structure that it has made."""

    @functools.wraps(init)
    def wrapped(self: ClosedFormPotential, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self._structure = Structure(self)

    return wrapped
