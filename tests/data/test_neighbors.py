import itertools

import numpy as np
import pytest

from hessgnn.data.neighbors import neighbors, triplets
from hessgnn.errors import DataError

CELL = np.array([[3.1, 0.0, 0.0], [0.8, 2.7, 0.0], [-0.4, 0.6, 3.5]])


def brute_force(positions, cutoff, cell, pbc):
    """All ordered pairs, by listing images far enough."""
    found = set()
    ranges = [range(-6, 7) if periodic else (0,) for periodic in pbc]
    for image in itertools.product(*ranges):
        shift = np.array(image) @ cell
        for i, j in itertools.product(range(len(positions)), repeat=2):
            distance = np.linalg.norm(positions[j] + shift - positions[i])
            if distance < cutoff and not (i == j and image == (0, 0, 0)):
                found.add((i, j, *np.round(shift, 6)))
    return found


def as_set(edge_index, edge_shift):
    rows = [(int(i), int(j), *np.round(shift, 6)) for i, j, shift in zip(*edge_index, edge_shift, strict=True)]
    assert len(set(rows)) == len(rows)
    return set(rows)


@pytest.mark.parametrize("pbc", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("n_atoms", [1, 2, 5])
def test_against_brute_force(pbc, n_atoms):
    positions = np.random.default_rng(n_atoms).uniform(-1, 4, size=(n_atoms, 3))  # some outside the cell
    got = as_set(*neighbors(positions, 4.3, CELL, np.array(pbc)))
    expected = brute_force(positions, 4.3, CELL, pbc)
    assert got == expected
    assert expected or (n_atoms < 3 and not any(pbc))


def test_an_atom_sees_its_own_images_in_both_directions():
    edge_index, shift = neighbors(np.zeros((1, 3)), 3.2, CELL, np.array([True, False, False]))
    assert edge_index.tolist() == [[0, 0], [0, 0]]
    assert sorted(shift.tolist()) == [[-3.1, 0, 0], [3.1, 0, 0]]


def test_a_molecule_needs_no_cell():
    positions = np.array([[0, 0, 0], [0, 0, 1.0], [0, 0, 9.0]])
    edge_index, shift = neighbors(positions, 2.0)
    assert edge_index.tolist() == [[0, 1], [1, 0]]
    assert edge_index.dtype == np.int64
    assert not shift.any()


def test_a_cell_without_periodicity_is_ignored():
    positions = np.array([[0, 0, 0], [0, 0, 1.0]])
    edge_index, _ = neighbors(positions, 3.2, CELL, False)
    assert edge_index.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("positions", [np.zeros((1, 3)), np.array([[0, 0, 0], [0, 0, 9.0]])])
def test_no_neighbours_keep_their_shapes(positions):
    edge_index, shift = neighbors(positions, 2.0)
    assert edge_index.shape == (2, 0)
    assert edge_index.dtype == np.int64
    assert shift.shape == (0, 3)


def test_edges_come_in_a_fixed_order():
    positions = np.random.default_rng(0).uniform(0, 6, size=(40, 3))
    (i, j), _ = neighbors(positions, 4.0)
    assert (np.lexsort((j, i)) == np.arange(len(i))).all()


@pytest.mark.parametrize("pbc", [False, True])
def test_triplets_are_the_pairs_of_near_edges_with_a_common_centre(pbc):
    positions = np.random.default_rng(0).uniform(0, 4, size=(6, 3))
    edges = neighbors(positions, 5.0, CELL, pbc)
    (i, j), shift = edges
    near = np.linalg.norm(positions[j] + shift - positions[i], axis=1) < 2.5
    expected = {(a, b) for a, b in itertools.combinations(range(len(i)), 2) if near[a] and near[b] and i[a] == i[b]}
    got = [tuple(sorted(pair)) for pair in triplets(positions, edges, 2.5).T.tolist()]
    assert len(got) == len(set(got))
    assert set(got) == expected
    assert expected


def test_one_atom_has_no_triplets():
    positions = np.zeros((1, 3))
    assert triplets(positions, neighbors(positions, 5.0), 5.0).shape == (2, 0)


@pytest.mark.parametrize(
    ("positions", "cell", "told"),
    [
        ([[0, 0, 0], [0, 0, 1.0], [0, 0, 0]], None, r"atoms \d and \d lie at the same place, 0.0e\+00 Å apart"),
        ([[0, 0, 0], [0, 0, 1e-7]], None, "1.0e-07 Å apart"),
        ([[0.1, 0, 0], [3.2, 0, 0]], CELL, r"atoms \d and \d \(of a periodic image\) lie at the same place"),
    ],
)
def test_coincident_atoms_are_named_with_their_structure(positions, cell, told):
    with pytest.raises(DataError, match=f"^frame 7: .*{told}.*Hint: remove one"):
        neighbors(np.array(positions), 2.0, cell, cell is not None, where="frame 7")


def test_atoms_that_are_merely_close_are_neighbours():
    assert neighbors(np.array([[0, 0, 0], [0, 0, 0.01]]), 2.0)[0].tolist() == [[0, 1], [1, 0]]
