"""Infrared spectra in the double harmonic approximation: modes of one surface, dipoles of one engine.

A potential has no dipole. Intensities are those of the reference engine's dipole moment along a surface's own modes, so
that two spectra differ by the Hessian alone. Dipole derivatives depend on the data and the engine only, so they are
cached for all surfaces.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from contextlib import suppress
from math import pi
from pathlib import Path

import numpy as np
from ase import units
from ase.calculators.calculator import Calculator
from tblite.ase import TBLite

from hessgnn.data.store.columns import scratch
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import UserError
from hessgnn.runtime.files import atomic_path
from hessgnn.surface.base import FAILURES

KM_PER_MOL = units._Nav * units._e**2 / (12 * units._eps0 * units._c**2 * units._amu) / 1e3
"""km/mol for a squared dipole derivative of 1 e²/amu: N_A π/(3c²) (∂μ/∂Q)²/(4πε₀)
(E. B. Wilson, J. C. Decius, P. C. Cross, *Molecular Vibrations*, 1955, chapter 7)."""
DIPOLE_ACCURACY = 1e-5
"""Of tblite; the dipoles are differentiated."""


def dipole_derivatives(calculator: Calculator, structure: Structure, step: float) -> Array:
    """Differentiate the dipole moment numerically: ∂μ_b/∂x_ia as ``[i, a, b]``, ``(N, 3, 3)`` float64, e.

    The calculator gives dipoles in e·Å and is called 6N times; the step, in Å, is made to both sides.
    """
    atoms = structure.to_atoms()
    atoms.calc = calculator
    found = np.empty((len(structure), 3, 3))
    for i, a in np.ndindex(len(structure), 3):
        sides = []
        for sign in (1, -1):
            atoms.positions = structure.positions
            atoms.positions[i, a] += sign * step
            sides.append(np.array(atoms.get_dipole_moment()))
        found[i, a] = (sides[0] - sides[1]) / (2 * step)
    return found


def cached_dipole_derivatives(method: str, structure: Structure, step: float) -> Array | None:
    """Differentiate the dipole moment of a method of tblite, or read what was found before for the same geometry.

    The method is such as ``"GFN2-xTB"``. See :func:`dipole_derivatives`; ``None`` where the method fails.
    """
    path = _path(method, structure, step)
    with suppress(OSError, ValueError, EOFError):  # it is not there, or damaged
        found = np.load(path, allow_pickle=False)
        if found.shape == (len(structure), 3, 3) and found.dtype == np.float64:
            return found
    try:
        found = dipole_derivatives(TBLite(method=method, accuracy=DIPOLE_ACCURACY, verbosity=0), structure, step)
    except FAILURES:
        return None
    # Where nothing can be kept, it is found anew each time.
    with suppress(UserError, OSError), atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, found)
    return found


def _path(method: str, structure: Structure, step: float) -> Path:
    version = importlib.metadata.version("tblite")
    digest = hashlib.sha256(f"{method} {DIPOLE_ACCURACY} {step} {version}".encode())
    digest.update(structure.numbers.astype(np.int64).tobytes())
    digest.update(structure.positions.astype(np.float64).tobytes())
    digest.update(structure.pbc.tobytes())
    digest.update(b"" if structure.cell is None else structure.cell.tobytes())
    return scratch("dipoles") / f"{digest.hexdigest()[:32]}.npy"


def intensities(derivatives: Array, modes: Array) -> Array:
    """Infrared intensity of each normal mode, ``(M,)`` float64, km/mol.

    Derivatives ``(N, 3, 3)``, e, are those of :func:`dipole_derivatives`; modes are ``(M, N, 3)``, amu^−½, in the
    same orientation.
    """
    return KM_PER_MOL * np.square(np.einsum("iab,kia->kb", derivatives, modes)).sum(axis=1)


def broadened(frequencies: Sequence[float], heights: Sequence[float], width: float, grid: Array) -> Array:
    """Draw a spectrum on a grid, cm⁻¹: a Gaussian for each line, with the line's intensity as its area; per cm⁻¹.

    Frequencies are in cm⁻¹, imaginary ones negative; ``width`` is the standard deviation, cm⁻¹.
    """
    lines = np.exp(-np.square(np.subtract.outer(grid, frequencies)) / (2 * width**2))
    return lines @ np.asarray(heights, dtype=np.float64) / (width * np.sqrt(2 * pi))


def spectrum_overlap(
    first: Sequence[float],
    second: Sequence[float],
    width: float,
    heights: tuple[Sequence[float], Sequence[float]] | None = None,
) -> float:
    """Cosine of the angle between two spectra, ``∫fg / √(∫f²∫g²)``, in closed form: 1 for equal spectra, at least 0.

    Each frequency is the centre of a Gaussian with the standard deviation ``width``; imaginary ones are negative
    numbers. ``heights`` are the intensities of the lines of both spectra. By default all are alike, which makes
    densities of states. Two spectra without a line overlap by 1.
    """
    a, b = (np.ones(len(first)), np.ones(len(second))) if heights is None else map(np.asarray, heights)

    def inner(x: Sequence[float], weights: Array, y: Sequence[float], others: Array) -> float:
        kernel = np.exp(-(np.subtract.outer(x, y) ** 2) / (4 * width**2))
        return float(weights @ kernel @ others)

    if not (len(first) and len(second)):
        return float(len(first) == len(second))
    norm = np.sqrt(inner(first, a, first, a) * inner(second, b, second, b))
    return inner(first, a, second, b) / norm if norm else 0.0
