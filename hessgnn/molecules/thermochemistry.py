"""Ideal-gas thermochemistry of a molecule: rigid rotor, harmonic oscillator.

The formulas are those of :class:`ase.thermochemistry.IdealGasThermo` (C. J. Cramer, *Essentials of Computational
Chemistry*, 2nd ed., 2004, chapter 10), which is called here; heat capacities, which it lacks, are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms, units
from ase.thermochemistry import IdealGasThermo
from numpy.typing import ArrayLike

from hessgnn.errors import DataError
from hessgnn.units import WAVENUMBER

ROOM_TEMPERATURE = 298.15
"""K."""
ATMOSPHERE = 101325.0
"""Pa."""

_GEOMETRIES: dict[int, Literal["monatomic", "linear", "nonlinear"]] = {3: "monatomic", 5: "linear", 6: "nonlinear"}


@dataclass(frozen=True)
class Thermochemistry:
    """Thermodynamic functions of one molecule of an ideal gas.

    Attributes
    ----------
    zero_point_energy, internal_energy, enthalpy, gibbs_energy : float
        eV; the last three contain the electronic energy that was given and the zero-point energy.
    entropy, heat_capacity : float
        eV/K; the heat capacity is that at constant volume.
    n_imaginary : int
        Modes that were left out because their frequency is not positive: with any, the numbers are those of a
        molecule that lacks these motions.
    """

    zero_point_energy: float
    internal_energy: float
    enthalpy: float
    entropy: float
    heat_capacity: float
    gibbs_energy: float
    n_imaginary: int


def thermochemistry(
    masses: ArrayLike,
    positions: ArrayLike,
    frequencies: ArrayLike,
    *,
    energy: float = 0.0,
    temperature: float = ROOM_TEMPERATURE,
    pressure: float = ATMOSPHERE,
    symmetry_number: int = 1,
    multiplicity: int = 1,
) -> Thermochemistry:
    """Compute thermodynamic functions from normal modes.

    Parameters
    ----------
    masses
        ``(N,)``, amu.
    positions
        ``(N, 3)``, Å.
    frequencies
        ``(M,)``, cm⁻¹, of the vibrations alone: 3N − 6, or 3N − 5 if the molecule is linear, as
        :func:`~hessgnn.molecules.vibrations.vibrations` gives them.
    energy
        Electronic energy, eV.
    temperature
        K.
    pressure
        Pa.
    symmetry_number
        Of the rotations. It shifts entropies by a constant, so differences between two surfaces do not need it.
    multiplicity
        2S + 1 of the electronic ground state.

    Returns
    -------
    Thermochemistry
        Of one molecule.

    Raises
    ------
    DataError
        When there are too many or too few frequencies.
    """
    weights, coordinates = np.asarray(masses, dtype=np.float64), np.asarray(positions, dtype=np.float64)
    waves = np.asarray(frequencies, dtype=np.float64)
    rigid = 3 * len(weights) - len(waves)
    if rigid not in _GEOMETRIES or (rigid == 3) != (len(weights) == 1):
        raise DataError(
            f"{len(waves)} frequencies do not go with {len(weights)} atoms",
            hint="leave out translations and rotations, and nothing else",
        )
    real = waves > 0
    gas = IdealGasThermo(
        vib_energies=list(WAVENUMBER * waves[real]),
        geometry=_GEOMETRIES[rigid],
        potentialenergy=energy,
        atoms=Atoms(numbers=np.zeros(len(weights), dtype=int), positions=coordinates, masses=weights),
        symmetrynumber=symmetry_number,
        spin=(multiplicity - 1) / 2,
        vib_selection="all",
    )
    with np.errstate(over="ignore"):  # ASE divides by the exponential of stiff modes, which gives the right zero
        return Thermochemistry(
            zero_point_energy=float(gas.get_ZPE_correction()),
            internal_energy=float(gas.get_internal_energy(temperature, verbose=False)),
            enthalpy=float(gas.get_enthalpy(temperature, verbose=False)),
            entropy=float(gas.get_entropy(temperature, pressure, verbose=False)),
            heat_capacity=units.kB * ((rigid / 2) + _harmonic_heat_capacity(waves[real], temperature)),
            gibbs_energy=float(gas.get_gibbs_energy(temperature, pressure, verbose=False)),
            n_imaginary=int((~real).sum()),
        )


def _harmonic_heat_capacity(frequencies: np.ndarray, temperature: float) -> float:
    """In units of Boltzmann's constant: Σ (x/2)²/sinh²(x/2), with x = hcν̃/kT (Einstein 1907)."""
    half = WAVENUMBER * frequencies / (2 * units.kB * temperature)
    # x e^{-x} instead of 1/sinh x, which overflows for stiff modes at low temperature
    return float(np.square(2 * half * np.exp(-half) / -np.expm1(-2 * half)).sum())
