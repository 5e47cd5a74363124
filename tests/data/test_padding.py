from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

import hessgnn
from hessgnn.data.batch import Batch
from hessgnn.data.padding import Buckets, Size, pad_to
from hessgnn.potentials.base import POTENTIALS


def make_batch() -> Batch:
    diamond = bulk("C")
    diamond.rattle(0.05, seed=0)
    return Batch.from_atoms([molecule("CH3OH"), diamond, molecule("HCN")], 5.2)


@pytest.mark.parametrize("name", POTENTIALS.names())
def test_fillers_change_neither_energies_nor_derivatives(name: str) -> None:
    torch.manual_seed(0)
    potential, batch = hessgnn.create(name, cutoff=5.2).double(), make_batch()
    own = Size.of(batch)
    padded = pad_to(batch, Size(own.n_structures + 3, own.n_atoms + 5, own.n_edges + 62), potential.cutoff)
    vectors = torch.randn(2, own.n_atoms, 3, dtype=torch.float64)
    filled = torch.cat([vectors, vectors.new_ones(2, 5, 3)], 1)
    plain, wide = potential(batch, vectors=vectors), potential(padded, vectors=filled)
    torch.testing.assert_close(wide.energy[: own.n_structures], plain.energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(wide.forces[: own.n_atoms], plain.forces, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(wide.products[:, : own.n_atoms], plain.products, rtol=1e-12, atol=1e-12)
    assert torch.isfinite(wide.energy).all()
    assert wide.forces[own.n_atoms :].abs().max() < 1e-15  # periodic images move with their atom


def test_fillers_are_structures_like_any_other() -> None:
    batch = make_batch()
    size = Size(6, len(batch.numbers) + 4, batch.edge_index.shape[1] + 40)
    padded = pad_to(batch, size, 5.2)
    assert Size.of(padded) == size
    assert padded.n_atoms.tolist()[3:] == [1, 1, 2]
    assert padded.batch.tolist() == torch.repeat_interleave(padded.n_atoms).tolist()
    assert padded.index is not None
    assert padded.index[3:].tolist() == [-1, -1, -1]
    edges = slice(batch.edge_index.shape[1], None)
    vectors, centres = padded.edge_vectors()[edges], padded.edge_index[0, edges]
    assert torch.equal(padded.batch[padded.edge_index[0]], padded.batch[padded.edge_index[1]])
    assert (vectors.norm(dim=1) < 5.2).all()
    there, back = vectors.chunk(2)
    assert torch.equal(there, -back)
    for atom in centres.unique():  # no neighbour of an atom sits on another one
        own = vectors[centres == atom]
        assert torch.pdist(own).min() > 0.1


def test_a_size_that_does_not_hold_the_batch_is_refused() -> None:
    batch = make_batch()
    own = Size.of(batch)
    for size in (
        Size(own.n_structures, own.n_atoms + 1, own.n_edges),
        Size(own.n_structures + 2, own.n_atoms + 1, own.n_edges),
        Size(own.n_structures + 1, own.n_atoms + 1, own.n_edges - 2),
        Size(own.n_structures + 1, own.n_atoms + 1, own.n_edges + 1),
    ):
        with pytest.raises(ValueError, match="cannot be filled up"):
            pad_to(batch, size, 5.2)


def test_the_batches_of_a_run_share_a_few_sizes_little_larger_than_they_are() -> None:
    rng = np.random.default_rng(0)
    n_atoms = rng.integers(3, 22, size=500)
    n_edges = 2 * (n_atoms * rng.uniform(3, 6, size=500)).astype(int)
    buckets = Buckets.of(n_atoms, n_edges, 16)
    rungs, filled = set(), []
    for _ in range(300):
        chosen = rng.choice(500, size=rng.integers(15, 17), replace=False)
        size = Size(len(chosen), n_atoms[chosen].sum(), n_edges[chosen].sum())
        rung = buckets.for_size(size)
        assert rung.holds(size)
        assert rung.n_edges % 2 == 0
        rungs.add(rung)
        filled.append(rung.n_edges / size.n_edges)
    assert len(rungs) <= 3
    assert np.mean(filled) < 1.25
    # Parts of a batch get smaller rungs, and rare large batches a larger one.
    assert buckets.for_size(Size(3, 20, 100)).n_atoms < 60
    assert buckets.for_size(Size(16, 1000, 100)).n_atoms >= 1000


def test_structures_without_neighbours_have_a_bucket() -> None:
    assert Buckets.of([1, 1], [0, 0], 2).for_size(Size(2, 2, 0)).holds(Size(2, 2, 0))
