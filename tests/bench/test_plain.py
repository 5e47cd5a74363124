import pytest
import torch
from ase.build import molecule
from hessgnn_bench.plain import Undeclared, left_to_autograd

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import create
from hessgnn.potentials.blocks.layers import Activation


def build(name):
    torch.manual_seed(0)
    potential = create(name).double()
    potential.set_scaling({1: -1.0, 6: -2.0, 7: -3.0, 8: -4.0}, 1.7)
    return potential


def nodes(output):
    """Names of all nodes of a graph."""
    found, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {type(node).__name__ for node in found}


@pytest.mark.parametrize("name", ["ani", "schnet", "nequip"])
def test_it_is_the_same_potential_without_our_derivatives(name):
    potential, plain = build(name), left_to_autograd(build(name))
    batch = Batch.from_atoms([molecule("H2O"), molecule("CH3NO2")], potential.cutoff)
    vectors = torch.randn(2, *batch.positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = potential(batch, vectors=vectors), plain(batch, vectors=vectors)
    for key in ("energy", "forces", "products"):
        torch.testing.assert_close(getattr(theirs, key), getattr(ours, key), rtol=1e-10, atol=1e-10)
    assert plain.n_parameters() == potential.n_parameters()
    assert not [module for module in plain.modules() if isinstance(module, Activation)]
    leaf = batch.positions.clone().requires_grad_(True)
    known = batch.replace(positions=leaf, derivatives=2)
    assert any(node.startswith("_") for node in nodes(potential.total_energy(known)))  # else this tests nothing
    assert not any(node.startswith("_") for node in nodes(plain.total_energy(known)))  # nodes written in Python


def test_weights_and_scaling_are_shared():
    potential = build("schnet")
    told_nothing = Undeclared(potential)
    assert told_nothing.scale is potential.scale
    told_nothing.set_scaling({1: 0.0, 6: 0.0, 7: 0.0, 8: 5.0}, 2.0)
    batch = Batch.from_atoms([molecule("H2O")], potential.cutoff)
    torch.testing.assert_close(told_nothing.energy(batch), potential.energy(batch), rtol=1e-14, atol=0)
    moved = told_nothing.float()
    assert moved.potential.scale.dtype == torch.float32
    assert moved.reference_energies.dtype == torch.float64
