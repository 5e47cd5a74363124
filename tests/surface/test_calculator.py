from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS
from ase.vibrations import VibrationsData
from pair_springs import PairSprings

import hessgnn
from hessgnn.errors import DataError
from hessgnn.molecules.vibrations import vibrations
from hessgnn.potentials.base import Potential
from hessgnn.surface.calculator import HessGNNCalculator


def schnet(elements: tuple[int, ...] = (1, 6, 7, 8), cutoff: float = 4.0) -> Potential:
    torch.manual_seed(0)
    potential = hessgnn.create("schnet", elements=elements, cutoff=cutoff, width=8, n_interactions=2)
    potential.set_scaling(dict.fromkeys(elements, -10.0), 3.0)
    return potential


def crystal() -> Atoms:
    atoms = bulk("SiC", "zincblende", a=4.3)
    atoms.rattle(0.1, seed=1)
    return atoms


def numerical_forces(atoms: Atoms, step: float = 1e-4) -> np.ndarray:
    found = np.empty((len(atoms), 3))
    for index in np.ndindex(found.shape):
        energies = []
        for sign in (1, -1):
            image = atoms.copy()
            image.positions[index] += sign * step
            image.calc = atoms.calc
            energies.append(image.get_potential_energy())
        found[index] = (energies[1] - energies[0]) / (2 * step)
    return found


@pytest.mark.parametrize(("atoms", "elements"), [(molecule("CH3OH"), (1, 6, 8)), (crystal(), (6, 14))])
def test_gives_what_the_potential_gives(atoms: Atoms, elements: tuple[int, ...]) -> None:
    potential = schnet(elements).double()
    atoms = atoms.copy()
    atoms.calc = HessGNNCalculator(potential)
    batch = hessgnn.Batch.from_atoms([atoms], potential.cutoff)
    assert atoms.get_potential_energy() == pytest.approx(potential.energy(batch).item(), abs=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), potential.forces(batch), atol=1e-12)
    np.testing.assert_allclose(atoms.calc.get_hessian(atoms), potential.hessian(batch)[0], atol=1e-11)


def test_forces_and_hessian_of_a_crystal_are_the_derivatives() -> None:
    atoms = crystal()
    atoms.calc = HessGNNCalculator(schnet((6, 14)))
    np.testing.assert_allclose(atoms.get_forces(), numerical_forces(atoms), atol=1e-6)
    hessian, step = atoms.calc.get_hessian(atoms), 1e-4
    assert np.abs(hessian).max() > 0.1
    for row in range(6):
        sides = []
        for sign in (1, -1):
            image = atoms.copy()
            image.positions[divmod(row, 3)] += sign * step
            image.calc = atoms.calc
            sides.append(image.get_forces().ravel())
        np.testing.assert_allclose(hessian[row], (sides[1] - sides[0]) / (2 * step), atol=1e-5)


def test_a_cell_larger_by_repetition_has_so_many_times_the_energy() -> None:
    atoms = crystal()
    atoms.calc = HessGNNCalculator(schnet((6, 14)))
    larger = atoms.repeat((2, 1, 1))
    larger.calc = atoms.calc
    assert larger.get_potential_energy() == pytest.approx(2 * atoms.get_potential_energy())
    np.testing.assert_allclose(larger.get_forces(), np.tile(atoms.get_forces(), (2, 1)), atol=1e-10)


def test_a_skin_changes_nothing_along_a_trajectory() -> None:
    potential, rng = schnet((6, 14)).double(), np.random.default_rng(0)
    with_skin, without = HessGNNCalculator(potential, skin=0.6), HessGNNCalculator(potential, skin=0.0)
    atoms = crystal()
    for step in range(30):
        atoms.positions += 0.05 * rng.normal(size=(2, 3))
        if step == 20:
            atoms.set_cell(1.05 * atoms.cell)
        np.testing.assert_array_equal(with_skin.get_forces(atoms), without.get_forces(atoms))


def test_vibrations_of_ase_are_ours() -> None:
    atoms = molecule("H2O")
    atoms.calc = HessGNNCalculator(PairSprings.of(atoms))
    hessian = atoms.calc.get_hessian(atoms)
    expected = np.real(VibrationsData.from_2d(atoms, hessian).get_frequencies())[6:]
    found = vibrations(atoms.numbers, atoms.positions, hessian).frequencies
    assert found.min() > 100
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_optimisers_dynamics_and_paths_of_ase_run_on_it() -> None:
    atoms = molecule("H2O")
    potential = PairSprings.of(atoms)
    start = atoms.copy()
    start.rattle(0.05, seed=2)
    start.calc = HessGNNCalculator(potential)
    assert BFGS(start, logfile=None).run(fmax=1e-6, steps=100)
    np.testing.assert_allclose(start.get_all_distances(), atoms.get_all_distances(), atol=1e-5)

    start.positions[0] += [0, 0, 0.02]
    energy = start.get_potential_energy()
    VelocityVerlet(start, 0.2 * units.fs).run(100)
    assert start.get_kinetic_energy() > 1e-4
    assert start.get_total_energy() == pytest.approx(energy, abs=1e-5)

    images = [atoms.copy() for _ in range(4)]
    images[-1].positions[1] += [0.1, 0, 0]
    path = NEB(images, method="improvedtangent")
    path.interpolate()
    for image in images:
        image.calc = HessGNNCalculator(potential)
    assert np.isfinite(path.get_forces()).all()


def test_a_potential_of_another_type_is_copied() -> None:
    potential = schnet()
    calculator = HessGNNCalculator(potential)
    assert potential.scale.dtype == torch.float32
    assert calculator.potential.scale.dtype == torch.float64
    assert HessGNNCalculator(potential, dtype=torch.float32).potential is potential
    atoms = molecule("CH4")
    assert calculator.get_potential_energy(atoms) == pytest.approx(
        HessGNNCalculator(potential, dtype=torch.float32).get_potential_energy(atoms), abs=1e-4
    )


def test_an_unknown_element_is_told() -> None:
    atoms = molecule("SiH4")
    atoms.calc = HessGNNCalculator(schnet())
    with pytest.raises(DataError, match=r"knows H, C, N, O only, the batch holds Si"):
        atoms.get_potential_energy()


def test_an_answer_that_is_not_finite_is_told() -> None:
    potential = schnet()
    with torch.no_grad():
        potential.scale.fill_(np.nan)
    atoms = molecule("CH4")
    atoms.calc = HessGNNCalculator(potential)
    with pytest.raises(CalculationFailed, match="not finite"):
        atoms.get_forces()
    with pytest.raises(CalculationFailed, match="not finite"):
        atoms.calc.get_hessian(atoms)
    with pytest.raises(CalculationFailed, match="no structure"):
        HessGNNCalculator(potential).get_hessian()


def test_a_folder_that_holds_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(hessgnn.errors.ConfigError, match="not a run folder"):
        HessGNNCalculator(tmp_path)
