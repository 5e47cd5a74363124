import logging

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import graphene, molecule

from hessgnn.curvature.graph import ForceGraph
from hessgnn.curvature.hessian import hessians, padded_hessians, sparse_hessians
from hessgnn.curvature.products import Chunks
from hessgnn.curvature.sparse import SMALLEST, interacting_atoms
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError
from hessgnn.potentials.base import create

SETTINGS = {
    "ani": {"hidden": (8, 8), "cutoff": 2.6, "angular_cutoff": 2.0, "angular_shifts": 2, "angular_sections": 2},
    "schnet": {"width": 8, "n_interactions": 2, "n_basis": 8, "cutoff": 2.0},
    "nequip": {"channels": 2, "l_max": 1, "radial_width": 4, "n_layers": 2, "cutoff": 2.0},
}


def make(name, dtype=torch.float64, **settings):
    torch.manual_seed(0)
    potential = create(name, **SETTINGS[name] | settings).to(dtype)
    if name in ("ani", "schnet"):
        potential.closed_form = False  # ANI's formulas need no products, SchNet's no graph
    return potential


def chain(n=34, pbc=False):
    """Polyyne, disturbed; periodic along x on demand."""
    atoms = Atoms(f"C{n}", [[1.3 * k, 0, 0] for k in range(n)], cell=[1.3 * n, 9, 9], pbc=[pbc, False, False])
    atoms.rattle(0.1, seed=0)
    return atoms


def sheet(n=6):
    atoms = graphene(size=(n, n, 1))
    atoms.center(vacuum=5, axis=2)
    atoms.pbc = [True, True, False]
    atoms.rattle(0.1, seed=0)
    return atoms


def wire():
    """One atom in each cell along x, seeing its own images, and far away a molecule."""
    atoms = Atoms("C", cell=[1.4, 30, 30], pbc=[True, False, False]) + molecule("CH3OH")
    atoms.positions[1:] += [0, 9, 0]
    return atoms


def row_by_row(potential, batch):
    """Plain autograd of the whole batch, one row for each coordinate."""
    positions = batch.positions.detach().requires_grad_(True)
    energy = potential.total_energy(batch.replace(positions=positions))
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    rows = torch.eye(gradient.numel(), dtype=gradient.dtype).view(-1, *gradient.shape)
    whole = torch.autograd.grad(gradient, positions, rows, is_grads_batched=True)[0].flatten(1)
    starts, sizes = (3 * batch.first_atom).tolist(), (3 * batch.n_atoms).tolist()
    return [whole[a : a + n, a : a + n] for a, n in zip(starts, sizes, strict=True)]


def number_of_products(monkeypatch):
    counted = []
    original = ForceGraph.products
    monkeypatch.setattr(
        ForceGraph, "products", lambda self, v, **options: counted.append(len(v)) or original(self, v, **options)
    )
    return counted


STRUCTURES = {
    "chain": [chain()],
    "ring": [chain(pbc=True)],
    "sheet": [sheet()],
    "batch": [chain(36), wire(), Atoms("O"), molecule("CH3OH"), chain(32, pbc=True)],
    "fragments": [chain(33) + Atoms("OH", [[0, 30, 0], [0, 31, 0]]) + Atoms("N", [[0, -30, 0]])],
}


@pytest.mark.parametrize("structures", STRUCTURES)
@pytest.mark.parametrize("name", SETTINGS)
def test_compressed_hessians_are_those_of_plain_autograd(name, structures, monkeypatch):
    potential = make(name)
    batch = Batch.from_atoms(STRUCTURES[structures], potential.cutoff)
    expected = row_by_row(potential, batch)
    counted = number_of_products(monkeypatch)
    dense, sparse = hessians(potential, batch), sparse_hessians(potential, batch)
    assert sum(counted) / 2 < 0.8 * 3 * batch.max_atoms, "nothing was compressed"
    scale = max(float(h.abs().max()) for h in expected)
    for one, other, h in zip(dense, sparse, expected, strict=True):
        torch.testing.assert_close(one, h, rtol=0, atol=1e-12 * scale)
        assert other.shape == h.shape
        assert other.dtype == np.float64
        np.testing.assert_array_equal(other.toarray(), one.numpy())


@pytest.mark.parametrize("name", ["ani", "schnet"])
def test_against_finite_differences_of_the_forces(name):
    potential = make(name)
    batch = Batch.from_atoms([chain(SMALLEST)], potential.cutoff)
    got, step = sparse_hessians(potential, batch)[0].toarray(), 1e-3
    for column in (0, 40, 95):
        unit = torch.zeros(96, dtype=torch.float64)
        unit[column] = step
        a, b, c, d = (
            potential.forces(batch.replace(positions=batch.positions + k * unit.view(-1, 3))).flatten()
            for k in (-2, -1, 1, 2)
        )
        expected = -(8 * (c - b) - (d - a)) / (12 * step)
        np.testing.assert_allclose(got[:, column], expected, rtol=0, atol=1e-6 * np.abs(got).max())


