"""Stationary points of a surface: minima and saddle points of first order, each proved by its frequencies."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.optimize import BFGS

from hessgnn.data.structure import Array
from hessgnn.molecules.vibrations import Vibrations, vibrations
from hessgnn.runtime.imports import require
from hessgnn.surface.base import FAILURES, HessianLabel, Surface, SurfaceError, reason_of

_SOFTEST = 1.0
"""eV/Å²: softer modes of a Hessian that an optimisation begins with count as so stiff, and rotations with them."""
FAR = 5.0
"""Å: an atom that moves further in an optimisation has left its molecule."""


@dataclass(frozen=True)
class Optimised:
    """Where an optimisation ended: positions ``(N, 3)`` in Å, the gradients it took, and the energy in eV.

    The energy does not include what constraints add.
    """

    positions: Array
    gradients: int
    energy: float


@dataclass(frozen=True, eq=False)
class Stationary:
    """A point where all forces vanish, with its Hessian, its normal modes and the gradients that its search took."""

    atoms: Atoms
    hessian: HessianLabel
    modes: Vibrations
    gradients: int = 0


def quasi_newton(
    surface: Surface,
    start: Atoms,
    fmax: float,
    max_steps: int,
    *,
    longest: float = 0.2,
    far: float | None = FAR,
    converge: bool = True,
    hessian: Array | None = None,
) -> Optimised:
    """Optimise with :class:`ase.optimize.BFGS`.

    Parameters
    ----------
    start
        Where to begin, with its constraints; not changed.
    fmax
        Largest force on any atom that counts as converged, eV/Å.
    longest
        Most that an atom moves in a step, Å. Short steps stay near the path of steepest descent.
    far
        Most that an atom moves in all, Å; no limit if ``None``.
    converge
        Whether an optimisation that has not converged is a failure.
    hessian
        To begin with, ``(3N, 3N)``, eV/Å², of another surface or place; 70 eV/Å² for each coordinate if absent. With it
        forces that turn the molecule do not count: it must be free.

    Raises
    ------
    SurfaceError
        When it does not converge, an atom moves too far, or the surface fails.
    """
    atoms = start.copy()
    atoms.calc = surface.calculator()
    if hessian is not None:  # that of a molecule, which may turn freely
        atoms.set_constraint([*atoms.constraints, _Unturned()])
    optimiser = BFGS(atoms, logfile=None, maxstep=longest)
    if hessian is not None:
        values, vectors = np.linalg.eigh(hessian)
        optimiser.H0 = (vectors * np.abs(values).clip(_SOFTEST)) @ vectors.T
    try:
        progress = optimiser.irun(fmax=fmax, steps=max_steps)
        converged = converges(progress, lambda: atoms.positions, start.positions, far)
        energy = float(atoms.get_potential_energy(apply_constraint=False))
    except FAILURES as error:
        raise SurfaceError(f"the optimisation failed: {reason_of(error)}") from error
    if converge and not converged:
        raise SurfaceError(f"not optimised to {fmax} eV/Å in {max_steps} steps")
    return Optimised(atoms.positions.copy(), optimiser.nsteps + 1, energy)


class _Unturned:
    """A constraint of ASE: leaves out of the forces what only turns a molecule.

    Integration grids that do not turn with it make such forces, some 0.01 eV/Å. An optimisation would follow them, and
    end where the molecule lies well on the grid.
    """

    def adjust_positions(self, atoms: Atoms, new: Array) -> None:
        """Leave every step as it is."""

    def adjust_forces(self, atoms: Atoms, forces: Array) -> None:
        """Take the part along rotations away, in place."""
        arms = atoms.positions - atoms.positions.mean(axis=0)
        turns = np.cross(np.eye(3)[:, None], arms).reshape(3, -1)
        amounts = np.linalg.lstsq(turns.T, forces.ravel(), rcond=1e-6)[0]  # of a line there are two
        forces -= (amounts @ turns).reshape(forces.shape)


def newton(surface: Surface, start: Atoms, fmax: float, max_steps: int, *, trust: float = 0.3) -> Optimised:
    """Optimise with the exact Hessian: rational function optimisation within a trust radius.

    The step of A. Banerjee, N. Adams, J. Simons, R. Shepard, J. Phys. Chem. 89, 52 (1985): along each eigenvector
    ``-g_i / (b_i - λ)`` with the lowest eigenvalue λ of the Hessian bordered by the gradient, so that it goes downhill
    where the curvature is negative. It is taken only if the energy falls; the radius follows how well the quadratic
    model predicted the change (R. Fletcher, *Practical Methods of Optimization*, 1987, chapter 5).

    Parameters and errors are those of :func:`quasi_newton`. ``trust`` is the longest first step, as the norm over all
    coordinates, Å.
    """
    calculator = surface.calculator()

    def at(where: Array) -> tuple[Atoms, float, Array]:
        atoms = Atoms(start.numbers, where)
        atoms.calc = calculator
        return atoms, float(atoms.get_potential_energy()), -np.array(atoms.get_forces())

    radius = trust
    try:
        atoms, energy, gradient = at(start.positions)
        values = vectors = None
        for gradients in range(1, max_steps + 2):
            if np.linalg.norm(gradient, axis=1).max() < fmax:
                return Optimised(atoms.positions.copy(), gradients, energy)
            if values is None or vectors is None:
                values, vectors = np.linalg.eigh(HessianLabel(calculator.get_hessian(atoms)).symmetric)
            step, predicted = _rational_step(gradient.ravel(), values, vectors, radius)
            moved, new_energy, new_gradient = at(atoms.positions + step.reshape(-1, 3))
            ratio = (new_energy - energy) / predicted
            if ratio < 0.25:
                radius = 0.25 * float(np.linalg.norm(step))
            elif ratio > 0.75 and np.linalg.norm(step) > 0.8 * radius:
                radius = min(2 * radius, 3 * trust)
            # Near convergence the change of energy drowns in its last digits; the gradient still tells.
            if ratio > 0 or np.abs(new_gradient).max() < np.abs(gradient).max():
                atoms, energy, gradient, values = moved, new_energy, new_gradient, None
                _require_near(atoms.positions, start.positions, FAR)
            elif radius < 1e-8:
                raise SurfaceError("no step lowers the energy: forces, energies and Hessian do not belong together")
    except FAILURES as error:
        raise SurfaceError(f"the optimisation failed: {reason_of(error)}") from error
    raise SurfaceError(f"not optimised to {fmax} eV/Å in {max_steps} steps")


def find_minimum(
    surface: Surface,
    start: Atoms,
    fmax: float,
    max_steps: int,
    *,
    pushes: int = 3,
    push: float = 0.1,
    far: float | None = FAR,
    prove: bool = True,
    hessian: Array | None = None,
) -> Stationary:
    """Optimise until the frequencies prove a minimum; saddle points are left along their imaginary mode.

    Parameters
    ----------
    surface, start, fmax, max_steps, far, hessian
        See :func:`quasi_newton`.
    pushes
        How often a saddle point is left.
    push
        Largest displacement of an atom then, Å.
    prove
        Whether a search that keeps ending on saddle points raises :class:`SurfaceError`; else the last one is returned.
    """
    atoms, gradients = start.copy(), 0
    for left in range(pushes, -1, -1):
        end = quasi_newton(surface, atoms, fmax, max_steps, far=far, hessian=hessian)
        gradients += end.gradients
        atoms.positions = end.positions
        found = stationary(surface, atoms, gradients)
        if not found.modes.n_imaginary() or not left:
            break
        atoms.positions = end.positions + push * found.modes.modes[0] / np.abs(found.modes.modes[0]).max()
    if prove and found.modes.n_imaginary():
        raise SurfaceError(f"ends on a saddle point, lowest frequency {found.modes.frequencies[0]:.0f} cm⁻¹")
    return found


def stationary(surface: Surface, atoms: Atoms, gradients: int = 0) -> Stationary:
    """Compute the Hessian and the normal modes of a stationary point; may raise :class:`SurfaceError`."""
    label = surface.hessian(atoms)
    return Stationary(atoms.copy(), label, vibrations(atoms.numbers, atoms.positions, label.matrix), gradients)


def converges(progress: Iterator[bool], positions: Callable[[], Array], start: Array, far: float | None) -> bool:
    """Run an optimiser of ASE to its end, and return whether it has converged.

    ``progress`` is what its ``irun`` returns; ``positions`` returns the current positions, Å, in the shape of
    ``start``. Raises :class:`SurfaceError` when an atom moves farther than ``far``, Å; there is no limit if that is
    ``None``.
    """
    converged = False
    for step in progress:
        converged = step
        if far is not None:
            _require_near(positions(), start, far)
    return converged


def _require_near(positions: Array, start: Array, far: float) -> None:
    if not np.abs(positions - start).max() < far:  # NaN fails, too
        raise SurfaceError(f"an atom moved by more than {far:g} Å")


def _rational_step(gradient: Array, values: Array, vectors: Array, radius: float) -> tuple[Array, float]:
    """The step, no longer than the radius, and the change of energy that the quadratic model predicts."""
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


@dataclass(frozen=True)
class SaddleSearch:
    """Where a search ended: positions ``(N, 3)`` in Å, and what it took."""

    positions: Array
    steps: int
    gradients: int
    hessians: int


def require_sella() -> Any:
    """Import Sella; a :class:`~hessgnn.errors.ConfigError` with the pip line where it is not installed."""
    return require("sella", package="Sella", extra="factory", purpose="the search for saddle points")


def search_saddle(
    surface: Surface,
    start: Atoms,
    fmax: float,
    max_steps: int,
    *,
    renew: int | None = None,
    far: float | None = FAR,
) -> SaddleSearch:
    """Walk from a guess towards a saddle point, in Cartesian coordinates.

    E. D. Hermes, K. Sargsyan, H. N. Najm, J. Zádor, JCTC 18, 6974 (2022), with the surface's own Hessian to start from.
    Where it converges, any number of modes may be imaginary.

    Parameters
    ----------
    surface, start, fmax, max_steps, far
        See :func:`quasi_newton`.
    renew
        Steps after which the search begins anew with the exact Hessian, which Sella only updates; never by default.

    Raises
    ------
    SurfaceError
        When it does not converge, an atom moves too far, or the surface fails.
    """
    sella = require_sella()
    atoms, calculator = start.copy(), surface.calculator()
    atoms.calc = calculator
    hessians = steps = gradients = 0

    def hessian(where: Atoms) -> Array:
        nonlocal hessians
        hessians += 1
        return calculator.get_hessian(where)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of searches that diverge: they fail below
            while steps < max_steps:
                search = sella.Sella(atoms, order=1, internal=False, logfile=None, hessian_function=hessian)
                progress = search.irun(fmax=fmax, steps=min(renew or max_steps, max_steps - steps))
                converged = converges(progress, lambda: atoms.positions, start.positions, far)
                steps, gradients = steps + search.nsteps, gradients + search.pes.neval
                if converged:
                    return SaddleSearch(atoms.positions.copy(), steps, gradients, hessians)
    except (*FAILURES, AssertionError) as error:  # Sella asserts what a broken surface breaks
        raise SurfaceError(f"the search failed: {reason_of(error)}") from error
    raise SurfaceError(f"no saddle point to {fmax} eV/Å in {max_steps} steps")


def find_saddle(
    surface: Surface,
    start: Atoms,
    fmax: float,
    max_steps: int,
    *,
    renew: int | None = None,
    far: float | None = FAR,
) -> Stationary:
    """Search with :func:`search_saddle`; :class:`SurfaceError` unless exactly one mode is imaginary, the first."""
    found = search_saddle(surface, start, fmax, max_steps, renew=renew, far=far)
    atoms = start.copy()
    atoms.positions = found.positions
    proved = stationary(surface, atoms, found.gradients)
    if proved.modes.n_imaginary() != 1:
        raise SurfaceError(f"the search ended where {proved.modes.n_imaginary()} modes are imaginary, not one")
    return proved
