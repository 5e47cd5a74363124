import numpy as np
import pytest
from ase.build import molecule
from scipy.spatial.transform import Rotation

from hessgnn.data.store.families import TOLERANCE, Duplicates
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.molecules.geometry import invariants


def classes(structures):
    duplicates = Duplicates()
    for structure in structures:
        duplicates.add(structure)
    return [places.tolist() for places in duplicates.classes()]


def structure(name, positions=None, numbers=None):
    atoms = molecule(name)
    return Structure(
        numbers=atoms.numbers if numbers is None else numbers,
        positions=atoms.positions if positions is None else positions,
        name="x",
    )


@pytest.mark.parametrize("mirror", [1, -1])
def test_invariants_are_invariant(mirror):
    atoms = molecule("CH3CHO")
    turn = mirror * Rotation.random(random_state=0).as_matrix()
    order = np.random.default_rng(0).permutation(len(atoms))
    turned = (atoms.positions @ turn.T + [5, 6, 7])[order]
    np.testing.assert_allclose(
        invariants(atoms.numbers[order], turned), invariants(atoms.numbers, atoms.positions), rtol=1e-12
    )


@pytest.mark.parametrize("name", ["CH3CHO", "H2", "C6H6"])
def test_any_change_of_shape_changes_them(name):
    atoms = molecule(name)
    before = invariants(atoms.numbers, atoms.positions)
    for seed in range(20):
        moved = atoms.positions + np.random.default_rng(seed).normal(scale=1e-4, size=atoms.positions.shape)
        change = np.abs(invariants(atoms.numbers, moved) - before) / before
        assert change.max() > TOLERANCE


def test_copies_are_found_within_rounding():
    water = structure("H2O")
    rounded = structure("H2O", positions=water.positions.astype(np.float32))
    moved = structure("H2O", positions=water.positions * 1.001)
    assert classes([structure("NH3"), water, moved, rounded, structure("NH3")]) == [[0, 4], [1, 3]]


def test_many_copies_are_one_class():
    assert classes([structure("H2O")] * 50) == [list(range(50))]


def test_none():
    assert classes([]) == []
    assert classes([structure("H2O")]) == []
    assert classes([structure("H2O"), structure("H2O", numbers=[7, 1, 1])]) == []


def test_copies_in_the_bundled_set_are_ends_of_reactions_and_mirrored_halves_of_paths():
    """Both ends of a reaction are kept in the order of its atoms, also where another reaction begins there."""
    store = Store.open("rtp-mini")
    found = [[store.names[i].split("/") for i in places] for places in classes(store)]
    ends = [names for names in found if all(name[-1] in ("reactant", "product") for name in names)]
    assert len(ends) == 21
    same = [name[:2] for names in ends for name in names if [*name[:2], "product"] in names and name[-1] == "reactant"]
    for one, other in (names for names in found if names not in ends):
        assert one[:-1] == other[:-1]
        assert one[:2] in same
        assert int(one[-1][-1]) + int(other[-1][-1]) == 7  # the k-th of eight frames and the k-th from the other end


def test_single_atoms_of_one_element_are_the_same():
    hydrogen = Structure(numbers=[1], positions=[[0, 0, 0]], name="H")
    carbon = Structure(numbers=[6], positions=[[0, 0, 0]], name="C")
    moved = Structure(numbers=[1], positions=[[1, 0, 0]], name="H")
    assert classes([hydrogen, carbon, moved]) == [[0, 2]]
