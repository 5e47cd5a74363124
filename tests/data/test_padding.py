from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

import hessgnn
from hessgnn.data.batch import Batch
from hessgnn.data.neighbors import pairs_of_edges
from hessgnn.data.padding import Buckets, Size, pad_to
from hessgnn.potentials.base import architectures


def make_batch() -> Batch:
    diamond = bulk("C")
    diamond.rattle(0.05, seed=0)
    return Batch.from_atoms([molecule("CH3OH"), diamond, molecule("HCN")], 5.2)


@pytest.mark.parametrize("name", architectures())
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


def test_triplets_and_elements_are_filled_up_without_a_change() -> None:
    torch.manual_seed(0)
    potential, batch = hessgnn.create("ani", cutoff=5.2).double(), make_batch()
    near = (batch.edge_vectors().norm(dim=-1) < 3.5).nonzero().squeeze(-1)
    batch = batch.replace(triplets=near[pairs_of_edges(batch.edge_index[0][near], len(batch.numbers))])
    own = Size.of(batch, by_element=True)
    assert own.elements == ((1, 5), (6, 4), (7, 1), (8, 1))
    elements = ((1, 8), (6, 4), (7, 2), (8, 3))
    size = Size(own.n_structures + 2, 17, own.n_edges + 6, own.n_triplets + 50, elements)
    padded = pad_to(batch, size, potential.cutoff)
    assert Size.of(padded, by_element=True) == size
    assert padded.element_counts == dict(elements)
    assert padded.triplets is not None
    i, _ = padded.edge_index
    assert torch.equal(i[padded.triplets[0]], i[padded.triplets[1]])
    assert (padded.triplets[0] != padded.triplets[1]).all()
    vectors = torch.randn(2, own.n_atoms, 3, dtype=torch.float64)
    plain = potential(batch, vectors=vectors)
    wide = potential(padded, vectors=torch.cat([vectors, vectors.new_ones(2, 6, 3)], 1))
    torch.testing.assert_close(wide.energy[: own.n_structures], plain.energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(wide.forces[: own.n_atoms], plain.forces, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(wide.products[:, : own.n_atoms], plain.products, rtol=1e-12, atol=1e-12)
    assert wide.forces[own.n_atoms :].abs().max() < 1e-15
    for wrong in (
        Size(own.n_structures + 2, 17, own.n_edges, own.n_triplets + 50, elements),  # no edges to make triplets of
        Size(own.n_structures + 2, 17, own.n_edges + 6, own.n_triplets - 1, elements),
        Size(own.n_structures + 2, 17, own.n_edges + 6, own.n_triplets, ((1, 4), *elements[1:])),
    ):
        with pytest.raises(ValueError, match="cannot be filled up"):
            pad_to(batch, wrong, potential.cutoff)


def test_an_element_that_is_absent_stays_absent() -> None:
    elements: dict[int, list[int]] = {1: [4, 2, 4], 6: [1, 0, 1], 8: [0, 1, 0]}
    buckets = Buckets.of([5, 3, 5], [20, 6, 20], 2, [10, 3, 10], elements)
    assert [z for z, _ in buckets.size.elements] == [1, 6, 8]
    size = Size(2, 10, 40, 20, ((1, 8), (6, 2)))
    rung = buckets.for_size(size)
    assert rung.holds(size)
    assert [z for z, _ in rung.elements] == [1, 6]
    assert rung.n_atoms == sum(n for _, n in rung.elements)
    assert buckets.for_size(Size(2, 2, 0, 0, ((1, 2),))).n_triplets == 0


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
