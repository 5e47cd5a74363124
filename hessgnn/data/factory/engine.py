"""Label engines: energy and forces from a code, the Hessian as central differences of its analytic forces."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorError
from tblite.ase import TBLite

from hessgnn.data.factory.recipe import EngineSettings
from hessgnn.data.structure import Array


class LabelError(Exception):
    """A molecule that cannot be labelled, with the reason; it ends in the list of failures."""


@dataclass(frozen=True)
class HessianLabel:
    """A Hessian as computed, and how far it is from one that obeys its symmetries.

    Attributes
    ----------
    matrix : (3N, 3N) float64
        eV/Å², not symmetrised.
    asymmetry : float
        Largest ``|H − Hᵀ|``, eV/Å².
    sum_rule : float
        Largest ``|Σ_j H_ij|`` over the atoms j of the symmetrised matrix, eV/Å²; zero if translations cost nothing.
    """

    matrix: Array
    asymmetry: float
    sum_rule: float


class Engine(Protocol):
    """What computes labels."""

    level_of_theory: str

    def versions(self) -> dict[str, str]:
        """Versions of the codes involved."""

    def calculator(self) -> Calculator:
        """Make an ASE calculator (eV, Å) with analytic forces."""

    def energy_forces(self, atoms: Atoms) -> tuple[float, Array]:
        """Energy (eV) and forces ``(N, 3)`` (eV/Å)."""

    def hessian(self, atoms: Atoms) -> HessianLabel:
        """Second derivatives, eV/Å²."""


class TBLiteEngine:
    """Extended tight binding (C. Bannwarth, S. Ehlert, S. Grimme, JCTC 15, 1652 (2019)) through tblite.

    Parameters
    ----------
    settings
        Method, accuracy and step.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.level_of_theory: str = settings.method
        self._calculator = self.calculator()

    def versions(self) -> dict[str, str]:
        """Versions of the codes involved.

        Returns
        -------
        dict
            Distribution -> version.
        """
        return {name: version(name) for name in ("tblite", "ase", "numpy", "hessgnn")}

    def calculator(self) -> TBLite:
        """Make an ASE calculator with analytic forces.

        Returns
        -------
        TBLite
            Silent, and converged as tightly as the settings say.
        """
        return TBLite(
            method=self.settings.method,
            accuracy=self.settings.accuracy,
            max_iterations=500,
            verbosity=0,
            cache_api=True,
        )

    def energy_forces(self, atoms: Atoms) -> tuple[float, Array]:
        """Compute energy and forces.

        Parameters
        ----------
        atoms
            Not changed.

        Returns
        -------
        float, (N, 3) float64
            eV and eV/Å.

        Raises
        ------
        LabelError
            When the calculation does not converge.
        """
        image = atoms.copy()
        image.calc = self._calculator
        try:
            return float(image.get_potential_energy()), np.array(image.get_forces())
        except (CalculatorError, RuntimeError) as error:
            raise LabelError(f"the calculation failed: {str(error).splitlines()[0]}") from error

    def hessian(self, atoms: Atoms) -> HessianLabel:
        """Compute the Hessian by central differences.

        Parameters
        ----------
        atoms
            Not changed.

        Returns
        -------
        HessianLabel
            The raw matrix and its errors.

        Raises
        ------
        LabelError
            When a calculation fails or the sum rule is broken beyond the tolerance.
        """
        label = central_difference_hessian(self, atoms, self.settings.step)
        if label.sum_rule > self.settings.sum_rule_tolerance:
            raise LabelError(f"the Hessian breaks the translational sum rule by {label.sum_rule:.1e} eV/Å²")
        return label


def central_difference_hessian(engine: Engine, atoms: Atoms, step: float) -> HessianLabel:
    """Differentiate forces numerically; the error is of second order in the step.

    Parameters
    ----------
    engine
        Where the forces come from; called 6N times.
    atoms
        Not changed.
    step
        Å.

    Returns
    -------
    HessianLabel
        The raw matrix and its errors.
    """
    n = 3 * len(atoms)
    matrix = np.empty((n, n))
    for row in range(n):
        sides = []
        for sign in (1, -1):
            image = atoms.copy()
            image.positions[divmod(row, 3)] += sign * step
            sides.append(engine.energy_forces(image)[1].ravel())
        matrix[row] = (sides[1] - sides[0]) / (2 * step)
    symmetric = (matrix + matrix.T) / 2
    return HessianLabel(
        matrix=matrix,
        asymmetry=float(np.abs(matrix - matrix.T).max()),
        sum_rule=float(np.abs(symmetric.reshape(n, -1, 3).sum(axis=1)).max()),
    )
