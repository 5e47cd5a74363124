"""Normal modes of a molecule from its Hessian, in float64.

Translations and rotations are projected out before the mass-weighted Hessian is diagonalised (Eckart conditions;
E. B. Wilson, J. C. Decius, P. C. Cross, *Molecular Vibrations*, 1955, and J. W. Ochterski, *Vibrational Analysis in
Gaussian*, 1999). Frequencies mean something only at a stationary point; elsewhere the eigenvalues are a diagnostic of
the curvature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.data import atomic_masses, atomic_masses_common
from numpy.typing import ArrayLike, NDArray

from hessgnn.errors import DataError
from hessgnn.units import ANGULAR_TO_WAVENUMBER, WAVENUMBER

Array = NDArray[np.float64]

LINEAR_TOLERANCE = 1e-3
"""A molecule is linear when the smallest radius of gyration about an axis is below this share of the largest."""


@dataclass(frozen=True, eq=False)
class Vibrations:
    """Normal modes, sorted by frequency; M is 3N − 6, 3N − 5 for a linear molecule, 0 for an atom.

    Attributes
    ----------
    frequencies : (M,) float64
        Wavenumbers, cm⁻¹; imaginary ones as negative numbers.
    modes : (M, N, 3) float64
        Cartesian displacements l with Σ mᵢ lᵢ² = 1, in amu^−½: moving by ``Q * modes[k]`` with Q in Å·amu^½ changes the
        harmonic energy by ``eigenvalues[k] * Q**2 / 2``.
    eigenvalues : (M,) float64
        Of the mass-weighted Hessian, eV/(Å² amu).
    reduced_masses : (M,) float64
        1/Σ lᵢ², amu.
    force_constants : (M,) float64
        Eigenvalue times reduced mass, eV/Å².
    """

    frequencies: Array
    modes: Array
    eigenvalues: Array
    reduced_masses: Array
    force_constants: Array

    @property
    def zero_point_energy(self) -> float:
        """Half the sum of the real frequencies, eV."""
        return float(0.5 * WAVENUMBER * self.frequencies[self.frequencies > 0].sum())

    def n_imaginary(self, threshold: float = 0.0) -> int:
        """Count the imaginary frequencies larger than a threshold, cm⁻¹: 0 at a minimum, 1 at a transition state."""
        return int((self.frequencies < -threshold).sum())


def masses_of(numbers: ArrayLike, kind: Literal["average", "isotopic"] = "average") -> Array:
    """Atomic masses.

    Parameters
    ----------
    numbers
        ``(N,)`` atomic numbers.
    kind
        ``average`` over natural isotopes (as ASE and ORCA take them), or of the most abundant isotope, ``isotopic``
        (as Gaussian takes it).

    Returns
    -------
    (N,) float64
        amu.
    """
    table = {"average": atomic_masses, "isotopic": atomic_masses_common}[kind]
    return np.asarray(table[np.asarray(numbers)], dtype=np.float64)


def vibrations(
    numbers_or_masses: ArrayLike,
    positions: ArrayLike,
    hessian: ArrayLike,
    *,
    masses: Literal["average", "isotopic"] = "average",
    exclude: ArrayLike | None = None,
) -> Vibrations:
    """Compute the normal modes of an isolated molecule.

    Parameters
    ----------
    numbers_or_masses
        ``(N,)`` atomic numbers if integers, masses in amu if floats.
    positions
        ``(N, 3)``, Å, anywhere in space.
    hessian
        ``(3N, 3N)`` or anything that reshapes to it, eV/Å², row index ``3 * atom + xyz``. Symmetrised here.
    masses
        Which masses stand for atomic numbers, see :func:`masses_of`.
    exclude
        ``(N, 3)``: one more displacement, of any length, that is projected out as translations and rotations are. On a
        reaction path that is its direction, ``−∇E / m`` (W. H. Miller, N. C. Handy, J. E. Adams, J. Chem. Phys. 72, 99
        (1980)).

    Returns
    -------
    Vibrations
        All modes but translations, rotations and what is excluded.

    Raises
    ------
    DataError
        When shapes disagree or a number is not finite.
    """
    given = np.asarray(numbers_or_masses)
    weights = masses_of(given, masses) if np.issubdtype(given.dtype, np.integer) else given.astype(np.float64)
    coordinates = np.asarray(positions, dtype=np.float64)
    n_atoms = len(weights)
    matrix = np.asarray(hessian, dtype=np.float64)
    if coordinates.shape != (n_atoms, 3) or matrix.size != 9 * n_atoms**2:
        raise DataError(
            f"{n_atoms} masses, positions {coordinates.shape} and a Hessian {matrix.shape} do not go together"
        )
    matrix = matrix.reshape(3 * n_atoms, 3 * n_atoms)
    if not (np.isfinite(matrix).all() and np.isfinite(coordinates).all()):
        raise DataError("positions or Hessian hold NaN or infinity, so there are no frequencies")

    scale = np.repeat(weights, 3) ** -0.5
    weighted = (matrix + matrix.T) / 2 * np.outer(scale, scale)
    internal = _internal_basis(weights, coordinates)
    if exclude is not None:
        internal = _without(internal, np.asarray(exclude, dtype=np.float64).reshape(-1) / scale)
    eigenvalues, vectors = np.linalg.eigh(internal.T @ weighted @ internal)
    displacements = (scale[:, None] * (internal @ vectors)).T
    reduced_masses = 1 / (displacements**2).sum(axis=1)
    return Vibrations(
        frequencies=np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)) * ANGULAR_TO_WAVENUMBER,
        modes=displacements.reshape(-1, n_atoms, 3),
        eigenvalues=eigenvalues,
        reduced_masses=reduced_masses,
        force_constants=eigenvalues * reduced_masses,
    )


def eckart_projector(masses: ArrayLike, positions: ArrayLike) -> Array:
    """Projector ``(3N, 3N)`` onto the internal motions, in mass-weighted coordinates.

    Symmetric and idempotent; its trace is 3N − 6, 3N − 5 for a linear molecule, 0 for an atom.
    """
    basis = _internal_basis(np.asarray(masses, dtype=np.float64), np.asarray(positions, dtype=np.float64))
    return basis @ basis.T


def _without(basis: Array, direction: Array) -> Array:
    """The part of an orthonormal basis (n, m) that is perpendicular to a direction (n,) with a part in its span."""
    inside = basis.T @ direction
    return basis @ np.linalg.svd(inside[:, None], full_matrices=True)[0][:, 1:]


def _internal_basis(masses: Array, positions: Array) -> Array:
    """Orthonormal basis (3N, M) of the mass-weighted motions that neither translate nor rotate the molecule."""
    root = np.sqrt(masses)
    # About any other origin the rotations of a linear molecule would mix with translations and count one too many.
    centred = positions - masses @ positions / masses.sum()
    translations = np.einsum("i,ab->iab", root / np.sqrt(masses.sum()), np.eye(3)).reshape(-1, 3)
    rotations = np.cross(np.eye(3)[None], centred[:, None]).transpose(0, 2, 1) * root[:, None, None]
    axes, gyration, _ = np.linalg.svd(rotations.reshape(-1, 3), full_matrices=False)
    rigid = np.hstack([translations, axes[:, gyration > LINEAR_TOLERANCE * max(gyration[0], 1e-12)]])
    return np.linalg.svd(rigid, full_matrices=True)[0][:, rigid.shape[1] :]
