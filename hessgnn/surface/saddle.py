"""Saddle points of first order of a surface, found with Sella and proved by their frequencies."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from ase import Atoms

from hessgnn.data.structure import Array
from hessgnn.runtime.imports import require
from hessgnn.surface.base import FAILURES, Surface, SurfaceError, reason_of
from hessgnn.surface.minimise import FAR, Stationary, converges, stationary


@dataclass(frozen=True)
class SaddleSearch:
    """Where a search ended.

    Attributes
    ----------
    positions : (N, 3) float64
        Å.
    steps, gradients, hessians : int
        What it took.
    """

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

    Parameters
    ----------
    surface
        What is searched.
    start
        The guess; not changed.
    fmax
        Largest force on any atom that counts as converged, eV/Å.
    max_steps
        Most steps.
    renew
        Steps after which the search begins anew with the exact Hessian, which Sella only updates; never by default.
    far
        Most that an atom moves in all, Å; no limit if ``None``.

    Returns
    -------
    SaddleSearch
        A converged geometry, of any number of imaginary modes.

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
    """Search a saddle point and prove that it is one of first order.

    Parameters
    ----------
    surface, start, fmax, max_steps, renew, far
        See :func:`search_saddle`.

    Returns
    -------
    Stationary
        With exactly one imaginary mode, the first.

    Raises
    ------
    SurfaceError
        When the search does not converge, or ends elsewhere.
    """
    found = search_saddle(surface, start, fmax, max_steps, renew=renew, far=far)
    atoms = start.copy()
    atoms.positions = found.positions
    proved = stationary(surface, atoms, found.gradients)
    if proved.modes.n_imaginary() != 1:
        raise SurfaceError(f"the search ended where {proved.modes.n_imaginary()} modes are imaginary, not one")
    return proved
