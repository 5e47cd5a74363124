"""From the two ends of a reaction to a guess of its saddle point: an interpolated path, relaxed as an elastic band."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
from ase import Atoms
from ase.mep import NEB
from ase.mep.neb import idpp_interpolate
from ase.optimize import FIRE

from hessgnn.data.structure import Array
from hessgnn.factory.recipe import PathSettings
from hessgnn.runtime.imports import require
from hessgnn.surface.engines import Engine, EngineCalculator

_ROUGH = 5.0
"""The band climbs once its forces are below so many times the limit."""


def interpolate(way: Literal["geodesic", "idpp"], images: int, reactant: Atoms, product: Atoms) -> list[Array]:
    """Guess a path.

    Parameters
    ----------
    way
        ``geodesic`` (X. Zhu, K. C. Thompson, T. J. Martínez, J. Chem. Phys. 150, 164103 (2019)) or ``idpp``
        (S. Smidstrup et al., J. Chem. Phys. 140, 214106 (2014)).
    images
        Between the ends.
    reactant, product
        The ends, in one atom order.

    Returns
    -------
    list of (N, 3) float64
        Both ends and the images between them, Å.
    """
    if way == "idpp":
        band = [reactant.copy() for _ in range(images + 1)] + [product.copy()]
        chain = NEB(band, method="improvedtangent")
        chain.interpolate(apply_constraint=False)
        idpp_interpolate(chain, traj=None, log=None, fmax=0.1, steps=200)
        return [image.positions for image in band]
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


def highest_image(settings: PathSettings, engine: Engine, path: list[Array], numbers: Array) -> Atoms:
    """Relax a path as a climbing-image band and take its highest image.

    G. Henkelman, B. P. Uberuaga, H. Jónsson, J. Chem. Phys. 113, 9901 (2000), with improved tangents. The band need not
    converge: the saddle point is refined and verified afterwards.

    Parameters
    ----------
    settings
        Spring, limit and number of steps.
    engine
        What computes energies and forces.
    path
        Positions of all images, Å.
    numbers
        ``(N,)`` atomic numbers.

    Returns
    -------
    ase.Atoms
        The guess of the saddle point.
    """
    images = [Atoms(numbers, positions) for positions in path]
    for image in images:
        image.calc = EngineCalculator(engine)
    band = NEB(images, k=settings.spring, climb=False, method="improvedtangent")
    optimiser = FIRE(band, logfile=None)
    optimiser.run(fmax=_ROUGH * settings.fmax, steps=settings.max_steps // 2)
    band.climb = True
    optimiser.run(fmax=settings.fmax, steps=settings.max_steps - optimiser.nsteps)
    energies = [image.get_potential_energy() for image in images[1:-1]]
    return Atoms(numbers, images[1 + int(np.argmax(energies))].positions)
