import e3nn
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from e3nn_nequip import reference_with_weights_of

from hessgnn.curvature.hessian import hessians
from hessgnn.data.batch import Batch
from hessgnn.potentials.base import create
from hessgnn.potentials.nequip import edges
from hessgnn.potentials.nequip.model import NequIP
from hessgnn.testing import ITEMS, Subject, try_item

DEMANDING = [i for i in ITEMS if i.name in {"rotation", "reflection", "axes", "parameter_gradient", "vectorised"}]


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("l_max", [0, 1, 2])
def test_every_degree_keeps_the_contract(l_max, parity):
    subject = Subject(lambda: create("nequip", l_max=l_max, parity=parity, channels=3, radial_width=6))
    assert not [outcome for outcome in (try_item(item, subject) for item in DEMANDING) if not outcome.passed]


def make(**settings) -> NequIP:
    torch.manual_seed(0)
    return create("nequip", channels=3, radial_width=6, **settings).double()


def test_parity_keeps_pseudo_tensors():
    def hidden(parity):
        return make(l_max=2, parity=parity, n_layers=4).layers[1].gate.irreps

    assert any(ir.p != (-1) ** ir.l for ir in hidden(True))
    assert all(ir.p == (-1) ** ir.l for ir in hidden(False))


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize(("l_max", "n_layers"), [(0, 2), (1, 2), (1, 4), (2, 3), (3, 2)])
def test_energy_forces_and_hessian_are_those_of_a_plain_build_with_e3nn(l_max, n_layers, parity):
    ours = make(l_max=l_max, n_layers=n_layers, parity=parity, elements=[1, 6, 8])
    theirs = reference_with_weights_of(ours)
    batch = Batch.from_atoms([molecule("CH3OH"), molecule("H2O")], ours.cutoff)
    vectors = torch.randn(2, *batch.positions.shape, dtype=torch.float64)
    out = ours(batch, vectors=vectors)

    positions = batch.positions.clone().requires_grad_(True)
    atomic = theirs.atomic_energies(ours, batch.replace(positions=positions))
    energy = batch.sum_per_structure(atomic)
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    products = [torch.autograd.grad(gradient, positions, v, retain_graph=True)[0] for v in vectors]
    expected = [energy, -gradient, torch.stack(products)]
    for got, wanted in zip([out.energy, out.forces, out.products], expected, strict=True):
        torch.testing.assert_close(got, wanted.detach(), rtol=1e-10, atol=1e-10 * float(wanted.detach().abs().max()))


def test_only_irreps_that_the_energy_can_use_are_computed():
    layers = make(l_max=2, n_layers=3).layers
    assert [[str(ir) for ir in layer.gate.irreps] for layer in layers] == [["0e", "1o", "2e"]] * 2 + [["0e"]]


def test_l_max_0_cannot_tell_angles_and_l_max_1_can():
    # One layer: an atom sees its neighbours' distances only, unless vectors are combined in a second one.
    def energies(l_max):
        potential = make(l_max=l_max, n_layers=2, cutoff=2.0)
        corner = torch.tensor([[0.0, 0, 0], [1.2, 0, 0], [0, 1.2, 0]], dtype=torch.float64)
        line = torch.tensor([[0.0, 0, 0], [1.2, 0, 0], [-1.2, 0, 0]], dtype=torch.float64)
        batch = Batch.from_atoms([molecule("H2O")] * 2, 2.0)
        edges = torch.tensor([[0, 0, 1, 2, 3, 3, 4, 5], [1, 2, 0, 0, 4, 5, 3, 3]])
        batch = batch.replace(
            positions=torch.cat([corner, line]), edge_index=edges, edge_shift=torch.zeros(8, 3).double()
        )
        return potential.energy(batch)

    without, with_vectors = energies(0), energies(1)
    assert float((without[0] - without[1]).abs()) < 1e-12
    assert float((with_vectors[0] - with_vectors[1]).abs()) > 1e-6


@pytest.mark.parametrize("kept", [0, edges.KEPT])
@pytest.mark.parametrize("structures", [[Atoms("O")], [Atoms("CO", [[0, 0, 0], [0, 0, 1.1]])], [molecule("CH3OH")]])
def test_portions_do_not_matter(structures, kept, monkeypatch):
    def gradient(closed_form):
        potential = make(l_max=2, n_layers=3)
        potential.closed_form = closed_form
        batch = Batch.from_atoms(structures, potential.cutoff)
        v = torch.randn(2, *batch.positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        out = potential(batch, vectors=v, create_graph=True)
        loss = out.energy.square().sum() + out.forces.square().sum() + out.products.square().sum()
        found = torch.autograd.grad(loss, list(potential.parameters()), allow_unused=True)
        zero = [torch.zeros_like(p) if g is None else g for p, g in zip(potential.parameters(), found, strict=True)]
        return torch.cat([g.flatten() for g in [out.energy, out.forces, out.products, *zero]])

    monkeypatch.setattr(edges, "CACHED", 1)
    monkeypatch.setattr(edges, "SMALLEST", 4)
    monkeypatch.setattr(edges, "KEPT", kept)
    ours, theirs = gradient(True), gradient(False)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11 * float(theirs.detach().abs().max()))


def test_hessians_by_chunks_are_those_of_autograd():
    potential = make(l_max=2)
    batch = Batch.from_atoms([molecule("CH3OH"), molecule("H2O")], potential.cutoff)
    ours = hessians(potential, batch, chunk=5)
    potential.closed_form = False
    for got, wanted in zip(ours, hessians(potential, batch), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10 * float(wanted.abs().max()))


def test_building_leaves_the_settings_of_e3nn_alone():
    before = dict(e3nn.get_optimization_defaults())
    make()
    assert dict(e3nn.get_optimization_defaults()) == before


def test_nothing_is_compiled():
    # TorchScript returned the first vector's result for all when vectorised.
    potential = make(l_max=2)
    assert not [m for m in potential.modules() if isinstance(m, torch.jit.ScriptModule)]
    assert not isinstance(potential.harmonics.sph_func, torch.jit.ScriptFunction)
