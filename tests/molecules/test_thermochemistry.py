import re

import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.thermochemistry import IdealGasThermo
from gaussian_logs import LOGS, REASON, read_gaussian

from hessgnn.errors import DataError
from hessgnn.molecules.thermochemistry import thermochemistry
from hessgnn.molecules.vibrations import masses_of, vibrations
from hessgnn.units import HARTREE, KCAL_PER_MOL, WAVENUMBER

WATER = [1595.0, 3657.0, 3756.0]
CO2 = [667.0, 667.0, 1333.0, 2349.0]


@pytest.mark.parametrize(
    ("name", "frequencies", "geometry", "symmetry", "multiplicity"),
    [("H2O", WATER, "nonlinear", 2, 1), ("CO2", CO2, "linear", 2, 1), ("O", [], "monatomic", 1, 3)],
)
def test_agrees_with_ase(name, frequencies, geometry, symmetry, multiplicity):
    atoms = molecule(name)
    gas = IdealGasThermo(
        [WAVENUMBER * f for f in frequencies],
        geometry,
        potentialenergy=-7.0,
        atoms=atoms,
        symmetrynumber=symmetry,
        spin=(multiplicity - 1) / 2,
    )
    atoms.rotate(37, (1, 2, 3))
    settings = {"temperature": 400.0, "pressure": 2e5, "symmetry_number": symmetry, "multiplicity": multiplicity}
    found = thermochemistry(atoms.get_masses(), atoms.positions + 9, frequencies, energy=-7.0, **settings)
    assert found.zero_point_energy == pytest.approx(gas.get_ZPE_correction(), abs=1e-8)
    assert found.internal_energy == pytest.approx(gas.get_internal_energy(400, verbose=False), abs=1e-8)
    assert found.enthalpy == pytest.approx(gas.get_enthalpy(400, verbose=False), abs=1e-8)
    assert found.entropy == pytest.approx(gas.get_entropy(400, 2e5, verbose=False), abs=1e-8)
    assert found.gibbs_energy == pytest.approx(gas.get_gibbs_energy(400, 2e5, verbose=False), abs=1e-8)


@pytest.mark.parametrize(("name", "frequencies"), [("H2O", WATER), ("CO2", CO2), ("O", [])])
@pytest.mark.parametrize("temperature", [50.0, 298.15, 2000.0])
def test_functions_are_derivatives_of_each_other(name, frequencies, temperature):
    atoms, step = molecule(name), 1e-3

    def at(offset):
        return thermochemistry(atoms.get_masses(), atoms.positions, frequencies, temperature=temperature + offset)

    low, here, high = at(-step), at(0), at(step)
    assert (high.internal_energy - low.internal_energy) / (2 * step) == pytest.approx(here.heat_capacity, rel=1e-6)
    assert (low.gibbs_energy - high.gibbs_energy) / (2 * step) == pytest.approx(here.entropy, rel=1e-6)
    assert here.enthalpy - here.internal_energy == pytest.approx(units.kB * temperature)


def test_stiff_modes_are_frozen_and_soft_ones_classical():
    atoms = molecule("H2O")
    frozen = thermochemistry(atoms.get_masses(), atoms.positions, [1e5] * 3)
    assert frozen.heat_capacity == pytest.approx(3 * units.kB)
    soft = thermochemistry(atoms.get_masses(), atoms.positions, [1e-2] * 3)
    assert soft.heat_capacity == pytest.approx(6 * units.kB)


def test_modes_that_are_not_real_are_left_out_and_counted():
    atoms = molecule("H2O")
    found = thermochemistry(atoms.get_masses(), atoms.positions, [-100.0, 3657.0, 3756.0])
    assert found.n_imaginary == 1
    assert found.zero_point_energy == pytest.approx(0.5 * WAVENUMBER * (3657 + 3756))


@pytest.mark.parametrize(("name", "number"), [("H2O", 9), ("H2O", 2), ("O", 1), ("CO2", 6)])
def test_frequencies_of_another_molecule_are_told(name, number):
    atoms = molecule(name)
    with pytest.raises(DataError, match="do not go with"):
        thermochemistry(atoms.get_masses(), atoms.positions, [100.0] * number)


@pytest.mark.skipif(not LOGS, reason=REASON)
@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_is_what_gaussian_prints(path):
    job, _ = read_gaussian(path)
    text = path.read_text()

    def printed(label):
        return float(re.findall(rf"{label} *=? *(-?[\d.]+)", text)[-1])

    found = thermochemistry(
        masses_of(job.numbers, "isotopic"),
        job.positions,
        vibrations(job.numbers, job.positions, job.hessian, masses="isotopic").frequencies,
        symmetry_number=int(printed("Rotational symmetry number")),
        multiplicity=int(printed("Multiplicity")),
        temperature=printed("Temperature"),
        pressure=101325.0 * printed("Pressure"),
    )
    # Hartree, printed with six digits
    assert found.zero_point_energy / HARTREE == pytest.approx(printed("Zero-point correction"), abs=2e-6)
    assert found.internal_energy / HARTREE == pytest.approx(printed("Thermal correction to Energy"), abs=2e-6)
    assert found.enthalpy / HARTREE == pytest.approx(printed("Thermal correction to Enthalpy"), abs=2e-6)
    assert found.gibbs_energy / HARTREE == pytest.approx(printed("Thermal correction to Gibbs Free Energy"), abs=3e-6)
    calories = 1e3 / KCAL_PER_MOL
    _, capacity, entropy = re.findall(r" Total +([\d.]+) +([\d.]+) +([\d.]+)", text)[-1]
    np.testing.assert_allclose(
        [found.heat_capacity * calories, found.entropy * calories], [float(capacity), float(entropy)], atol=5e-3
    )
