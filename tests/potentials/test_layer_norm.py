"""Gradients of a loss of Hessian products, where torch's own layer normalization gives wrong ones."""

from __future__ import annotations

import pytest
import torch
from ase.build import molecule
from torch import Tensor, nn

import hessgnn
from hessgnn.data.batch import Batch
from hessgnn.potentials.blocks.layers import LayerNorm, mend_layer_norms
from hessgnn.training.lora import LoraConfig, choose_trained, merged_state


def test_third_derivatives_are_those_of_differences() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 1)).double()
    x, v = torch.randn(2, 5, dtype=torch.float64)
    by_torch = layers[1](layers[0](x))
    mend_layer_norms(layers)
    assert type(layers[1]) is LayerNorm
    torch.testing.assert_close(layers[1](layers[0](x)), by_torch)

    def loss() -> Tensor:
        at = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(layers(at).sum(), at, create_graph=True)
        (product,) = torch.autograd.grad((gradient * v).sum(), at, create_graph=True)
        return product.square().sum()

    weight = layers[0].weight
    (gradient,) = torch.autograd.grad(loss(), weight)
    direction, values = torch.randn_like(weight), []
    for step in (1e-5, -2e-5):
        weight.data += step * direction
        values.append(float(loss().detach()))
    assert float((gradient * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "package"), [("so3lr", "so3krates_torch"), ("sevennet", "sevenn")])
def test_published_potentials_have_exact_gradients_and_low_rank_updates(name: str, package: str) -> None:
    pytest.importorskip(package)
    torch.manual_seed(0)
    potential = hessgnn.create(name).double()
    choose_trained(potential, (), LoraConfig(rank=2))
    trained = [p for p in potential.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data += 0.01 * torch.randn_like(parameter)
    batch = Batch.from_atoms([molecule("HCN"), molecule("H2O")], potential.cutoff)
    batch = batch.replace(positions=batch.positions.double())
    vectors = torch.randn(1, *batch.positions.shape, dtype=torch.float64)

    def loss() -> Tensor:
        out = potential(batch, vectors=vectors, create_graph=True)
        return out.forces.square().sum() + out.products.square().sum()

    gradients = torch.autograd.grad(loss(), trained)
    directions, values = [torch.randn_like(p) / 100 for p in trained], []
    for step in (1e-4, -2e-4, 1e-4):
        for parameter, direction in zip(trained, directions, strict=True):
            parameter.data += step * direction
        values.append(float(loss().detach()))
    along = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert along == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-5)
    plain = hessgnn.create(name).double()
    plain.load_state_dict(merged_state(potential))  # a module with several names, too
    assert torch.equal(plain.forces(batch), potential.forces(batch))
