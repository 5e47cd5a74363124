"""Rules that select structures for curvature labels, on cases where it is known what comes first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from hessgnn.data.directions import Directions
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, DataError
from hessgnn.factory.selection import SELECTORS, Pool, Selector, pool_of, select
from hessgnn.factory.selection.predictions import differenced_products, directions, predict
from hessgnn.potentials.base import Potential, PotentialConfig
from hessgnn.surface.engines.base import Engine, make_engine
from hessgnn.surface.engines.tblite import TBLiteSettings
from hessgnn.surface.potential import PotentialSurface

NAMES = ("H2O", "NH3", "CH4", "HCN", "CO2")


class Springs(Potential):
    """``ε_i = w[Z_i] Σ_j r_ij² / 2`` over all pairs: its Hessian does not depend on the geometry."""

    def __init__(self, config: PotentialConfig) -> None:
        super().__init__(config)
        self.weights = torch.nn.Parameter(torch.ones(len(config.elements)))

    def atomic_energies(self, batch):
        i, _ = batch.edge_index
        pairs = self.weights[self.species(batch)[i]] * batch.edge_vectors().square().sum(-1) / 2
        return pairs.new_zeros(len(batch.numbers)).index_add(0, i, pairs)


def springs(elements=(1, 6, 7, 8), **weights: float) -> Potential:
    potential = Springs(PotentialConfig(elements=elements, cutoff=20.0))
    for element, value in weights.items():
        potential.weights.data[elements.index({"H": 1, "C": 6, "N": 7, "O": 8}[element])] = value
    return potential.double()


def structure(name: str, **fields: object) -> Structure:
    atoms = molecule(name)
    return Structure(numbers=atoms.numbers, positions=atoms.positions, name=name, **{"energy": -1.0, **fields})


def stored(path: Path, structures: list[Structure]) -> Store:
    write_store(path, structures, level_of_theory="none")
    return Store.open(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Forces grow from structure to structure."""
    sized = enumerate(NAMES, 1)
    return stored(
        tmp_path / "five.h5", [structure(name, forces=np.full((len(molecule(name)), 3), k)) for k, name in sized]
    )


def names(pool: Pool, rule: str, **options: bool) -> list[str]:
    return [pool.store.names[i] for i in select(rule, pool, **options).indices]


def test_random_choice_follows_from_the_seed(store):
    orders = {tuple(names(pool_of(store, "train", number=5, seed=seed), "random")) for seed in (0, 0, 1, 2)}
    assert len(orders) == 3
    assert all(sorted(order) == sorted(NAMES) for order in orders)


def test_largest_forces_come_first(store):
    found = select("force", pool_of(store, "train", number=2))
    assert [store.names[i] for i in found.indices] == ["CO2", "HCN"]
    np.testing.assert_allclose(found.scores, [5, 4])
    assert found.unit == "eV/Å"


def test_with_models_largest_errors_of_their_mean_force_come_first(tmp_path):
    models = [springs(), springs(O=3.0)]
    bare = stored(tmp_path / "bare.h5", [structure(name) for name in NAMES])
    everything = Pool(store=bare, candidates=np.arange(5), covered=np.zeros(0, int), number=5)
    both = [predict(model, everything, np.arange(5), "forces") for model in models]
    errors = (0.1, 0.2, 0.5, 0.3, 0.4)
    exact = [(a + b) / 2 for a, b in zip(*both, strict=True)]
    forces = [f + error for f, error in zip(exact, errors, strict=True)]
    labelled = stored(
        tmp_path / "labelled.h5", [structure(name, forces=f) for name, f in zip(NAMES, forces, strict=True)]
    )
    found = select("force", pool_of(labelled, "train", number=5, models=models))
    assert [labelled.names[i] for i in found.indices] == ["CH4", "CO2", "HCN", "NH3", "H2O"]
    np.testing.assert_allclose(found.scores, sorted(errors, reverse=True), atol=1e-6)


def test_what_has_no_forces_has_no_score(tmp_path):
    several = [structure("H2O"), structure("NH3", forces=np.ones((4, 3)))]
    store = stored(tmp_path / "two.h5", several)
    found = select("force", pool_of(store, "train", number=5))
    assert (found.indices.tolist(), found.without_score) == ([1], 1)
    with pytest.raises(DataError, match="none of 1 structures a score"):
        select("force", pool_of(stored(tmp_path / "one.h5", several[:1]), "train", number=1))


