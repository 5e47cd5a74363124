from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from surfaces import minima, reference_surface
from tblite.ase import TBLite

from hessgnn.data.structure import Structure
from hessgnn.evaluation.spectra import KM_PER_MOL, dipole_derivatives, intensities
from hessgnn.molecules.vibrations import vibrations


class PointCharges(Calculator):
    """A dipole that is linear in the positions."""

    implemented_properties = ["energy", "dipole"]  # noqa: RUF012
    charges = np.array([-0.6, 0.3, 0.3])

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "dipole": self.charges @ atoms.positions}


def test_the_unit_is_the_textbooks() -> None:
    """42.2561 km/mol for 1 (D/Å)²/amu."""
    debye_per_electron_angstrom = 4.803204
    assert KM_PER_MOL / debye_per_electron_angstrom**2 == pytest.approx(42.2561, rel=1e-5)


def test_derivatives_of_point_charges_are_the_charges() -> None:
    water = Structure.from_atoms(molecule("H2O"))
    found = dipole_derivatives(PointCharges(), water, 1e-3)
    np.testing.assert_allclose(found, np.einsum("i,ab->iab", PointCharges.charges, np.eye(3)), atol=1e-10)


def test_carbon_dioxide_does_not_absorb_where_it_keeps_its_symmetry() -> None:
    (structure,) = minima("CO2")
    (answer,) = reference_surface().answers([structure])
    modes = vibrations(structure.numbers, structure.positions, answer.hessian)
    derivatives = dipole_derivatives(TBLite(method="GFN2-xTB", accuracy=1e-5, verbosity=0), structure, 1e-3)
    bend, same_bend, symmetric, asymmetric = intensities(derivatives, modes.modes)
    assert symmetric < 1e-2
    assert bend == pytest.approx(same_bend, rel=1e-3)
    assert asymmetric > bend > 5
