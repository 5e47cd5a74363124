"""The units of this package: eV, Å, eV/Å, eV/Å², amu, cm⁻¹.

Quantities are converted once, at the door (readers and writers), with the factors below. They come from
:mod:`ase.units` (CODATA 2014), never from a literal.
"""

from __future__ import annotations

from math import pi, sqrt

from ase import units

HARTREE = units.Hartree
"""eV in one Hartree."""
BOHR = units.Bohr
"""Å in one Bohr."""
HARTREE_PER_BOHR = units.Hartree / units.Bohr
"""eV/Å in one Hartree/Bohr."""
HARTREE_PER_BOHR2 = units.Hartree / units.Bohr**2
"""eV/Å² in one Hartree/Bohr²."""
KCAL_PER_MOL = units.kcal / units.mol
"""eV in one kcal/mol."""
WAVENUMBER = units.invcm
"""eV in one cm⁻¹ (as hc·ν̃)."""

ANGULAR_TO_WAVENUMBER = sqrt(units._e / units._amu) * 1e10 / (2 * pi * units._c * 1e2)
"""cm⁻¹ for a mass-weighted Hessian eigenvalue of 1 eV/(Å² amu): ν̃ = ω/(2πc), ω² = λ."""
