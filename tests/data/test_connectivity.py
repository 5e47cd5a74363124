import numpy as np
import pytest
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

from hessgnn.data.connectivity import bonds, connectivity
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure


def structure(atoms, name="x"):
    fields = {"cell": atoms.cell.array, "pbc": atoms.pbc} if atoms.pbc.any() else {}
    return Structure(numbers=atoms.numbers, positions=atoms.positions, name=name, **fields)


@pytest.mark.parametrize(("name", "count"), [("H2O", 2), ("C6H6", 12), ("CH3CH2OH", 8), ("bicyclobutane", 11)])
def test_bonds_of_molecules(name, count):
    assert bonds(structure(molecule(name))).shape == (2, 2 * count)


def test_bonds_cross_the_walls_of_a_cell():
    assert bonds(structure(bulk("C", "diamond", a=3.57))).shape == (2, 2 * 4)


def test_conformers_agree_in_any_order_and_orientation():
    peroxide = molecule("H2O2")
    twisted = peroxide.copy()
    twisted.set_dihedral(2, 0, 1, 3, 180)
    assert not np.allclose(twisted.positions, peroxide.positions, atol=0.1)
    twisted = twisted[[3, 0, 2, 1]]
    twisted.positions = twisted.positions @ Rotation.random(random_state=0).as_matrix().T
    assert connectivity(structure(twisted)) == connectivity(structure(peroxide))


@pytest.mark.parametrize(("one", "other"), [("trans-butane", "isobutane"), ("CH3OCH3", "CH3CH2OH")])
def test_isomers_do_not(one, other):
    assert connectivity(structure(molecule(one))) != connectivity(structure(molecule(other)))


def test_frames_of_the_bundled_set_keep_the_bonds_of_their_molecule():
    store = Store.open("rtp-mini")
    chosen = [i for i, kind in enumerate(store.kinds) if kind == "minimum"]
    minima = {store.names[i]: connectivity(store[i]) for i in chosen}
    assert len(set(minima.values())) == len(minima)  # no two of these molecules are conformers
    frames = [store[i] for i, parent in enumerate(store.parents) if parent in minima]
    assert len(frames) == 2 * len(minima) == 450
    kept = [connectivity(s) == minima[s.parent] for s in frames]
    assert np.mean(kept) > 0.85  # strongly displaced frames tear bonds: so they count as what they were made from


def test_stable_from_release_to_release():
    """Splits are drawn by these."""
    assert connectivity(structure(molecule("H2O"))) == "H2O-2c741e4ea1a8afcd"
