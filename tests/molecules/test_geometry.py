import numpy as np
import pytest
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

from hessgnn.data.store.store import Store
from hessgnn.errors import DataError
from hessgnn.molecules.geometry import (
    GRAPH_BOND,
    aligned,
    bonded_pairs,
    bonds,
    connectivity,
    rmsd,
    same_bonds,
)


def pairs(atoms):
    cell = atoms.cell.array if atoms.pbc.any() else None
    return bonded_pairs(atoms.numbers, atoms.positions, GRAPH_BOND, cell, atoms.pbc)[0]


def graph(atoms):
    """Of an ASE object or a structure."""
    return connectivity(atoms.numbers, atoms.positions)


@pytest.mark.parametrize(("name", "count"), [("H2O", 2), ("C6H6", 12), ("CH3CH2OH", 8), ("bicyclobutane", 11)])
def test_bonds_of_molecules(name, count):
    assert pairs(molecule(name)).shape == (2, 2 * count)


def test_bonds_cross_the_walls_of_a_cell():
    assert pairs(bulk("C", "diamond", a=3.57)).shape == (2, 2 * 4)


def test_conformers_agree_in_any_order_and_orientation():
    peroxide = molecule("H2O2")
    twisted = peroxide.copy()
    twisted.set_dihedral(2, 0, 1, 3, 180)
    assert not np.allclose(twisted.positions, peroxide.positions, atol=0.1)
    twisted = twisted[[3, 0, 2, 1]]
    twisted.positions = twisted.positions @ Rotation.random(random_state=0).as_matrix().T
    assert graph(twisted) == graph(peroxide)


@pytest.mark.parametrize(("one", "other"), [("trans-butane", "isobutane"), ("CH3OCH3", "CH3CH2OH")])
def test_isomers_do_not(one, other):
    assert graph(molecule(one)) != graph(molecule(other))


def test_frames_of_the_bundled_set_keep_the_bonds_of_their_molecule():
    store = Store.open("rtp-mini")
    chosen = [i for i, kind in enumerate(store.kinds) if kind == "minimum"]
    minima = {store.names[i]: graph(store[i]) for i in chosen}
    assert len(set(minima.values())) == len(minima)  # no two of these molecules are conformers
    frames = [store[i] for i, parent in enumerate(store.parents) if parent in minima]
    assert len(frames) == 2 * len(minima) == 450
    kept = [graph(s) == minima[s.parent] for s in frames]
    assert np.mean(kept) > 0.85  # strongly displaced frames tear bonds: so they count as what they were made from


def test_stable_from_release_to_release():
    """Splits are drawn by these."""
    assert graph(molecule("H2O")) == "H2O-2c741e4ea1a8afcd"


def test_bonds_depend_on_the_factor_alone():
    atoms = molecule("H2O")
    assert bonds(atoms.numbers, atoms.positions, 1.2).tolist() == [[0, 1], [0, 2]]
    assert bonds(atoms.numbers, atoms.positions, 0.5).shape == (0, 2)
    assert bonds(atoms.numbers, atoms.positions, 3.0).tolist() == [[0, 1], [0, 2], [1, 2]]
    stretched = atoms.positions.copy()
    stretched[1, 2] -= 1
    assert same_bonds(atoms.numbers, atoms.positions, atoms.positions + 1, 1.2)
    assert not same_bonds(atoms.numbers, atoms.positions, stretched, 1.2)


def test_a_graph_of_coincident_atoms_is_an_error():
    with pytest.raises(DataError, match="x: two atoms lie at the same place"):
        connectivity(np.array([1, 1]), np.zeros((2, 3)), where="x")


def test_alignment_is_that_of_scipy():
    rng = np.random.default_rng(3)
    reference, weights = rng.normal(size=(5, 3)), rng.uniform(1, 9, size=5)
    positions = Rotation.random(rng=4).apply(reference + 0.1 * rng.normal(size=(5, 3))) + 7
    centre, target = np.average(positions, 0, weights), np.average(reference, 0, weights)
    expected, _ = Rotation.align_vectors(reference - target, positions - centre, weights)
    moved, rotation = aligned(positions, reference, weights)
    np.testing.assert_allclose(rotation, expected.as_matrix(), atol=1e-10)
    np.testing.assert_allclose(moved, expected.apply(positions - centre) + target, atol=1e-10)


def test_a_mirror_image_is_another_molecule():
    positions = np.random.default_rng(5).normal(size=(5, 3))
    assert rmsd(positions, positions @ Rotation.random(rng=1).as_matrix()) < 1e-10
    assert rmsd(positions * [1, 1, -1], positions) > 0.1


@pytest.mark.parametrize("name", ["CO2", "HCN", "H2", "CH4"])
def test_linear_and_symmetric_molecules_are_aligned_without_a_warning(name):
    positions = molecule(name).positions
    turned = positions @ Rotation.random(rng=2).as_matrix() + 1
    moved, rotation = aligned(turned, positions)
    np.testing.assert_allclose(moved, positions, atol=1e-10)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-12)
    assert rmsd(positions[:1] + 3, positions[:1]) == 0
