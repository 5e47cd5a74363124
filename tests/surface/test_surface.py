from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed, Calculator
from ase.calculators.emt import EMT
from pair_springs import PairSprings
from surfaces import minima

import hessgnn
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError
from hessgnn.molecules.geometry import rmsd
from hessgnn.potentials.base import Potential
from hessgnn.surface.base import FAILURES, Surface, SurfaceError
from hessgnn.surface.calculator import CalculatorSurface, HessGNNCalculator, surface_from_import_path
from hessgnn.surface.engines.base import Engine, EngineSettings
from hessgnn.surface.potential import PotentialSurface
from hessgnn.surface.stationary import find_minimum


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
        ("ase.calculators.emt:EMMT", "did you mean 'EMT'"),
        ("ase.calculators.lj:parameters", "has no 'parameters'"),
        ("ase.calculators.singlepoint:SinglePointCalculator", "without arguments"),
    ],
)
def test_what_is_no_calculator_is_told(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        surface_from_import_path(path)


def water_springs() -> Potential:
    return PairSprings.of(molecule("H2O"))


class Springs(Engine):
    """A potential as a label engine."""

    failures = FAILURES

    def __init__(self) -> None:
        super().__init__(EngineSettings(name="springs"), level_of_theory="springs")
        self._inner = HessGNNCalculator(water_springs())

    def compute(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        return self._inner.get_potential_energy(atoms), self._inner.get_forces(atoms)


SURFACES: dict[str, Callable[[], Surface]] = {
    "potential": lambda: PotentialSurface(water_springs()),
    "calculator": lambda: CalculatorSurface(lambda: HessGNNCalculator(water_springs())),
    "differenced": lambda: CalculatorSurface(_differenced(water_springs())),
    "engine": Springs,
}


@pytest.mark.parametrize("kind", SURFACES)
def test_every_kind_of_surface_answers_and_is_searched_alike(kind: str) -> None:
    surface, expected = SURFACES[kind](), PotentialSurface(water_springs())
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=3)
    structure = Structure.from_atoms(atoms)
    energy, forces = surface.energy_forces(atoms)
    (answer,), (there,) = surface.answers([structure]), expected.answers([structure])
    assert energy == pytest.approx(there.energy, abs=1e-12)
    assert answer.energy == pytest.approx(there.energy, abs=1e-12)
    np.testing.assert_allclose(forces, there.forces, atol=1e-12)
    np.testing.assert_allclose(answer.hessian, there.hessian, atol=1e-4)
    np.testing.assert_allclose(surface.hessian(atoms).matrix, there.hessian, atol=1e-4)
    (energies, moved) = surface.force_field([structure] * 2)(np.concatenate([atoms.positions, atoms.positions]))
    np.testing.assert_allclose(energies, energy, atol=1e-12)
    np.testing.assert_allclose(moved, [*forces, *forces], atol=1e-12)
    found = find_minimum(surface, atoms, 1e-6, 100)
    assert rmsd(found.atoms.positions, molecule("H2O").positions) < 1e-6
    assert not found.modes.n_imaginary()
    assert surface.calls.hessians > 0


@pytest.mark.parametrize("kind", SURFACES)
def test_what_fails_raises_alone_and_is_nan_among_others(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    surface = SURFACES[kind]()
    atoms = molecule("H2O")
    atoms.positions[1] = atoms.positions[0]  # neighbours at one place are refused
    structure = Structure.from_atoms(atoms)
    with pytest.raises(SurfaceError, match="the calculation failed: two atoms fell onto each other"):
        surface.energy_forces(atoms)
    with pytest.raises(SurfaceError):
        surface.hessian(atoms)
    if kind != "potential":  # a batch is refused as a whole
        (answer,) = surface.answers([structure])
        assert np.isnan(answer.hessian).all()
        assert np.isnan(surface.force_field([structure])(atoms.positions)[0]).all()


def test_a_surface_sent_to_another_process_leaves_its_calculator_behind() -> None:
    surface = PotentialSurface(water_springs())
    surface.energy_forces(molecule("H2O"))
    again = pickle.loads(pickle.dumps(surface))
    assert "_own" in vars(surface)
    assert "_own" not in vars(again)
    assert again.energy_forces(molecule("H2O"))[0] == surface.energy_forces(molecule("H2O"))[0]
