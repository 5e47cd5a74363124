"""The interface of label engines: energies, forces and Hessians, counted as they are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from pydantic import Field, PositiveFloat

from hessgnn.data.structure import Array
from hessgnn.runtime.config import Settings


class LabelError(Exception):
    """A molecule or reaction that cannot be labelled, with the reason; it ends in the list of failures."""


class EngineSettings(Settings):
    """What every engine is asked for."""

    name: str
    step: PositiveFloat = Field(default=2e-4, le=0.1, description="central-difference step of the Hessian, Å")
    sum_rule_tolerance: PositiveFloat = Field(
        default=1e-3, description="largest |Σ_j H_ij| of a Hessian that is accepted, eV/Å²"
    )


@dataclass(frozen=True)
class HessianLabel:
    """A Hessian as computed, and how far it is from one that obeys its symmetries.

    Attributes
    ----------
    matrix : (3N, 3N) float64
        eV/Å², not symmetrised.
    """

    matrix: Array

    @property
    def asymmetry(self) -> float:
        """Largest ``|H − Hᵀ|``, eV/Å²."""
        return float(np.abs(self.matrix - self.matrix.T).max())

    @property
    def sum_rule(self) -> float:
        """Largest ``|Σ_j H_ij|`` of the symmetrised matrix, eV/Å²; zero if translations cost nothing."""
        symmetric = (self.matrix + self.matrix.T) / 2
        return float(np.abs(symmetric.reshape(len(symmetric), -1, 3).sum(axis=1)).max())


@dataclass
class Calls:
    """How often an engine was asked, for the cost of labels."""

    gradients: int = 0
    hessians: int = 0


class Engine(ABC):
    """Computes labels. An engine writes :meth:`compute`, and :meth:`second_derivatives` where it knows better.

    Parameters
    ----------
    settings
        Of the engine's own class.
    level_of_theory
        What the labels are.

    Attributes
    ----------
    calls : Calls
        How often it was asked so far.
    """

    packages: ClassVar[Sequence[str]] = ()
    """Distributions whose versions belong to the labels."""
    failures: ClassVar[tuple[type[Exception], ...]] = (RuntimeError, ValueError)
    """What :meth:`compute` raises when a calculation does not converge."""

    def __init__(self, settings: Any, level_of_theory: str) -> None:
        self.settings = settings
        self.level_of_theory = level_of_theory
        self.calls = Calls()

    @abstractmethod
    def compute(self, atoms: Atoms) -> tuple[float, Array]:
        """Energy (eV) and analytic forces ``(N, 3)`` (eV/Å)."""

    def second_derivatives(self, atoms: Atoms) -> Array:
        """Second derivatives ``(3N, 3N)``, eV/Å²: central differences of the forces."""
        return central_differences(lambda image: self.energy_forces(image)[1], atoms, self.settings.step)

    def versions(self) -> dict[str, str]:
        """Versions of the codes involved, distribution -> version."""
        return {name: version(name) for name in (*self.packages, "ase", "numpy", "hessgnn")}

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
        self.calls.gradients += 1
        try:
            energy, forces = self.compute(atoms)
        except self.failures as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise LabelError(f"the calculation failed: {lines[0]}") from error
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise LabelError("the calculation gave NaN or infinity")
        return energy, forces

    def hessian(self, atoms: Atoms) -> HessianLabel:
        """Compute the Hessian.

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
        self.calls.hessians += 1
        try:
            label = HessianLabel(self.second_derivatives(atoms))
        except self.failures as error:
            raise LabelError(f"the Hessian failed: {(str(error).splitlines() or ['?'])[0]}") from error
        if not np.isfinite(label.matrix).all():
            raise LabelError("the Hessian holds NaN or infinity")
        if label.sum_rule > self.settings.sum_rule_tolerance:
            raise LabelError(f"the Hessian breaks the translational sum rule by {label.sum_rule:.1e} eV/Å²")
        return label


class EngineCalculator(Calculator):
    """An engine as an ASE calculator, for ASE's and Sella's optimisers.

    Parameters
    ----------
    engine
        What computes.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """See :meth:`ase.calculators.calculator.Calculator.calculate`."""
        super().calculate(atoms, properties, system_changes)
        energy, forces = self.engine.energy_forces(self.atoms)
        self.results = {"energy": energy, "forces": forces}


def central_differences(forces: Callable[[Atoms], Array], atoms: Atoms, step: float) -> Array:
    """Differentiate forces numerically; the error is of second order in the step.

    Parameters
    ----------
    forces
        Atoms -> ``(N, 3)``, eV/Å; called 6N times.
    atoms
        Not changed.
    step
        Å.

    Returns
    -------
    (3N, 3N) float64
        eV/Å², not symmetrised.
    """
    n = 3 * len(atoms)
    matrix = np.empty((n, n))
    for row in range(n):
        sides = []
        for sign in (1, -1):
            image = atoms.copy()
            image.positions[divmod(row, 3)] += sign * step
            sides.append(forces(image).ravel())
        matrix[row] = (sides[1] - sides[0]) / (2 * step)
    return matrix
