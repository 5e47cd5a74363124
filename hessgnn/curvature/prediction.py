"""What a potential says about a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Energy, forces and Hessian products from one graph.

    Asking for a property that was not computed is an error of the caller, told by name.

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
