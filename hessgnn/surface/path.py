"""Reaction paths of a surface: interpolated, nudged elastic bands between two minima, and the IRC from a saddle point.

The intrinsic reaction coordinate (K. Fukui, Acc. Chem. Res. 14, 363 (1981)) is the path of steepest descent from a
saddle point in mass-weighted coordinates. With ``q = √m R`` it is the orbit of ``dq/dt = −∂E/∂q``, a stiff equation: an
implicit integrator follows it in a few dozen steps.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep import NEB
from ase.mep.neb import idpp_interpolate
from ase.optimize import FIRE2
from ase.optimize.optimize import Optimizer
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from hessgnn.data.structure import Array, Structure
from hessgnn.molecules.vibrations import Vibrations, masses_of
from hessgnn.runtime.imports import require
from hessgnn.surface.base import FAILURES, Surface, SurfaceError, reason_of
from hessgnn.surface.stationary import FAR, converges


def interpolate(
    way: Literal["linear", "idpp", "geodesic"], images: int, reactant: Atoms, product: Atoms, *, steps: int = 100
) -> list[Array]:
    """Guess a path: both ends and the images between them, ``(N, 3)`` each, Å.

    Parameters
    ----------
    way
        ``linear``; ``idpp``, the image-dependent pair potential (S. Smidstrup et al., J. Chem. Phys. 140, 214106
        (2014)); or ``geodesic`` (X. Zhu, K. C. Thompson, T. J. Martínez, J. Chem. Phys. 150, 164103 (2019)).
    images
        Number of images between the ends.
    reactant, product
        The ends, in one atom order, superposed.
    steps
        Most steps of the relaxation of ``idpp``.
    """
    if way == "geodesic":
        return _geodesic(images, reactant, product)
    chain = NEB([reactant.copy() for _ in range(images + 1)] + [product.copy()], method="improvedtangent")
    chain.interpolate(apply_constraint=False)
    if way == "idpp":
        idpp_interpolate(chain, traj=None, log=None, fmax=0.1, steps=steps)
    return [image.positions for image in chain.images]


def _geodesic(images: int, reactant: Atoms, product: Atoms) -> list[Array]:
    origin = {"package": "geodesic-interpolate", "extra": "factory", "purpose": "a geodesic path"}
    interpolation = require("geodesic_interpolate.interpolation", **origin)
    geodesic = require("geodesic_interpolate.geodesic", **origin)
    logging.getLogger("geodesic_interpolate").setLevel(logging.ERROR)
    symbols = reactant.get_chemical_symbols()
    # Constants as in the authors' own program.
    np.random.seed(0)  # noqa: NPY002 - the interpolation draws from the global stream
    raw = interpolation.redistribute(symbols, [reactant.positions, product.positions], images + 2, tol=1e-2)
    smoother = geodesic.Geodesic(symbols, raw, 1.7, threshold=3, friction=1e-2)
    smoother.smooth(tol=2e-3, max_iter=15)
    return list(np.asarray(smoother.path))


class Band(NEB):
    """A nudged elastic band of ASE whose images are computed in one call of the surface.

    G. Henkelman, B. P. Uberuaga, H. Jónsson, J. Chem. Phys. 113, 9901 (2000), with improved tangents.

    Parameters
    ----------
    path
        ``(N, 3)`` for each image, Å; the two ends stay where they are.
    spring
        eV/Å².

    Attributes
    ----------
    all_energies : (n_images,) float64
        eV, both ends included.
    gradients, steps : int
        What it took so far.
    """

    def __init__(self, surface: Surface, numbers: NDArray[np.int64], path: Sequence[Array], spring: float) -> None:
        super().__init__([Atoms(numbers, where) for where in path], k=spring, climb=False, method="improvedtangent")
        one = Structure(numbers=numbers, positions=path[0], name="image")
        self._compute = surface.force_field([one] * (len(path) - 2))
        self.gradients, self.steps = len(path), 0
        self._put(
            [self.images[0], self.images[-1]], surface.force_field([one] * 2)(np.concatenate([path[0], path[-1]]))
        )
        self.all_energies = np.full(len(path), np.nan)
        self._answered: Array | None = None

    def get_forces(self) -> Array:
        """Forces on the inner images, spring forces included, as ASE's optimisers ask for them."""
        inner = self.images[1:-1]
        where = np.concatenate([image.positions for image in inner])
        # Optimisers ask several times in a step.
        if self._answered is None or not np.array_equal(where, self._answered):
            forces = self._put(inner, self._compute(where))
            self.gradients += len(inner)
            self.all_energies = np.array([image.get_potential_energy() for image in self.images])
            if not (np.isfinite(self.all_energies).all() and np.isfinite(forces).all()):
                raise SurfaceError("energy or forces are not finite")
            self._answered = where
        return super().get_forces()

    @staticmethod
    def _put(images: Sequence[Atoms], computed: tuple[Array, Array]) -> Array:
        """Give images their energies and forces."""
        energies, forces = computed
        for image, energy, force in zip(images, energies, np.split(forces, len(images)), strict=True):
            image.calc = SinglePointCalculator(image, energy=float(energy), forces=force)
        return forces

    @property
    def path(self) -> Array:
        """``(n_images, N, 3)``, Å."""
        return np.array([image.positions for image in self.images])

    @property
    def top(self) -> Array:
        """``(N, 3)``, Å: the highest of the inner images."""
        return self.images[1 + int(np.argmax(self.all_energies[1:-1]))].positions