def test_curvature_estimates_the_norm_of_the_hessian(store):
    model = springs(C=30.0)
    pool = pool_of(store, "train", number=5, models=[model], directions=4000)
    found = select("curvature", pool)
    hessians = [answer.hessian for answer in PotentialSurface(model).answers(list(store))]
    norms = np.array([np.linalg.norm(hessian) / np.sqrt(len(hessian)) for hessian in hessians])
    np.testing.assert_allclose(found.scores, norms[found.indices], rtol=0.03)
    assert (np.diff(found.scores) <= 0).all()
    assert norms.max() > 1.5 * norms.min()


def test_curvature_of_an_engine_has_the_sign_and_unit_of_the_labels():
    store = Store.open("rtp-mini")
    small = np.flatnonzero(store.n_atoms == 4)[:2]
    engine = make_engine(TBLiteSettings())
    pool = Pool(store=store, candidates=small, covered=small[:0], number=1, engine=engine, directions=2)
    for i, products in zip(small, differenced_products(engine, pool), strict=True):
        expected = directions(pool, i).reshape(2, -1) @ store.hessian(i)
        np.testing.assert_allclose(products.reshape(2, -1), expected, atol=2e-3)
    norms = [np.sqrt(np.square(directions(pool, i).reshape(2, -1) @ store.hessian(i)).mean()) for i in small]
    found = select("curvature", pool)
    assert found.indices.tolist() == [int(small[int(np.argmax(norms))])]
    np.testing.assert_allclose(found.scores, max(norms), rtol=1e-4)


def test_an_engine_that_fails_gives_no_score(store):
    class Failing(Engine):
        def compute(self, atoms: Atoms):
            if 6 in atoms.numbers:
                raise RuntimeError("no convergence")
            return 0.0, np.zeros((len(atoms), 3))

    engine = Failing(TBLiteSettings(), "none")
    found = select("curvature", pool_of(store, "train", number=5, engine=engine))
    assert [store.names[i] for i in found.indices] == ["H2O", "NH3"]
    assert found.without_score == 3


def test_where_models_disagree_comes_first(store):
    """They agree on what holds no nitrogen, and differ by twice as much on more of it."""
    models = [springs(N=1.0), springs(N=2.0), springs(N=3.0)]
    pool = pool_of(store, "train", number=5, models=models)
    found = select("disagreement", pool)
    assert {store.names[i] for i in found.indices[:2]} == {"NH3", "HCN"}
    assert [store.names[i] for i in found.indices[2:]] == ["H2O", "CH4", "CO2"], "ties are in the order of the store"
    np.testing.assert_array_equal(found.scores[2:], 0)
    i = store.names.index("HCN")
    products = [predict(model, pool, np.array([i]), "products")[0] for model in models]
    np.testing.assert_allclose(products[2] - products[1], products[1] - products[0], atol=1e-12)
    expected = np.sqrt(np.square(products[1] - products[0]).mean())  # of -1, 0, 1 the standard deviation is 1
    np.testing.assert_allclose(found.scores[found.indices.tolist().index(i)], expected)


def test_scores_do_not_depend_on_what_else_is_in_the_pool(store):
    models = [springs(N=1.0), springs(N=2.0)]
    alone = Pool(store=store, candidates=np.array([3]), covered=np.zeros(0, int), number=1, models=models)
    among = select("disagreement", pool_of(store, "train", number=5, models=models))
    assert select("disagreement", alone).scores[0] == among.scores[among.indices.tolist().index(3)]


def test_nan_of_a_model_is_no_score(store):
    found = select("disagreement", pool_of(store, "train", number=5, models=[springs(), springs(C=np.nan)]))
    assert [store.names[i] for i in found.indices] == ["H2O", "NH3"]
    assert found.without_score == 3


def rattled(number: int, seed: int, name: str = "CH4") -> list[Structure]:
    rng = np.random.default_rng(seed)
    atoms = molecule(name)
    return [
        Structure(
            numbers=atoms.numbers,
            positions=atoms.positions + 0.002 * rng.normal(size=atoms.positions.shape),
            name=f"{name}-{seed}-{k}",
            energy=0.0,
        )
        for k in range(number)
    ]


def test_what_is_far_comes_first(tmp_path):
    several = [*rattled(6, 0), structure("HCN"), *rattled(6, 1, "C2H6")]
    store = stored(tmp_path / "many.h5", several)
    pool = pool_of(store, "train", number=4)
    found = select("distance", pool)
    firsts = [store.names[i].split("-")[0] for i in found.indices]
    assert sorted(firsts[:3]) == ["C2H6", "CH4", "HCN"], "one of each before two of any"
    assert (np.diff(found.scores) <= 1e-6).all()
    assert found.scores[2] > 5 * found.scores[3], "then there is little left"


