"""The intrinsic reaction coordinate: steepest descent from a saddle point in mass-weighted coordinates.

K. Fukui, Acc. Chem. Res. 14, 363 (1981). With ``q = √m R`` the path is the orbit of ``dq/dt = −∂E/∂q``, a stiff
equation: an implicit integrator follows it in a few dozen steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from scipy.integrate import solve_ivp

from hessgnn.data.structure import Array
from hessgnn.molecules.vibrations import Vibrations, masses_of
from hessgnn.surface.base import Surface, SurfaceError

_DROP = 1e-3
"""How far below the saddle point a path begins, in the harmonic approximation, eV."""
_LEFT = 5e-3
"""A path has left the saddle point, where forces are small too, when it has come down so far, eV."""
_FLAT = 1e-3
"""Below this force a path has ended however little it has come down, eV/Å: some barriers are lower than that."""
_LONGEST_PUSH = 0.1
"""Å·amu^½; a flat saddle point is not left farther than that."""
_LONGEST_TIME = 2e4
"""Å²·amu/eV. The slowest motion of a molecule takes some thousand."""
_STEP = 1e-3
"""Of the differences that steer the integrator, Å·amu^½."""
_COVERED = 0.98
"""Frames lie where the energy has fallen by up to this share; beyond, they would all look like the minimum."""


@dataclass(frozen=True, eq=False)
class Branch:
    """One side of a path, from the saddle point on.

    Attributes
    ----------
    positions : (n, N, 3) float64
        Å, as the integrator stepped.
    energies : (n,) float64
        eV.
    arc : (n,) float64
        Length of the path since the saddle point, Å·amu^½.
    """

    positions: Array
    energies: Array
    arc: Array

    @property
    def end(self) -> Array:
        """Where the path ends, ``(N, 3)``."""
        return self.positions[-1]


def follow(
    surface: Surface, saddle: Atoms, modes: Vibrations, *, fmax: float = 1e-2, tolerance: float = 1e-3
) -> tuple[Branch, Branch]:
    """Follow both sides of a path.

    Parameters
    ----------
    surface
        What is followed downhill.
    saddle
        The saddle point.
    modes
        Its normal modes, of which the first is imaginary.
    fmax
        Largest force where a path ends, eV/Å.
    tolerance
        Of the integration, Å·amu^½.

    Returns
    -------
    Branch, Branch
        Along the imaginary mode and against it.

    Raises
    ------
    SurfaceError
        When a path does not come down to a point without forces.
    """
    mode, curvature = modes.modes[0], abs(float(modes.eigenvalues[0]))
    push = min(np.sqrt(2 * _DROP / curvature), _LONGEST_PUSH) * mode
    first, second = (_descend(surface, saddle, sign * push, fmax, tolerance) for sign in (1, -1))
    return first, second


def frames(branch: Branch, number: int) -> list[Array]:
    """Choose frames at equal distances along one side of a path.

    Parameters
    ----------
    branch
        The side.
    number
        How many.

    Returns
    -------
    list of (N, 3) float64
        Å, from the saddle point down; neither end is among them.
    """
    fallen = (branch.energies[0] - branch.energies) / (branch.energies[0] - branch.energies[-1])
    last = float(np.interp(_COVERED, fallen, branch.arc))
    wanted = last * np.arange(1, number + 1) / (number + 0.5)
    flat = branch.positions.reshape(len(branch.arc), -1)
    rows = [np.interp(wanted, branch.arc, column) for column in flat.T]
    return list(np.array(rows).T.reshape(number, *branch.end.shape))


def _descend(surface: Surface, saddle: Atoms, push: Array, fmax: float, tolerance: float) -> Branch:
    numbers = saddle.numbers
    root = np.repeat(np.sqrt(masses_of(numbers)), 3)

    def atoms_at(q: Array) -> Atoms:
        return Atoms(numbers, (q / root).reshape(-1, 3))

    def slope(_: float, q: Array) -> Array:
        return surface.energy_forces(atoms_at(q))[1].ravel() / root

    def jacobian(time: float, q: Array) -> Array:
        # It only steers the integrator, so differences of one side do; scipy's own steps are too small for the noise.
        here = slope(time, q)
        return np.array([(slope(time, q + _STEP * unit) - here) / _STEP for unit in np.eye(len(q))]).T

    top = surface.energy_forces(saddle)[0]

    def away_from_minimum(_: float, q: Array) -> float:
        energy, forces = surface.energy_forces(atoms_at(q))
        largest = float(np.abs(forces).max())
        return min(largest - _FLAT, max(largest - fmax, energy - (top - _LEFT)))

    away_from_minimum.terminal, away_from_minimum.direction = True, -1  # type: ignore[attr-defined]
    start = (saddle.positions + push).ravel() * root
    solution = solve_ivp(
        slope,
        (0.0, _LONGEST_TIME),
        start,
        method="BDF",
        jac=jacobian,
        events=away_from_minimum,
        rtol=1e-9,  # coordinates have no natural origin, so their size says nothing of the error they may have
        atol=tolerance,
    )
    if solution.status != 1:
        raise SurfaceError(f"a path does not end in a minimum ({solution.message})")
    path = np.vstack([saddle.positions.ravel() * root, solution.y.T])
    energies = np.array([surface.energy_forces(atoms_at(q))[0] for q in path])
    rise = float(np.diff(energies).max())
    if rise > 1e-4:
        raise SurfaceError(f"the energy rises by {rise:.1e} eV along a path")
    arc = np.concatenate([[0.0], np.linalg.norm(np.diff(path, axis=0), axis=1).cumsum()])
    return Branch((path / root).reshape(len(path), -1, 3), energies, arc)