@pytest.mark.parametrize("name", SETTINGS)
def test_the_number_of_products_does_not_grow_with_the_structure(name, monkeypatch):
    potential, counted, numbers = make(name), number_of_products(monkeypatch), []
    for size in (40, 80):
        counted.clear()
        sparse_hessians(potential, Batch.from_atoms([chain(size)], potential.cutoff))
        numbers.append(sum(counted))
    assert len(set(numbers)) == 1
    assert numbers[0] < 50


@pytest.mark.parametrize(("backend", "chunk"), [("loop", None), ("replicate", None), ("replicate", 4), ("auto", 4)])
@pytest.mark.parametrize("name", ["ani", "schnet"])
def test_chunks_and_backends_agree(name, chunk, backend):
    potential = make(name)
    batch = Batch.from_atoms([chain(32), wire()], potential.cutoff)
    expected = padded_hessians(potential, batch)
    got = padded_hessians(potential, batch, chunk=chunk, backend=backend)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", SETTINGS)
def test_float32_is_as_exact_as_row_by_row(name):
    structures = STRUCTURES["batch"]
    exact = hessians(make(name), Batch.from_atoms(structures, SETTINGS[name]["cutoff"]))
    potential = make(name, torch.float32)
    batch = Batch.from_atoms(structures, potential.cutoff, torch.float32)
    rough, plain = hessians(potential, batch), row_by_row(potential, batch)
    assert rough[0].dtype == torch.float32
    assert sparse_hessians(potential, batch)[0].dtype == np.float32

    def error(found):
        return max(float((h.double() - e).abs().max()) for h, e in zip(found, exact, strict=True))

    assert error(rough) < 3 * error(plain)


def test_what_is_small_dense_or_of_unknown_range_is_formed_row_by_row(monkeypatch, caplog):
    counted = number_of_products(monkeypatch)
    caplog.set_level(logging.INFO)
    potential = make("schnet")
    ring = molecule("C6H6")
    apart = Atoms("O40", np.arange(40)[:, None] * [50.0, 0, 0])
    for structures, n_hops in (([ring], 2), ([chain()], None), ([chain()], 20), ([apart], 2)):
        counted.clear()
        potential.n_hops = n_hops
        batch = Batch.from_atoms(structures, potential.cutoff)
        expected = row_by_row(potential, batch) if batch.edge_index.shape[1] else [torch.zeros(120, 120).double()]
        found = sparse_hessians(potential, batch)
        assert sum(counted) == 3 * batch.max_atoms
        np.testing.assert_allclose(found[0].toarray(), expected[0], rtol=0, atol=1e-12)
    assert caplog.messages == [
        "SchNet, 1 structure(s) of up to 34 atoms: Hessians from 102 products, compressing them would leave 102"
    ]


def test_the_choice_is_logged(caplog):
    caplog.set_level(logging.INFO)
    potential = make("schnet")
    potential.hessian(Batch.from_atoms([chain()], potential.cutoff))
    assert caplog.messages == ["SchNet, 1 structure(s) of up to 34 atoms: Hessians from 15 products instead of 102"]


@pytest.mark.parametrize("name", ["schnet", "nequip"])
def test_a_range_that_is_declared_too_short_is_found_out(name):
    potential = make(name)
    potential.n_hops = 1
    batch = Batch.from_atoms([chain()], potential.cutoff)
    with pytest.raises(UserError, match=r"says that its range is 1 edge.*Hint: correct n_hops"):
        potential.hessian(batch)


@pytest.mark.parametrize("n_edges", [0, 1, 2, 5])
def test_atoms_that_interact_are_those_within_so_many_edges(n_edges):
    batch = Batch.from_atoms([chain(20), chain(12, pbc=True), Atoms("O")], 1.8)
    found = interacting_atoms(batch, n_edges).toarray()
    i = np.arange(20)
    assert (found[:20, :20] == (np.abs(i[:, None] - i) <= n_edges)).all()
    i = np.arange(12)
    around = np.abs(i[:, None] - i)
    assert (found[20:32, 20:32] == (np.minimum(around, 12 - around) <= n_edges)).all()
    assert not found[:20, 20:].any()
    assert found[32, 32]


def test_copies_wait_for_no_pass_that_nobody_uses(monkeypatch):
    potential = make("schnet")
    batch = Batch.from_atoms([molecule("H2O")], potential.cutoff)
    seen = []
    original = type(potential).atomic_energies
    monkeypatch.setattr(
        type(potential), "atomic_energies", lambda self, b: seen.append(b.n_structures) or original(self, b)
    )
    rows = torch.eye(9, dtype=torch.float64).view(9, 3, 3)

    def copies(chunks):
        seen.clear()
        parts = [p for _, p in chunks.products(potential, batch, 9, lambda k: rows[k])]
        assert sum(map(len, parts)) == 9
        return list(seen)

    assert copies(Chunks(size=4, backend="replicate")) == [4, 4, 1]
    assert copies(Chunks(backend="replicate")) == [1, 8]  # the pass that is measured serves the first
    assert copies(Chunks(size=4, backend="loop")) == [1]
