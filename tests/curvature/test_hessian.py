import pytest
import torch
from ase import Atoms
from ase.build import molecule

from hessgnn.curvature.graph import ForceGraph
from hessgnn.curvature.hessian import hessians, padded_hessians
from hessgnn.data.batch import Batch
from hessgnn.potentials.base import create


@pytest.fixture(scope="module")
def potential():
    """Left to autograd, as most are."""
    torch.manual_seed(0)
    potential = create("schnet", width=8, n_interactions=2).double()
    potential.closed_form = False
    return potential


@pytest.fixture(scope="module")
def batch():
    return Batch.from_atoms([molecule("H2O"), Atoms("O"), molecule("CH3OH")], 5.0)


@pytest.mark.parametrize("backend", ["loop", "vmap", "replicate", "auto"])
@pytest.mark.parametrize("chunk", [1, 4, 18, 100])
def test_chunks_and_backends_agree(potential, batch, chunk, backend):
    expected = padded_hessians(potential, batch)
    got = padded_hessians(potential, batch, chunk=chunk, backend=backend)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-13)


def test_it_is_the_second_derivative_of_the_energy(potential):
    atoms = molecule("H2O")
    batch = Batch.from_atoms([atoms], 5.0)
    expected = torch.autograd.functional.hessian(
        lambda flat: potential.total_energy(batch.replace(positions=flat.view(3, 3))).sum(), batch.positions.flatten()
    )
    torch.testing.assert_close(hessians(potential, batch)[0], expected, rtol=1e-10, atol=1e-13)


def test_shapes_and_padding(potential, batch):
    padded = padded_hessians(potential, batch)
    assert padded.shape == (3, 18, 18)
    assert not padded[0, 9:].any()
    assert not padded[0, :, 9:].any()
    assert not padded[1].any()
    assert [tuple(h.shape) for h in hessians(potential, batch)] == [(9, 9), (3, 3), (18, 18)]
    assert bool(hessians(potential, batch)[2].any())


def test_it_holds_no_graph(potential, batch):
    assert not any(h.requires_grad for h in potential.hessian(batch))


def test_float32_agrees_with_float64(potential):
    atoms = [molecule("CH3OH")]
    exact = potential.hessian(Batch.from_atoms(atoms, 5.0))[0]
    single = create("schnet", width=8, n_interactions=2)
    single.load_state_dict(potential.state_dict())
    rough = single.hessian(Batch.from_atoms(atoms, 5.0, torch.float32))[0]
    assert rough.dtype == torch.float32
    deviation = float((rough.double() - exact).abs().max() / exact.abs().max())
    assert 0 < deviation < 1e-4


def test_the_chunk_follows_from_the_memory_that_may_be_used(potential, batch, monkeypatch):
    seen = []
    original = ForceGraph.products

    def products(self, vectors, **options):
        seen.append(len(vectors))
        return original(self, vectors, **options)

    monkeypatch.setattr(ForceGraph, "products", products)
    expected = padded_hessians(potential, batch)
    assert seen == [18]
    torch.testing.assert_close(padded_hessians(potential, batch, memory=1), expected, rtol=1e-10, atol=1e-13)
    assert seen[1:] == [1] * 18


def test_the_force_pass_is_run_once_for_all_chunks(potential, batch, monkeypatch):
    calls = []
    original = type(potential).atomic_energies
    monkeypatch.setattr(type(potential), "atomic_energies", lambda self, b: calls.append(1) or original(self, b))
    padded_hessians(potential, batch, chunk=2)
    assert len(calls) == 1


def test_formulas_give_the_same_in_chunks_that_follow_from_the_memory(potential, batch, monkeypatch):
    expected = padded_hessians(potential, batch)
    monkeypatch.setattr(potential, "closed_form", True)
    seen = []
    original = potential.derivatives
    monkeypatch.setattr(potential, "derivatives", lambda b, v: seen.append(len(v)) or original(b, v))
    for options, sizes in (({}, [8, 8, 2]), ({"memory": 1}, [1] * 18), ({"chunk": 7}, [7, 7, 4])):
        seen.clear()
        found = padded_hessians(potential, batch, **options)
        assert seen == sizes
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