def climbing_band(
    surface: Surface,
    numbers: NDArray[np.int64],
    path: Sequence[Array],
    *,
    spring: float,
    rough: float,
    fmax: float,
    max_steps: int,
    method: type[Optimizer] = FIRE2,
    converge: bool = True,
    far: float | None = FAR,
) -> Band:
    """Relax a path as a band, then let its highest image climb.

    Parameters
    ----------
    surface, numbers, path, spring
        See :class:`Band`.
    rough, fmax
        Largest force on the band before an image climbs, and at the end, eV/Å.
    max_steps
        Most steps, before and after an image climbs together.
    converge
        Whether each part must converge. Otherwise, for a guess, the image climbs after half of the steps at the latest,
        and the optimiser keeps its speed then.
    far
        Most that an atom moves in all, Å; no limit if ``None``.

    Raises
    ------
    SurfaceError
        When the band does not converge, an atom moves too far, or the surface fails.
    """
    try:
        band = Band(surface, numbers, path, spring)
        start, optimiser = band.path, method(band, logfile=None)
        for climb, limit, most in ((False, rough, max_steps if converge else max_steps // 2), (True, fmax, max_steps)):
            band.climb = climb
            before = optimiser.nsteps
            progress = optimiser.irun(fmax=limit, steps=most - band.steps)
            converged = converges(progress, lambda: band.path, start, far)
            band.steps += optimiser.nsteps - before
            if converge and not converged:
                raise SurfaceError(f"the band did not converge to {limit} eV/Å in {max_steps} steps")
            if converge:
                optimiser = method(band, logfile=None)
    except FAILURES as error:
        raise SurfaceError(f"the band failed: {reason_of(error)}") from error
    return band


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

    Positions are ``(n, N, 3)``, Å, as the integrator stepped; energies ``(n,)``, eV; ``arc`` is the length of the
    path since the saddle point, ``(n,)``, Å·amu^½.
    """

    positions: Array
    energies: Array
    arc: Array

    @property
    def end(self) -> Array:
        """Where the path ends, ``(N, 3)``."""
        return self.positions[-1]


def follow_irc(
    surface: Surface, saddle: Atoms, modes: Vibrations, *, fmax: float = 1e-2, tolerance: float = 1e-3
) -> tuple[Branch, Branch]:
    """Follow both sides of a path: along the imaginary mode, which is the first, and against it.

    A path ends where no force is larger than ``fmax``, eV/Å; ``tolerance`` is that of the integration, Å·amu^½. Raises
    :class:`SurfaceError` when a path does not come down to a point without forces.
    """
    mode, curvature = modes.modes[0], abs(float(modes.eigenvalues[0]))
    push = min(np.sqrt(2 * _DROP / curvature), _LONGEST_PUSH) * mode
    first, second = (_descend(surface, saddle, sign * push, fmax, tolerance) for sign in (1, -1))
    return first, second


def irc_frames(branch: Branch, number: int) -> list[Array]:
    """Choose frames ``(N, 3)`` at equal distances along one side of a path, Å, from the saddle point down.

    Neither end of the path is among them.
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
