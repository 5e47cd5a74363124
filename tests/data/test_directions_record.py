"""The record of a structure's directions."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from hessgnn.data.batch import Batch
from hessgnn.data.directions import Directions
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError


@pytest.fixture
def signs():
    return np.random.default_rng(0).choice([-1.0, 1.0], (2, 3, 3))


def test_a_summary_and_no_numbers(signs):
    rows = np.eye(9)[:1].reshape(1, 3, 3)
    known = Directions.join([Directions.make(signs, 7 * signs, "rademacher"), Directions.make(rows, rows, "rows")])
    assert repr(known) == "Directions(rademacher: 2, rows: 1; M=3, N=3)"
    fields = {"positions": molecule("H2O").positions, "numbers": [8, 1, 1]}
    one, other = Structure(**fields, name="a", directions=known), Structure(**fields, name="b")
    stored = Batch.from_structures([one, other], 5.0).labels.directions
    assert repr(stored) == "StoredProducts(M=[3, 0], N=[3, 3], torch.float64, cpu)"
    first = stored.read_products(torch.zeros((1, 2), dtype=torch.int64))  # as docs/data-format.md shows
    assert np.array_equal(first.numpy(), [np.concatenate([known.products[0], np.zeros((3, 3))])])


def test_one_vector_without_its_own_axis(signs):
    with pytest.raises(DataError, match=r"have shape \(3, 3\), expected \(M, N, 3\). Hint: .*vectors\[None\]"):
        Directions.make(signs[0], signs[0], "rademacher")


def test_the_weight_of_random_signs_is_for_ones(signs):
    with pytest.raises(DataError, match="components of rademacher directions are ±1, and one is ±2"):
        Directions.make(2 * signs, signs, "rademacher")
    assert np.allclose(Directions.make(2 * signs, signs, "signs").weights, 1 / 4)


def test_structures_of_a_store_are_found_by_place(tmp_path, signs):
    water = molecule("H2O")
    made = Directions.make(signs, signs, "rademacher")
    write_store(tmp_path / "a.h5", [Structure.from_atoms(water, name="w", directions=made)], level_of_theory="x")
    store = Store.open(tmp_path / "a.h5")
    for read in (store.directions, store.__getitem__):
        with pytest.raises(DataError, match=r"by their place, an integer, not by name. Hint: store.names.index\('w'\)"):
            read("w")
    assert np.array_equal(store.directions(-1).vectors, signs)