def test_labelled_structures_are_covered(tmp_path):
    methane, ethane = rattled(3, 0), rattled(3, 1, "C2H6")
    atoms = molecule("CH4")
    known = Structure(
        numbers=atoms.numbers,
        positions=atoms.positions[[0, 2, 4, 1, 3]] @ [[0, 1, 0], [0, 0, 1], [1, 0, 0]] + 5.0,
        name="known",
        energy=0.0,
        directions=Directions.make(np.ones((1, 5, 3)), np.zeros((1, 5, 3)), "rademacher"),
    )
    store = stored(tmp_path / "known.h5", [*methane, *ethane, known])
    pool = pool_of(store, "train", number=6)
    assert store.names[int(pool.covered[0])] == "known"
    found = select("distance", pool)
    assert store.names[found.indices[0]].startswith("C2H6"), "methane is covered, in whatever orientation and order"
    scores = dict(zip((store.names[i] for i in found.indices), found.scores, strict=True))
    assert max(value for name, value in scores.items() if name.startswith("CH4")) < 0.3 * found.scores[0]


def test_copies_are_no_news(tmp_path):
    store = stored(tmp_path / "copies.h5", [structure("H2O"), replace(structure("H2O"), name="again")])
    found = select("distance", pool_of(store, "train", number=2))
    assert found.indices.tolist() == [0, 1]
    assert found.scores[0] > 1
    assert found.scores[1] < 1e-3


def test_many_elements_are_not_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("hessgnn.factory.selection.distance.MOST_ELEMENTS", 2)
    store = stored(tmp_path / "many.h5", [structure(name) for name in NAMES])
    assert sorted(names(pool_of(store, "train", number=5), "distance")) == sorted(NAMES)


def test_a_diverse_selection_skips_copies(tmp_path):
    several = [structure("NH3"), structure("HCN"), *rattled(3, 0, "N2H4"), structure("H2O")]
    store = stored(tmp_path / "several.h5", several)
    pool = pool_of(store, "train", number=2, models=[springs(N=1.0), springs(N=2.0)], directions=64)
    assert all(name.startswith("N2H4") for name in names(pool, "disagreement"))
    diverse = names(pool, "disagreement", diverse=True)
    assert len({name.split("-")[0] for name in diverse}) == 2
    assert "H2O" not in diverse


def test_labelled_structures_are_left_out_by_default(tmp_path):
    hessian = structure("H2O", hessian=np.eye(9), forces=np.ones((3, 3)))
    directed = structure(
        "NH3",
        forces=np.ones((4, 3)),
        directions=Directions.make(np.ones((1, 4, 3)), np.ones((1, 4, 3)), "rademacher"),
    )
    store = stored(tmp_path / "three.h5", [hessian, directed, structure("CH4", forces=np.ones((5, 3)) / 2)])
    assert names(pool_of(store, "train", number=3), "force") == ["CH4"]
    everything = pool_of(store, "train", labelled=True, number=3)
    assert names(everything, "force") == ["H2O", "NH3", "CH4"]
    assert not len(everything.covered)
    labelled = stored(tmp_path / "two.h5", [hessian, directed])
    with pytest.raises(DataError, match="all 2 structures of split 'train' have a curvature label already"):
        pool_of(labelled, "train", number=1)


def test_models_must_know_the_elements(store):
    with pytest.raises(DataError, match="model 2 does not know C, N"):
        pool_of(store, "train", number=1, models=[springs(), springs((1, 8))])


def test_what_a_rule_needs_is_said(store):
    with pytest.raises(ConfigError, match="at least 2 trained potentials, got 1"):
        select("disagreement", pool_of(store, "train", number=1, models=[springs()]))
    with pytest.raises(ConfigError, match="--engine tblite"):
        select("curvature", pool_of(store, "train", number=1))
    with pytest.raises(ConfigError, match="did you mean 'distance'"):
        select("distanc", pool_of(store, "train", number=1))


def test_a_rule_gives_one_score_for_each_candidate(store):
    @SELECTORS.register("test-broken")
    class Broken(Selector):
        def scores(self, pool):
            return np.zeros(2)

    try:
        with pytest.raises(ConfigError, match="for 5 candidates"):
            select("test-broken", pool_of(store, "train", number=1))
    finally:
        SELECTORS._found.pop("test-broken")
