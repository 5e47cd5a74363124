import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError
from hessgnn.potentials.ani.model import ANI
from hessgnn.potentials.base import create


def make(**settings) -> ANI:
    torch.manual_seed(0)
    return create("ani", hidden=(8, 8), **settings).double()


def test_the_default_is_smooth_and_the_paper_owns_up():
    assert make().not_c2 is None
    paper = make(cutoff_function="cosine", activation="celu").not_c2
    assert "cosine" in paper
    assert "CELU" in paper
    assert "CELU" not in make(cutoff_function="cosine").not_c2


def test_the_angular_cutoff_lies_inside():
    with pytest.raises(ConfigError, match="angular_cutoff must be smaller"):
        make(cutoff=3.0)


def test_the_papers_initialisation_is_normal_with_variance_one_over_inputs_and_no_biases():
    torch.manual_seed(0)
    drawn = create("ani", hidden=(256, 64, 256), initialization="kaiming")
    weights, biases = drawn.layers()
    assert not any(bias.any() for layer in biases for bias in layer)
    assert any(bias.any() for layer in make().layers()[1] for bias in layer)
    for layer in weights:
        values = torch.cat([weight.detach().flatten() for weight in layer]) * layer[0].shape[1] ** 0.5
        assert float(values.std()) == pytest.approx(1.0, abs=0.05)
        assert abs(float(values.mean())) < 0.05
        assert float((values.abs() > 1.8).double().mean()) == pytest.approx(0.072, abs=0.02)  # uniform: none
    assert create("ani", hidden=(8,), bias=False, initialization="kaiming").layers()[1] == [[], []]


def test_second_derivatives_are_not_lost_to_the_extension():
    assert make().aev._strategy == "pyaev"


def test_environment_vectors_are_those_of_torchani_on_its_own_neighbours():
    from torchani.aev import AEVComputer, ANIAngular, ANIRadial  # late: hessgnn silences its remark on extensions

    potential = make(cutoff_function="cosine")
    atoms = molecule("CH3NO2")
    batch = Batch.from_atoms([atoms, molecule("CH3OH")], potential.cutoff)
    seen = []
    potential.networks.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    potential.energy(batch)
    theirs = AEVComputer(ANIRadial.like_1x(), ANIAngular.like_1x(), num_species=4, strategy="pyaev").double()
    species = torch.tensor([[{1: 0, 6: 1, 7: 2, 8: 3}[z] for z in atoms.numbers]])
    expected = theirs(species, torch.from_numpy(atoms.positions).unsqueeze(0))
    torch.testing.assert_close(seen[0][0, : len(atoms)], expected[0], rtol=1e-6, atol=1e-7)


def test_a_cell_smaller_than_the_cutoff():
    """Explicit images in a cluster: the central copy of each atom has the environment of the crystal."""
    potential = make(cutoff=4.0)
    crystal = Atoms(
        "CO", [[0.1, 0.2, 0.3], [1.1, 0.6, 0.4]], cell=[[2.6, 0, 0], [0.4, 2.9, 0], [0, 0.3, 3.1]], pbc=True
    )
    periodic = potential.atomic_energies(Batch.from_atoms([crystal], potential.cutoff))
    cluster = crystal.repeat((7, 7, 7))
    cluster.pbc = False
    cluster_energies = potential.atomic_energies(Batch.from_atoms([cluster], potential.cutoff))
    centre = 2 * (3 * 49 + 3 * 7 + 3)
    np.testing.assert_array_equal(cluster.numbers[centre : centre + 2], crystal.numbers)
    torch.testing.assert_close(cluster_energies[centre : centre + 2], periodic, rtol=1e-10, atol=1e-12)


def test_the_order_of_edges_does_not_matter():
    potential = make()
    batch = Batch.from_atoms([molecule("CH3OH")], potential.cutoff)
    order = torch.randperm(batch.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = batch.replace(edge_index=batch.edge_index[:, order], edge_shift=batch.edge_shift[order])
    torch.testing.assert_close(potential.energy(shuffled), potential.energy(batch), rtol=1e-12, atol=0)


@pytest.mark.parametrize("settings", [{}, {"cutoff_function": "cosine", "activation": "celu"}])
def test_energies_forces_and_hessians_are_those_of_torchani_with_the_same_weights(settings):
    from torchani.aev import AEVComputer, ANIAngular, ANIRadial
    from torchani.nn import ANINetworks

    potential = make(**settings)
    atoms = molecule("CH3NO2")
    act, cutoff = settings.get("activation", "gelu"), settings.get("cutoff_function", "smooth")
    networks = ANINetworks.build(("H", "C", "N", "O"), 384, {}, default_dims=(8, 8), activation=act, bias=True)
    networks.double().load_state_dict(potential.networks.state_dict())
    terms = ANIRadial.like_1x(cutoff_fn=cutoff), ANIAngular.like_1x(cutoff_fn=cutoff)
    computer = AEVComputer(*terms, num_species=4, strategy="pyaev").double()
    species = torch.tensor([[{1: 0, 6: 1, 7: 2, 8: 3}[z] for z in atoms.numbers]])

    def energy(positions):
        return networks(species, computer(species, positions.view(1, -1, 3))).sum()

    positions = torch.from_numpy(atoms.positions).flatten()
    batch = Batch.from_atoms([atoms], potential.cutoff)
    ours = potential(batch)
    torch.testing.assert_close(ours.energy[0], energy(positions).detach(), rtol=1e-6, atol=1e-7)
    gradient = torch.autograd.functional.jacobian(energy, positions)
    torch.testing.assert_close(ours.forces.flatten(), -gradient, rtol=1e-5, atol=1e-6)
    hessian = torch.autograd.functional.hessian(energy, positions)
    torch.testing.assert_close(potential.hessian(batch)[0], hessian, rtol=1e-5, atol=1e-5)


def test_a_parameter_that_was_changed_in_between_is_noticed():
    potential = make()
    out = potential(Batch.from_atoms([molecule("CH3OH")], potential.cutoff), create_graph=True)
    with torch.no_grad():
        next(potential.networks.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.forces.sum().backward()


def test_without_a_graph_nothing_is_kept():
    potential = make()
    batch = Batch.from_atoms([molecule("CH3OH")], potential.cutoff)
    out = potential(batch, vectors=torch.ones(2, *batch.positions.shape, dtype=torch.float64))
    assert not any(x.requires_grad for x in (out.energy, out.forces, out.products))


def test_frozen_parameters_stay_without_a_gradient():
    potential = make()
    frozen = potential.networks.atomics["C"].layers[0].weight.requires_grad_(False)
    out = potential(Batch.from_atoms([molecule("CH3OH")], potential.cutoff), create_graph=True)
    out.forces.square().sum().backward()
    assert frozen.grad is None
    assert potential.networks.atomics["C"].layers[1].weight.grad is not None
