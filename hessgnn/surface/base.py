"""A potential energy surface: whatever gives energy, forces and Hessian of a geometry.

Potentials of this package, ASE calculators and label engines are surfaces, so optimisers, saddle searches, reaction
paths and dynamics are written once. A surface writes :meth:`Surface.calculator`; the rest follows, and is overridden
where many structures can be computed at once.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from ase import Atoms

from hessgnn.data.neighbors import CoincidentAtoms
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import UserError
from hessgnn.surface.differences import HESSIAN_STEP, central_differences

FAILURES = (UserError, ArithmeticError, ValueError, RuntimeError, OSError)
"""What may go wrong with one structure without ending a task: a surface that gives NaN, an optimisation or a
self-consistent field that diverges, a missing program. Other exceptions are bugs, and end the command."""

ForceField = Callable[[Array], tuple[Array, Array]]
"""From positions ``(Σ N, 3)`` to energies ``(n_structures,)`` and forces ``(Σ N, 3)``; NaN where a structure fails."""


class SurfaceError(Exception):
    """A calculation, an optimisation or a search that gave no result for a structure; the message says why."""


def reason_of(error: BaseException) -> str:
    """One line that is the same for all structures that fail in the same way, so that failures can be counted."""
    if isinstance(error, CoincidentAtoms):  # which two atoms, and where, does not matter in a simulation
        return "two atoms fell onto each other"
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


@dataclass(frozen=True)
class Answer:
    """Energy (eV), forces ``(N, 3)`` (eV/Å) and Hessian ``(3N, 3N)`` (eV/Å²) of a structure; NaN where it failed."""

    energy: float
    forces: Array
    hessian: Array


@dataclass(frozen=True)
class HessianLabel:
    """A Hessian as computed, ``(3N, 3N)`` in eV/Å², not symmetrised, and how far it is from obeying its symmetries."""

    matrix: Array

    @property
    def symmetric(self) -> Array:
        """``(H + Hᵀ) / 2``, eV/Å²."""
        return (self.matrix + self.matrix.T) / 2

    @property
    def asymmetry(self) -> float:
        """Largest ``|H − Hᵀ|``, eV/Å²."""
        return float(np.abs(self.matrix - self.matrix.T).max())

    @property
    def sum_rule(self) -> float:
        """Largest ``|Σ_j H_ij|`` of the symmetrised matrix, eV/Å²; zero if translations cost nothing."""
        return float(np.abs(self.symmetric.reshape(len(self.matrix), -1, 3).sum(axis=1)).max())


@dataclass
class Calls:
    """How often :meth:`Surface.energy_forces` and :meth:`Surface.hessian` were called: the cost of labels."""

    gradients: int = 0
    hessians: int = 0


class Surface(ABC):
    """A potential energy surface, in eV and Å.

    Parameters
    ----------
    name
        What it is called.
    fingerprint
        Equal if and only if the surface is, so that results on the same surface can be reused.

    Attributes
    ----------
    calls : Calls
        Calls so far.
    """

    failures: ClassVar[tuple[type[Exception], ...]] = FAILURES
    """What :meth:`compute` and :meth:`second_derivatives` raise when a calculation does not converge."""
    step = HESSIAN_STEP
    """Å, of central differences."""
    sum_rule_tolerance = math.inf
    """Largest :attr:`HessianLabel.sum_rule` that is accepted, eV/Å²."""

    def __init__(self, name: str, fingerprint: str) -> None:
        self.name, self.fingerprint = name, fingerprint
        self.calls = Calls()

    @abstractmethod
    def calculator(self) -> Any:
        """Make an ASE calculator with ``get_hessian(atoms)``: second derivatives ``(3N, 3N)``, eV/Å²."""

    def compute(self, atoms: Atoms) -> tuple[float, Array]:
        """Energy (eV) and forces ``(N, 3)`` (eV/Å); ``atoms`` is not changed."""
        image = atoms.copy()
        image.calc = self._own
        return float(image.get_potential_energy()), np.array(image.get_forces())

    def second_derivatives(self, atoms: Atoms) -> Array:
        """Second derivatives ``(3N, 3N)``, eV/Å²: central differences of the forces where nothing better is known."""
        return central_differences(lambda image: self.energy_forces(image)[1], atoms, self.step)

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
        SurfaceError
            When the calculation does not converge.
        """
        self.calls.gradients += 1
        try:
            energy, forces = self.compute(atoms)
        except self.failures as error:
            raise SurfaceError(f"the calculation failed: {reason_of(error)}") from error
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise SurfaceError("the calculation gave NaN or infinity")
        return energy, forces

    def forces_of(self, atoms: Atoms) -> Callable[[Array], Array]:
        """Make a function from positions ``(N, 3)``, Å, to forces ``(N, 3)``, eV/Å, of the same atoms and cell."""

        def forces(positions: Array) -> Array:
            image = atoms.copy()
            image.positions = positions
            return self.energy_forces(image)[1]

        return forces

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
        SurfaceError
            When a calculation fails or the sum rule is broken beyond :attr:`sum_rule_tolerance`.
        """
        self.calls.hessians += 1
        try:
            label = HessianLabel(self.second_derivatives(atoms))
        except self.failures as error:
            raise SurfaceError(f"no Hessian: {reason_of(error)}") from error
        if not np.isfinite(label.matrix).all():
            raise SurfaceError("the Hessian holds NaN or infinity")
        if label.sum_rule > self.sum_rule_tolerance:
            raise SurfaceError(f"the Hessian breaks the translational sum rule by {label.sum_rule:.1e} eV/Å²")
        return label

    def answers(self, structures: Sequence[Structure]) -> Iterator[Answer]:
        """Energy, forces and Hessian of each structure, in their order; NaN where a structure fails."""
        calculator = self.calculator()
        for structure in structures:
            atoms, n = structure.to_atoms(), len(structure)
            atoms.calc = calculator
            try:
                energy, forces = float(atoms.get_potential_energy()), np.array(atoms.get_forces())
                yield Answer(energy, forces, calculator.get_hessian(atoms))
            except (SurfaceError, *FAILURES):
                yield Answer(np.nan, np.full((n, 3), np.nan), np.full((3 * n, 3 * n), np.nan))

    def force_field(self, structures: Sequence[Structure]) -> ForceField:
        """Make a function that follows structures as they move; here each has a calculator of its own."""
        images = [Structure.to_atoms(s) for s in structures]
        for image in images:
            image.calc = self.calculator()
        stops = np.cumsum([len(s) for s in structures])[:-1]

        def compute(positions: Array) -> tuple[Array, Array]:
            energies, forces = [], []
            for image, part in zip(images, np.split(positions, stops), strict=True):
                image.positions = part
                try:
                    energies.append(float(image.get_potential_energy()))
                    forces.append(np.array(image.get_forces()))
                except (SurfaceError, *FAILURES):
                    energies[len(forces) :] = [np.nan]
                    forces.append(np.full(part.shape, np.nan))
            return np.array(energies), np.concatenate(forces)

        return compute

    @cached_property
    def _own(self) -> Any:
        """The calculator behind :meth:`compute`."""
        return self.calculator()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_own"}  # made anew in another process


def digest(*parts: str) -> str:
    """Hash of texts, for fingerprints."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
