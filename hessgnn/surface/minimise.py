"""Optimising molecules on a surface, and comparing where they end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from ase.optimize import BFGS
from numpy.typing import NDArray

from hessgnn.data.structure import Array, Structure
from hessgnn.surface.base import Surface
from hessgnn.surface.failures import FAILURES, TaskFailure, reason_of

FAR = 5.0
"""Å: an atom that moves further in an optimisation has left its molecule."""
BOND = 1.2
"""A pair is bonded when it is closer than this times the sum of its covalent radii."""


@dataclass(frozen=True)
class Optimised:
    """Where an optimisation ended, ``(N, 3)`` Å, and how many gradients it took."""

    positions: Array
    gradients: int


def quasi_newton(
    surface: Surface, structure: Structure, positions: Array, fmax: float, max_steps: int, longest: float = 0.2
) -> Optimised:
    """Optimise with :class:`ase.optimize.BFGS`.

    Parameters
    ----------
    surface
        Where to.
    structure
        The molecule.
    positions
        ``(N, 3)``, Å, where from.
    fmax
        Largest force on any atom that counts as converged, eV/Å.
    max_steps
        Most steps.
    longest
        Most that an atom moves in a step, Å. Short steps stay near the path of steepest descent.

    Returns
    -------
    Optimised
        A converged geometry.

    Raises
    ------
    TaskFailure
        When it does not converge, or the surface fails.
    """
    atoms = Atoms(structure.numbers, positions)
    atoms.calc = surface.calculator()
    optimiser = BFGS(atoms, logfile=None, maxstep=longest)
    try:
        for converged in optimiser.irun(fmax=fmax, steps=max_steps):
            if converged:
                return Optimised(atoms.positions.copy(), optimiser.nsteps + 1)
            require_near(atoms.positions, positions)
    except FAILURES as error:
        raise TaskFailure(f"the optimisation failed: {reason_of(error)}") from error
    raise TaskFailure(f"not optimised to {fmax} eV/Å in {max_steps} steps")


def newton(
    surface: Surface, structure: Structure, positions: Array, fmax: float, max_steps: int, trust: float = 0.3
) -> Optimised:
    """Optimise with the exact Hessian: rational function optimisation within a trust radius.

    The step of A. Banerjee, N. Adams, J. Simons, R. Shepard, J. Phys. Chem. 89, 52 (1985): along each eigenvector
    ``-g_i / (b_i - λ)`` with the lowest eigenvalue λ of the Hessian bordered by the gradient, so that it goes downhill
    where the curvature is negative. It is taken only if the energy falls; the radius follows how well the quadratic
    model foretold by how much (R. Fletcher, *Practical Methods of Optimization*, 1987, chapter 5).

    Parameters
    ----------
    surface, structure, positions, fmax, max_steps
        See :func:`quasi_newton`.
    trust
        Longest first step, as the norm over all coordinates, Å.

    Returns
    -------
    Optimised
        A converged geometry.

    Raises
    ------
    TaskFailure
        When it does not converge, or the surface fails.
    """
    calculator = surface.calculator()

    def at(where: Array) -> tuple[Atoms, float, Array]:
        atoms = Atoms(structure.numbers, where)
        atoms.calc = calculator
        return atoms, float(atoms.get_potential_energy()), -np.array(atoms.get_forces())

    radius = trust
    try:
        atoms, energy, gradient = at(positions)
        values = vectors = None
        for gradients in range(1, max_steps + 2):
            if np.linalg.norm(gradient, axis=1).max() < fmax:
                return Optimised(atoms.positions.copy(), gradients)
            if values is None or vectors is None:
                values, vectors = np.linalg.eigh(calculator.get_hessian(atoms))
            step, foretold = _rational_step(gradient.ravel(), values, vectors, radius)
            moved, new_energy, new_gradient = at(atoms.positions + step.reshape(-1, 3))
            ratio = (new_energy - energy) / foretold
            if ratio < 0.25:
                radius = 0.25 * float(np.linalg.norm(step))
            elif ratio > 0.75 and np.linalg.norm(step) > 0.8 * radius:
                radius = min(2 * radius, 3 * trust)
            # Near convergence the change of energy drowns in its last digits; the gradient still tells.
            if ratio > 0 or np.abs(new_gradient).max() < np.abs(gradient).max():
                atoms, energy, gradient, values = moved, new_energy, new_gradient, None
                require_near(atoms.positions, positions)
            elif radius < 1e-8:
                raise TaskFailure("no step lowers the energy: forces, energies and Hessian do not belong together")
    except FAILURES as error:
        raise TaskFailure(f"the optimisation failed: {reason_of(error)}") from error
    raise TaskFailure(f"not optimised to {fmax} eV/Å in {max_steps} steps")


def aligned(positions: Array, reference: Array, weights: Array) -> tuple[Array, Array]:
    """Lay a geometry onto another by translation and rotation, atom on atom (W. Kabsch, Acta Cryst. A32, 922 (1976)).

    Parameters
    ----------
    positions, reference
        ``(N, 3)``, Å.
    weights
        ``(N,)``: masses, or ones.

    Returns
    -------
    positions, rotation
        ``(N, 3)`` on the reference, and the ``(3, 3)`` matrix that turned them (vectors turn as ``v @ rotation.T``).
    """
    centre, target = (np.average(x, axis=0, weights=weights) for x in (positions, reference))
    if len(positions) == 1:
        return reference.copy(), np.eye(3)
    u, _, vt = np.linalg.svd((reference - target).T @ (weights[:, None] * (positions - centre)))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ flip @ vt
    return (positions - centre) @ rotation.T + target, rotation


def rmsd(positions: Array, reference: Array) -> float:
    """Root mean square distance of atoms after alignment, Å; equivalent atoms are not exchanged."""
    moved, _ = aligned(positions, reference, np.ones(len(positions)))
    return float(np.sqrt(np.square(moved - reference).sum(axis=1).mean()))


def bonds(numbers: NDArray[np.int64], positions: Array) -> NDArray[np.int64]:
    """Bonded pairs of a molecule.

    Parameters
    ----------
    numbers
        ``(N,)`` atomic numbers.
    positions
        ``(N, 3)``, Å.

    Returns
    -------
    (n, 2) int64
        Each pair once, the lower index first, sorted.
    """
    atoms = Atoms(numbers, positions)
    i, j = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BOND))
    return np.unique(np.stack([i, j], axis=1)[i < j], axis=0)


def same_bonds(numbers: NDArray[np.int64], first: Array, second: Array) -> bool:
    """Whether two geometries of the same atoms, in the same order, are bonded alike."""
    return np.array_equal(bonds(numbers, first), bonds(numbers, second))


def _rational_step(gradient: Array, values: Array, vectors: Array, radius: float) -> tuple[Array, float]:
    """The step, no longer than the radius, and the change of energy that the quadratic model foretells."""
    along = vectors.T @ gradient
    bordered = np.diag(np.append(values, 0.0))
    bordered[-1, :-1] = bordered[:-1, -1] = along
    shift = np.linalg.eigvalsh(bordered)[0]
    # Where neither gradient nor curvature is (translations), there is nothing to divide.
    gap = values - shift
    step = np.where(np.abs(along) > 1e-14, -along / np.where(gap > 1e-14, gap, 1.0), 0.0)
    length = np.linalg.norm(step)
    if length > radius:
        step *= radius / length
    return vectors @ step, float(along @ step + 0.5 * values @ step**2)


def require_near(positions: Array, start: Array) -> None:
    """Raise :class:`TaskFailure` when an atom has moved by more than :data:`FAR`, or to nowhere."""
    if not np.abs(positions - start).max() < FAR:
        raise TaskFailure(f"an atom moved by more than {FAR:g} Å")
