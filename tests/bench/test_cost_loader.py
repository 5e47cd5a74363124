import os

import numpy as np
import pytest
import torch
from hessgnn_bench import loader
from hessgnn_bench.loader import CUTOFF, GEOMETRIC, OURS, OURS_DENSE, data_list, epochs, generate, require_same_content
from torch_geometric.data import Batch as GeometricBatch

from hessgnn.data.batch import Batch
from hessgnn.data.store.columns import SCRATCH
from hessgnn.data.store.store import Store
from hessgnn.errors import UserError


def test_both_hold_the_same():
    structures = list(generate(3))
    ours, theirs = (
        Batch.from_structures(structures, CUTOFF, torch.float32),
        GeometricBatch.from_data_list(data_list(structures)),
    )
    for mine, other in (
        (ours.numbers, theirs.z),
        (ours.positions, theirs.pos),
        (ours.batch, theirs.batch),
        (ours.edge_index, theirs.edge_index),
        (ours.edge_shift, theirs.edge_shift),
        (ours.labels.energy, theirs.energy),
        (ours.labels.forces, theirs.forces),
        (ours.labels.hessian.flatten(), theirs.hessian),
    ):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_generated_structures_are_molecules_and_the_same_each_time():
    one, again = list(generate(2))[1], list(generate(2))[1]
    assert (one.positions == again.positions).all()
    distances = torch.pdist(torch.from_numpy(one.positions))
    assert 0.5 < float(distances.min()) < 2.0


def test_an_epoch_holds_every_structure_once():
    work = {name: prepare() for name, prepare in epochs(7, 3).items()}
    require_same_content(work)
    assert work.keys() == {OURS, OURS_DENSE, GEOMETRIC}
    for epoch in work.values():
        assert epoch.totals()[:2] == (7, 105)
        epoch()
    work["other"] = {name: prepare() for name, prepare in epochs(6, 3).items()}[OURS]
    with pytest.raises(UserError, match="different content"):
        require_same_content(work)


def test_a_large_file_repeats_a_small_one(monkeypatch):
    monkeypatch.setattr(loader, "REAL", 3)
    file = loader._File(8)
    store = Store.open(file.path)
    store.verify()
    assert store.names == [str(k) for k in range(9)]
    for k in range(9):
        np.testing.assert_array_equal(store[k].positions, store[k % 3].positions)
        np.testing.assert_array_equal(store[k].hessian, store[k % 3].hessian)
    assert loader._named(8) == "8 structures, repeating 3"
    assert loader._named(3) == "3 structures"


@pytest.mark.parametrize("cold", [False, True])
def test_pieces_of_each_size_serve_as_many(cold, monkeypatch):
    read = []
    monkeypatch.setattr(loader, "_triangles", lambda batch: read.append(batch.n_structures))
    monkeypatch.setattr("hessgnn.data.store.columns.IN_MEMORY", 0)
    monkeypatch.setenv(SCRATCH, "/nowhere")
    for prepare in loader.scales({"small": 6, "large": 12}, 3, 6, cold=cold).values():
        work = prepare()
        read.clear()
        work()
        assert read == [3, 3]  # two batches; or one, after that which unpacks
    assert os.environ[SCRATCH] == "/nowhere"
