"""Hessians put together from those of single atoms are those of autograd."""

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from hessgnn.curvature.hessian import hessians, padded_hessians, sparse_hessians
from hessgnn.data.batch import Batch
from hessgnn.potentials.base import create

SETTINGS = [
    {},
    {"bias": False, "hidden": (5,)},
    {"cutoff": 8.0, "angular_cutoff": 6.0},
    {"cutoff_function": "cosine", "elements": (1, 6, 7, 8, 9)},
]


def make(**settings):
    torch.manual_seed(0)
    potential = create("ani", **{"hidden": (8, 7, 9), **settings}).double()
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        potential.scale.fill_(1.7)
    return potential


def structures():
    crystal = Atoms(
        "CO", [[0.1, 0.2, 0.3], [1.1, 0.6, 0.4]], cell=[[2.6, 0, 0], [0.4, 2.9, 0], [0, 0.3, 3.1]], pbc=True
    )
    far = Atoms("NN", [[0, 0, 0], [0, 0, 4.5]])  # beyond the angular part's cutoff
    lone = Atoms("O")
    return [molecule("CH3NO2"), lone, crystal, far, molecule("CO2"), molecule("H2O")]


def reference(potential, batch):
    potential.closed_form = False
    try:
        return padded_hessians(potential, batch, backend="loop")
    finally:
        potential.closed_form = True


@pytest.mark.parametrize("settings", SETTINGS)
def test_they_are_those_of_autograd(settings):
    potential = make(**settings)
    batch = Batch.from_atoms(structures(), potential.cutoff)
    expected = reference(potential, batch)
    got = padded_hessians(potential, batch)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("memory", [1, 2**30])
def test_sparse_ones_are_the_same(memory):
    potential = make()
    batch = Batch.from_atoms(structures(), potential.cutoff)
    expected = hessians(potential, batch)
    got = sparse_hessians(potential, batch, memory=memory)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(one.toarray()), other, rtol=1e-11, atol=1e-12)
    far = Atoms("C40", [[1.3 * k, 0, 0] for k in range(40)])
    (chain,) = sparse_hessians(potential, Batch.from_atoms([far], potential.cutoff))
    assert chain.nnz < 0.6 * chain.shape[0] ** 2


def test_one_atom_at_a_time_if_memory_allows_no_more(monkeypatch):
    potential = make()
    batch = Batch.from_atoms(structures(), potential.cutoff)
    seen = []
    original = potential.edge_hessians
    monkeypatch.setattr(potential, "edge_hessians", lambda b, atoms: seen.append(len(atoms)) or original(b, atoms))
    expected = padded_hessians(potential, batch)
    assert seen == [len(batch.numbers)]
    torch.testing.assert_close(padded_hessians(potential, batch, memory=1), expected, rtol=1e-11, atol=1e-12)
    assert seen[1:] == [1] * len(batch.numbers)


@pytest.mark.parametrize("atoms", [[Atoms("O")], [Atoms("H"), Atoms("HH", [[0, 0, 0], [0, 0, 9]])]])
def test_nobody_has_a_neighbour(atoms):
    potential = make()
    got = padded_hessians(potential, Batch.from_atoms(atoms, potential.cutoff))
    assert got.shape[0] == len(atoms)
    assert not got.any()


def test_the_order_of_edges_does_not_matter():
    potential = make()
    batch = Batch.from_atoms(structures(), potential.cutoff)
    order = torch.randperm(batch.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = batch.replace(edge_index=batch.edge_index[:, order], edge_shift=batch.edge_shift[order])
    torch.testing.assert_close(padded_hessians(potential, shuffled), padded_hessians(potential, batch))


def test_float32():
    potential = make()
    exact = padded_hessians(potential, Batch.from_atoms(structures(), potential.cutoff))
    rough = padded_hessians(potential.float(), Batch.from_atoms(structures(), potential.cutoff, torch.float32))
    assert rough.dtype == torch.float32
    assert float((rough.double() - exact).abs().max() / exact.abs().max()) < 1e-5
