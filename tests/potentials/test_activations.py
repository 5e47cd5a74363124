import pytest
import torch
from torch.nn import functional

from hessgnn.potentials.blocks.layers import HIGHEST, Activation

PLAIN = {"silu": functional.silu, "gelu": functional.gelu, "softplus": functional.softplus, "tanh": torch.tanh}


def points():
    return torch.linspace(-6, 6, 41, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", PLAIN)
def test_every_derivative_is_that_of_autograd(name):
    x = points()
    ours, plain = Activation(name)(x), PLAIN[name](x)
    for order in range(HIGHEST + 2):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12, msg=f"derivative {order}")
        (ours,) = torch.autograd.grad(ours.sum(), x, create_graph=True)
        (plain,) = torch.autograd.grad(plain.sum(), x, create_graph=True)


@pytest.mark.parametrize("name", PLAIN)
def test_second_derivatives_mix_with_those_of_the_incoming_gradient(name):
    x = torch.linspace(-2, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(Activation(name), x)


@pytest.mark.parametrize("name", PLAIN)
def test_transforms_of_functorch_work(name):
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    ours = torch.func.hessian(lambda v: Activation(name)(v).square().sum())(x)
    plain = torch.autograd.functional.hessian(lambda v: PLAIN[name](v).square().sum(), x)
    torch.testing.assert_close(ours, plain)


def test_a_last_backward_without_graph_saves_nothing():
    x = points()
    (gradient,) = torch.autograd.grad(Activation("silu")(x).sum(), x)
    assert not gradient.requires_grad
    assert not Activation("silu")(x.detach()).requires_grad
