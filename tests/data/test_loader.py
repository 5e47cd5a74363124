"""Batches straight from a store are those of its structures, whoever makes them."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk

from hessgnn.curvature.probes.modes import ReferenceModes
from hessgnn.data import collate
from hessgnn.data.batch import Batch
from hessgnn.data.loader import Loader
from hessgnn.data.neighbors import neighbors, triplets
from hessgnn.data.store import columns
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, DataError
from hessgnn.potentials.base import Potential, create
from hessgnn.training.distributed import Ranks

TRIPLET_CUTOFF = 2.5


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Molecules, one with missing labels, a single atom, and crystals between them."""
    bundled = Store.open("rtp-mini")
    made = [bundled[i] for i in range(0, 60, 4)]
    made[3] = replace(made[3], forces=None, hessian=None)
    made[5] = replace(made[5], energy=None)
    atom = Structure(numbers=np.array([8]), positions=np.zeros((1, 3)), name="atom", energy=1.0)
    crystals = [Structure.from_atoms(bulk(symbol), name=symbol) for symbol in ("Cu", "Si", "NaCl")[:2]]
    path = tmp_path_factory.mktemp("mixed") / "mixed.h5"
    write_store(path, [*made[:4], crystals[0], *made[4:9], atom, *made[9:], crystals[1]], level_of_theory="none")
    return Store.open(path)


def one_by_one(store: Store, batch: Batch, cutoff: float, dtype: torch.dtype) -> Batch:
    """The same batch, from single structures."""
    assert batch.index is not None
    structures = [store[i] for i in batch.index.tolist()]
    edges = [neighbors(s.positions, cutoff, s.cell, s.pbc) for s in structures]
    found = [triplets(s.positions, e, TRIPLET_CUTOFF) for s, e in zip(structures, edges, strict=True)]
    return Batch.from_structures(structures, cutoff, dtype, edges, batch.index.tolist(), triplets=found)


