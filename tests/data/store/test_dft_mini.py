"""The bundled set of density-functional theory, as far as it can be judged without computing anything again."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from hessgnn.data.checks import examine
from hessgnn.data.store.families import familiar
from hessgnn.data.store.store import Store, bundled_names
from hessgnn.factory.build import assign_splits
from hessgnn.factory.recipe import Recipe
from hessgnn.molecules.vibrations import vibrations
from hessgnn.runtime.config import load
from hessgnn.runtime.files import find_resource

SPLITS = {"train": 93, "validation": 9, "test": 36}


@pytest.fixture(scope="module")
def store():
    return Store.open("dft-mini")


@pytest.fixture(scope="module")
def recipe():
    return load(Recipe, find_resource(Path("configs/data/dft-mini.yaml")))


def test_it_is_whole_and_small(store):
    store.verify()
    assert "dft-mini" in bundled_names()
    assert store.attributes.level_of_theory == "wB97X/6-31G(d)"
    assert store.splits == SPLITS
    assert set(store.kinds) == {"minimum", "nms"}
    assert store.elements(store.indices("train")) == [1, 6, 7, 8]
    assert store.path.stat().st_size < 1e6
    assert sum(path.stat().st_size for path in store.path.parent.iterdir()) < 8e6


def test_no_composition_is_in_two_splits(store):
    found = defaultdict(set)
    for structure in store:
        found[structure.split].add(tuple(sorted(structure.numbers.tolist())))
        assert (structure.numbers > 1).sum() <= 4
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]
    assert familiar(store) == {"test": (SPLITS["test"], 0)}


def test_what_each_split_is_labelled_with(store):
    assert (store.has_energy & store.has_forces).all()
    minima = np.array([kind == "minimum" for kind in store.kinds])
    train, test = (np.isin(np.arange(len(store)), store.indices(split)) for split in ("train", "test"))
    np.testing.assert_array_equal(store.has_hessian, minima | test)
    np.testing.assert_array_equal(store.n_directions, 2 * train)


def test_minima_are_minima_and_frames_lie_above_them(store, recipe):
    energies = dict(zip(store.names, store.energies, strict=True))
    for structure in store:
        if structure.kind == "minimum":
            assert np.linalg.norm(structure.forces, axis=1).max() < 5 * recipe.minimum.fmax  # some turn the molecule
            assert vibrations(structure.numbers, structure.positions, structure.hessian).frequencies.min() > 50
        else:
            assert 0 < structure.energy - energies[structure.parent] <= recipe.displaced.max_energy


def test_products_are_those_of_the_hessians(store):
    """Two calculations that share nothing but the surface: central differences, and the analytic Hessian."""
    ratios, relative = [], []
    for structure in store:
        if structure.hessian is not None and structure.directions is not None:
            vectors, products = structure.directions.vectors, structure.directions.products
            truth = (vectors.reshape(2, -1) @ structure.hessian).reshape(vectors.shape)
            off = np.sqrt(np.square(products - truth).mean((1, 2)))
            relative += (off / np.sqrt(np.square(truth).mean((1, 2)))).tolist()
            ratios += (off / structure.directions.errors).tolist()
    assert len(relative) == 2 * SPLITS["train"] / 3
    assert np.median(relative) < 4e-3
    assert max(relative) < 0.02
    assert np.median(ratios) < 10  # errors know noise and anharmonicity, not the grid of the Hessian


def test_there_is_nothing_to_complain_about(store):
    assert [finding for finding in examine(store).findings if finding.level == "error"] == []


def test_it_was_built_from_the_shipped_recipe(store, recipe):
    told = yaml.safe_load(store.attributes.provenance)
    assert Recipe.model_validate(told["recipe"]) == recipe
    made = assign_splits(recipe, list(store))
    assert [one.split for one in made] == store.structure_splits
    assert [one.group for one in made] == store.groups
    settings = [told[key]["settings"] for key in told if key.startswith("labelled")]
    assert all(one["engine"] == told["recipe"]["engine"] for one in settings)
    assert {"pyscf", "tblite"} <= set(store.attributes.versions)


@pytest.mark.slow
def test_computing_it_again_gives_the_same(store, recipe):
    pytest.importorskip("pyscf", reason="the extra hessgnn[pyscf] is not installed")
    from hessgnn.surface.differences import central_product
    from hessgnn.surface.engines.base import make_engine

    engine = make_engine(recipe.engine)
    for split in ("train", "test"):
        small = min(store.indices(split), key=lambda i: (store.n_atoms[i], store.kinds[i] == "minimum"))
        structure = store[small]
        atoms = structure.to_atoms()
        energy, forces = engine.energy_forces(atoms)
        assert energy == pytest.approx(structure.energy, abs=1e-6)
        np.testing.assert_allclose(forces, structure.forces, atol=1e-4)
        if split == "test":
            np.testing.assert_allclose(engine.hessian(atoms).symmetric, structure.hessian, atol=1e-3)
        else:
            vector, stored = structure.directions.vectors[0], structure.directions.products[0]
            found = central_product(engine.forces_of(atoms), structure.positions, vector, 5e-3)
            np.testing.assert_allclose(found, stored, atol=0.02)
