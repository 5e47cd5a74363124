"""What derivatives are taken of: a model of the energy, and what it predicts.

This package knows no architecture. Whatever gives a differentiable energy of a batch is an :class:`EnergyModel`; the
potentials stand above and inherit the conveniences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeGuard, cast

from torch import Tensor, nn

from hessgnn.data.batch import Batch


@dataclass(frozen=True)
class Prediction:
    """Energy, forces and Hessian products from one graph.

    Accessing a property that was not computed raises an :class:`AttributeError` that says how to ask for it.

    Parameters
    ----------
    energy
        ``(n_structures,)`` float64, eV.
    forces_or_none
        ``(n_atoms, 3)``, eV/Å, if they were asked for.
    products_or_none
        ``(K, n_atoms, 3)``, eV/Å² times the unit of the vectors, if vectors were given.
    """

    energy: Tensor
    forces_or_none: Tensor | None = None
    products_or_none: Tensor | None = None

    @property
    def forces(self) -> Tensor:
        """``(n_atoms, 3)``, eV/Å."""
        return self._require(self.forces_or_none, "forces", "forces=True")

    @property
    def products(self) -> Tensor:
        """``(K, n_atoms, 3)``."""
        return self._require(self.products_or_none, "products", "vectors=…")

    @staticmethod
    def _require(value: Tensor | None, name: str, how: str) -> Tensor:
        if value is None:
            raise AttributeError(f"this prediction holds no {name}; call the potential with {how}")
        return value


class EnergyModel(Protocol):
    """A module whose energy can be differentiated twice in the positions."""

    cutoff: float
    """Å, of the neighbour list."""
    n_hops: int | None
    """How many edges away an atom can influence the energy of another; ``None`` if unknown."""
    scale: Tensor
    """eV of one dimensionless unit of the atomic energies; its type is that of the model."""

    def total_energy(self, batch: Batch) -> Tensor:
        """Energies with their graph, ``(n_structures,)`` float64, eV."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As :meth:`torch.nn.Module.parameters`."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As :meth:`torch.nn.Module.named_parameters`."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """As :meth:`torch.nn.Module.named_modules`."""


@dataclass(frozen=True)
class EdgeHessians:
    """Second derivatives of the energies of some atoms in the vectors to their neighbours.

    Attributes
    ----------
    blocks
        ``(n_centres, M, 3, M, 3)``, dimensionless/Å², with M the largest number of neighbours; zero beyond an atom's
        own.
    centre
        ``(n_centres,)``, the atoms.
    neighbor
        ``(n_centres, M)``, their neighbours; any atom beyond their number.
    """

    blocks: Tensor
    centre: Tensor
    neighbor: Tensor


class ClosedFormModel(EnergyModel, Protocol):
    """A model that writes its first and second derivatives down instead of leaving them to autograd."""

    closed_form: bool
    """Whether the formulas are used; ``False`` leaves everything to autograd."""

    def formulas_hold(self) -> bool:
        """Whether nobody has changed the model in a way that its formulas do not know."""

    def derivatives(self, batch: Batch, vectors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Energy ``(n_structures,)``, gradient ``(n_atoms, 3)`` and products ``(K, n_atoms, 3)``."""

    def product_bytes(self, batch: Batch) -> int:
        """Memory that one product takes, roughly."""


class EdgeHessianModel(EnergyModel, Protocol):
    """A model without message passing that writes down the Hessian of each atom's energy."""

    def edge_hessians(self, batch: Batch, atoms: Tensor) -> EdgeHessians:
        """Second derivatives of the energies of some atoms ``(n_centres,)``; called without a graph."""

    def edge_hessian_bytes(self, batch: Batch) -> int:
        """Memory that :meth:`edge_hessians` takes for one atom, roughly."""


def has_closed_form(model: EnergyModel) -> TypeGuard[ClosedFormModel]:
    """Whether a model's own formulas are used."""
    return bool(getattr(model, "closed_form", False)) and cast(ClosedFormModel, model).formulas_hold()


def has_edge_hessians(model: EnergyModel) -> TypeGuard[EdgeHessianModel]:
    """Whether a model's own formulas are used, and give the Hessian of each atom's energy."""
    return has_closed_form(model) and hasattr(model, "edge_hessians")