def assert_same(one: Batch, other: Batch) -> None:
    assert one.labels is not None
    assert other.labels is not None
    names = ("numbers", "positions", "batch", "n_atoms", "edge_index", "edge_shift", "index", "triplets", "pairs")
    label_names = ("energy", "forces", "hessian", "has_energy", "has_forces", "has_hessian")
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in names]
    pairs += [(name, getattr(one.labels, name), getattr(other.labels, name)) for name in label_names]
    for name, a, b in pairs:
        if a is None and b is None:
            continue
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cutoff", [1.6, 4.0])
@pytest.mark.parametrize("all_pairs", [collate.ALL_PAIRS, 7, 0])
@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_are_those_of_the_structures(
    mixed: Store,
    dtype: torch.dtype,
    cutoff: float,
    all_pairs: int,
    in_memory: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(collate, "ALL_PAIRS", all_pairs)
    if not in_memory:
        monkeypatch.setattr(columns, "IN_MEMORY", 0)
        monkeypatch.setenv(columns.SCRATCH, str(tmp_path))
    store = Store.open(mixed.path)
    loader = Loader(store, range(len(store)), cutoff, 6, dtype, "cpu", TRIPLET_CUTOFF, seed=0)
    for step in range(2 * len(loader)):  # the second time with kept neighbours
        batch = loader.batch(step)
        assert_same(batch, one_by_one(store, batch, cutoff, dtype))
    expected = [len(neighbors(s.positions, cutoff, s.cell, s.pbc)[1]) for s in store]
    assert loader.n_edges.tolist() == expected


def test_what_does_not_fit_is_found_anew(mixed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collate, "KEPT", 100)
    monkeypatch.setattr(collate, "ALL_PAIRS", 0)
    loader = Loader(
        mixed, range(len(mixed)), 4.0, 6, torch.float64, "cpu", TRIPLET_CUTOFF, preparation=ReferenceModes(2)
    )
    for _ in range(2):
        for batch in loader:
            assert_same(batch, one_by_one(mixed, batch, 4.0, torch.float64))
    assert loader.collator._edges._left >= 0


def test_a_limit_is_kept(mixed: Store) -> None:
    shared = (mixed, range(len(mixed)), 3.0, 6, torch.float64)
    for batch in Loader(*shared, seed=0, max_atoms=20):
        assert len(batch.numbers) <= 20
    loader = Loader(*shared, seed=0, max_edges=150)
    assert max(batch.edge_index.shape[1] for batch in loader) <= 150
    assert sum(batch.n_structures for batch in loader) == len(mixed)
    with pytest.raises(ConfigError, match="max_edges: a batch may hold 10 edges"):
        Loader(*shared, max_edges=10)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 on fork
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(mixed: Store, workers: int) -> None:
    shared = (mixed, range(len(mixed)), 4.0, 5, torch.float32, "cpu", TRIPLET_CUTOFF)
    settings = {"seed": 0, "preparation": ReferenceModes(2)}
    alone, helped = Loader(*shared, **settings), Loader(*shared, **settings, workers=workers)
    for step in (0, 1, 2, 9, 10, 3):  # also where a run resumes
        one, other = alone.batch(step), helped.batch(step)
        assert_same(one, other)
        assert one.labels is not None
        assert other.labels is not None
        assert one.labels.prepared is not None
        assert other.labels.prepared is not None
        for name, tensor in one.labels.prepared.tensors.items():
            assert torch.equal(tensor, other.labels.prepared.tensors[name])
    helped.close()


@pytest.fixture
def coincident(tmp_path: Path, mixed: Store) -> Store:
    broken = replace(mixed[0], positions=np.zeros_like(mixed[0].positions), name="broken")
    write_store(tmp_path / "set.h5", [mixed[1], broken], level_of_theory="none")
    return Store.open(tmp_path / "set.h5")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_coincident_atoms_are_told_in_one_line(coincident: Store, workers: int) -> None:
    loader = Loader(coincident, [0, 1], 4.0, 2, torch.float64, workers=workers)
    with pytest.raises(DataError, match=r"^broken: atoms 0 and 1 lie at the same place, 0\.0e\+00 Å apart"):
        loader.batch(0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_worker_that_dies_is_told(mixed: Store) -> None:
    loader = Loader(mixed, range(len(mixed)), 4.0, 5, torch.float64, workers=1)
    loader.batch(0)
    assert loader._ahead is not None
    os.kill(loader._ahead[1]._workers[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]

    def go_on() -> None:
        for step in range(1, 50):
            loader.batch(step)

    with pytest.raises(DataError, match=r"a process that makes batches died.*fewer workers"):
        go_on()


@pytest.fixture(scope="module")
def potential() -> Potential:
    torch.manual_seed(0)
    return create("ani", hidden=(8, 8)).double()


@pytest.fixture(scope="module")
def batch(potential: Potential) -> Batch:
    store = Store.open("rtp-mini")
    return Loader(
        store, np.arange(8), potential.cutoff, 8, torch.float64, seed=1, triplet_cutoff=potential.triplet_cutoff
    ).batch(0)


def agree(potential: Potential, batch: Batch) -> None:
    vectors = torch.ones(2, *batch.positions.shape, dtype=torch.float64).cumsum(1)
    got, expected = (potential(b, vectors=vectors) for b in (batch, batch.replace(triplets=None)))
    for name in ("energy", "forces", "products"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=1e-10, atol=1e-10)


def test_triplets_are_found(potential: Potential, batch: Batch) -> None:
    assert batch.triplets is not None
    agree(potential, batch)


def test_triplets_follow_a_batch_that_is_cut_repeated_or_moved(potential: Potential, batch: Batch) -> None:
    chosen = torch.tensor([True, False, True, True, False, False, True, False])
    for changed in (batch.select(chosen), batch.repeat(2), batch.to("cpu"), batch.select(~chosen).repeat(3)):
        assert changed.triplets is not None
        agree(potential, changed)


def test_nobody_asks_for_triplets(potential: Potential) -> None:
    store = Store.open("rtp-mini")
    assert Loader(store, np.arange(3), potential.cutoff, 3, torch.float64).batch(0).triplets is None


@pytest.mark.parametrize("number", [2, 3, 9])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_rank_finds_the_edges_of_its_share_only(mixed: Store, number: int, workers: int) -> None:
    """Everything else is that of the joint batch; nine ranks are more than there are structures."""
    settings = (mixed, range(len(mixed)), 4.0, 6, torch.float32, "cpu", TRIPLET_CUTOFF)
    whole = Loader(*settings, seed=0).batch(1)
    assert whole.labels is not None
    for rank in range(number) if not workers else [1]:
        loader = Loader(*settings, seed=0, share=(rank, number), workers=workers)
        batch = loader.batch(1)
        loader.close()
        own = Ranks(rank, number).share(batch)
        assert own is not None
        assert_same(batch.select(own), whole.select(own))
        assert_same(
            batch.replace(edge_index=whole.edge_index, edge_shift=whole.edge_shift, pairs=None, triplets=None),
            whole.replace(pairs=None, triplets=None),
        )
        assert not len(batch.select(~own).edge_shift)
