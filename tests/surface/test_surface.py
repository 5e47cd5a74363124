from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed, Calculator
from ase.calculators.emt import EMT
from pair_springs import PairSprings
from surfaces import minima

import hessgnn
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError
from hessgnn.potentials.base import Potential
from hessgnn.surface.base import CalculatorSurface, PotentialSurface, surface_from_import_path
from hessgnn.surface.calculator import HessGNNCalculator


def schnet() -> Potential:
    torch.manual_seed(0)
    return hessgnn.create("schnet", width=8, n_interactions=1, cutoff=4.0)


class FailsOnOzone(EMT):
    def calculate(self, atoms=None, *args, **kwargs):
        if (atoms.numbers == 8).all():
            raise CalculationFailed("no convergence")
        super().calculate(atoms, *args, **kwargs)


def test_a_potential_answers_in_batches_as_its_calculator_does_one_by_one() -> None:
    structures, potential = minima("CH4", "O3", "C2H2O2"), schnet()
    batched = PotentialSurface(potential, batch_size=2)
    single = CalculatorSurface(lambda: HessGNNCalculator(potential))
    for a, b in zip(batched.answers(structures), single.answers(structures), strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-12)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-12)
        np.testing.assert_allclose(a.hessian, b.hessian, atol=1e-11)
    positions = np.concatenate([s.positions for s in structures])
    fields = [surface.force_field(structures) for surface in (batched, single)]
    rng = np.random.default_rng(0)
    for _ in range(5):
        positions = positions + 0.2 * rng.normal(size=positions.shape)
        (energies, forces), (expected_energies, expected_forces) = (field(positions) for field in fields)
        np.testing.assert_allclose(energies, expected_energies, atol=1e-12)
        np.testing.assert_allclose(forces, expected_forces, atol=1e-12)


def test_forces_are_differenced_where_there_is_no_hessian() -> None:
    atoms = molecule("H2O")
    potential = PairSprings.of(atoms)

    structure = Structure.from_atoms(atoms)
    (exact,) = PotentialSurface(potential).answers([structure])
    (differenced,) = CalculatorSurface(_differenced(potential)).answers([structure])
    assert np.abs(exact.hessian).max() > 1
    np.testing.assert_allclose(differenced.hessian, exact.hessian, atol=1e-5)


def _differenced(potential: Potential) -> type[Calculator]:
    class Forces(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms=None, *args, **kwargs) -> None:
            super().calculate(atoms, *args, **kwargs)
            inner = HessGNNCalculator(potential)
            self.results = {"energy": inner.get_potential_energy(atoms), "forces": inner.get_forces(atoms)}

    return Forces


def test_what_fails_is_nan_and_the_rest_is_not() -> None:
    surface, structures = CalculatorSurface(FailsOnOzone), minima("O3", "CH4")
    ozone, methane = surface.answers(structures)
    assert np.isnan(ozone.energy)
    assert np.isnan(ozone.forces).all()
    assert ozone.hessian.shape == (9, 9)
    assert np.isfinite(methane.hessian).all()
    energies, forces = surface.force_field(structures)(np.concatenate([s.positions for s in structures]))
    assert np.isnan(energies).tolist() == [True, False]
    assert np.isnan(forces).any(axis=1).tolist() == [True] * 3 + [False] * 5


def test_fingerprints_tell_surfaces_apart() -> None:
    potential = schnet()
    before = PotentialSurface(potential).fingerprint
    assert PotentialSurface(potential.double()).fingerprint == before  # the type changes no weight
    with torch.no_grad():
        next(potential.parameters()).flatten()[0] += 1e-3
    assert PotentialSurface(potential).fingerprint != before
    assert CalculatorSurface(EMT).fingerprint == CalculatorSurface(EMT).fingerprint
    assert CalculatorSurface(EMT).fingerprint != CalculatorSurface(lambda: EMT(asap_cutoff=True)).fingerprint


def test_calculators_are_found_by_import_path() -> None:
    surface = surface_from_import_path("ase.calculators.emt:EMT")
    assert surface.name == "EMT"
    assert isinstance(surface.calculator(), EMT)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("EMT", "not an import path"),
        ("no_such_engine:Engine", "cannot be imported"),
        ("ase.calculators.emt:EMMT", "cannot be imported"),
        ("ase.calculators.lj:parameters", "cannot be imported"),
        ("ase.calculators.singlepoint:SinglePointCalculator", "without arguments"),
    ],
)
def test_what_is_no_calculator_is_told(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        surface_from_import_path(path)
