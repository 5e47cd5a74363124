"""Paths between two minima: interpolated, and relaxed as a climbing-image nudged elastic band."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep import NEB
from ase.mep.neb import idpp_interpolate
from ase.optimize import FIRE2
from ase.optimize.optimize import Optimizer
from numpy.typing import NDArray

from hessgnn.data.structure import Array, Structure
from hessgnn.runtime.imports import require
from hessgnn.surface.base import FAILURES, Surface, SurfaceError, reason_of
from hessgnn.surface.minimise import FAR, converges


def interpolate(
    way: Literal["linear", "idpp", "geodesic"], images: int, reactant: Atoms, product: Atoms, *, steps: int = 100
) -> list[Array]:
    """Guess a path.

    Parameters
    ----------
    way
        ``linear``; ``idpp``, the image-dependent pair potential (S. Smidstrup et al., J. Chem. Phys. 140, 214106
        (2014)); or ``geodesic`` (X. Zhu, K. C. Thompson, T. J. Martínez, J. Chem. Phys. 150, 164103 (2019)).
    images
        Between the ends.
    reactant, product
        The ends, in one atom order, superposed.
    steps
        Most steps of the relaxation of ``idpp``.

    Returns
    -------
    list of (N, 3) float64
        Both ends and the images between them, Å.
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
    surface
        What the band is relaxed on.
    numbers
        ``(N,)`` atomic numbers.
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
    rough
        Largest force on the band before an image climbs, eV/Å.
    fmax
        Largest force at the end, eV/Å.
    max_steps
        Most steps, before and after an image climbs together.
    method
        Optimiser of ASE.
    converge
        Whether each part must converge. Otherwise, for a guess, the image climbs after half of the steps at the latest,
        and the optimiser keeps its speed then.
    far
        Most that an atom moves in all, Å; no limit if ``None``.

    Returns
    -------
    Band
        Relaxed.

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
