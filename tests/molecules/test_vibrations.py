import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.data import atomic_masses
from ase.vibrations import VibrationsData
from gaussian_logs import LOGS, REASON, read_gaussian

from hessgnn.errors import DataError
from hessgnn.molecules.vibrations import eckart_projector, masses_of, vibrations


def springs(atoms, stiffness=20.0):
    """Hessian of harmonic springs between all pairs, at rest: five or six zero modes, real frequencies otherwise."""
    n = len(atoms)
    hessian = np.zeros((n, 3, n, 3))
    for i in range(n):
        for j in range(i):
            unit = atoms.positions[i] - atoms.positions[j]
            block = stiffness * np.outer(unit, unit) / (unit @ unit)
            hessian[i, :, i] += block
            hessian[j, :, j] += block
            hessian[i, :, j] -= block
            hessian[j, :, i] -= block
    return hessian.reshape(3 * n, 3 * n)


@pytest.mark.skipif(not LOGS, reason=REASON)
@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_frequencies_are_those_that_gaussian_prints(path):
    job, printed = read_gaussian(path)
    found = vibrations(job.numbers, job.positions, job.hessian, masses="isotopic").frequencies
    np.testing.assert_allclose(found, printed, atol=0.05)


def test_agrees_with_ase_where_rigid_motions_cost_nothing():
    atoms = molecule("CH3OH")
    hessian = springs(atoms)
    ours = vibrations(atoms.numbers, atoms.positions, hessian)
    reference = VibrationsData.from_2d(atoms, hessian)
    frequencies = np.real(reference.get_frequencies())[6:]
    np.testing.assert_allclose(ours.frequencies, frequencies, rtol=1e-6, atol=1e-3)
    assert ours.zero_point_energy == pytest.approx(0.5 * units.invcm * frequencies.sum(), rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 25.0])
def test_linear_molecule_keeps_all_its_vibrations_wherever_it_stands(offset):
    atoms = molecule("CO2")
    atoms.rotate(40, (1, 2, 3))
    result = vibrations(atoms.numbers, atoms.positions + offset, springs(atoms))
    assert len(result.frequencies) == 4
    np.testing.assert_allclose(result.frequencies[:2], 0, atol=1)  # these springs leave the bends free
    assert (result.frequencies[2:] > 1000).all()
    assert np.trace(eckart_projector(atoms.get_masses(), atoms.positions + offset)) == pytest.approx(4)


def test_single_atom_has_no_vibration():
    result = vibrations([8], [[1.0, 2.0, 3.0]], np.eye(3))
    assert result.frequencies.shape == (0,)
    assert result.modes.shape == (0, 1, 3)
    assert result.zero_point_energy == 0.0


def test_diatomic_against_the_textbook():
    stiffness, masses = 100.0, np.array([12.0, 16.0])
    block = np.zeros((6, 6))
    block[np.ix_([2, 5], [2, 5])] = stiffness * np.array([[1, -1], [-1, 1]])
    result = vibrations(masses, [[0, 0, 0], [0, 0, 1.1]], block)
    reduced = masses.prod() / masses.sum()
    omega = np.sqrt(stiffness * units._e / 1e-20 / (reduced * units._amu))
    assert result.frequencies == pytest.approx([omega / (2 * np.pi * units._c * 100)])
    assert result.eigenvalues == pytest.approx([stiffness / reduced])


def test_a_maximum_has_negative_frequencies():
    atoms = molecule("H2O")
    result = vibrations(atoms.numbers, atoms.positions, -springs(atoms))
    assert (result.frequencies < 0).all()
    assert result.n_imaginary() == 3
    assert result.n_imaginary(threshold=1e5) == 0
    assert result.zero_point_energy == 0.0


def test_modes_are_normalised_and_carry_their_energy():
    atoms = molecule("CH3OH")
    hessian = springs(atoms)
    result = vibrations(atoms.numbers, atoms.positions, hessian)
    masses = masses_of(atoms.numbers)
    overlap = np.einsum("kia,i,lia->kl", result.modes, masses, result.modes)
    np.testing.assert_allclose(overlap, np.eye(12), atol=1e-10)
    flat = result.modes.reshape(12, -1)
    np.testing.assert_allclose(np.einsum("ki,ij,kj->k", flat, hessian, flat), result.eigenvalues, atol=1e-10)
    np.testing.assert_allclose(result.force_constants, result.eigenvalues / (flat**2).sum(1))


def test_masses():
    np.testing.assert_array_equal(masses_of([1, 6]), atomic_masses[[1, 6]])
    assert masses_of([6], "isotopic") == pytest.approx([12.0])


def test_wrong_input_is_told():
    with pytest.raises(DataError, match="do not go together"):
        vibrations([1, 1], np.zeros((2, 3)), np.eye(3))
    with pytest.raises(DataError, match="NaN"):
        vibrations([1, 1], np.zeros((2, 3)), np.full((6, 6), np.nan))
