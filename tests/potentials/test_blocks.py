import pytest
import torch

from hessgnn.potentials.blocks.layers import FORMS, Activation, BesselBasis, PolynomialCutoff, mlp


def derivatives(function, at, order):
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    value, found = function(x), []
    for _ in range(order + 1):
        found.append(float(value.detach()))
        (value,) = torch.autograd.grad(value, x, create_graph=True)
    return found


@pytest.mark.parametrize("p", [6, 8])
def test_the_envelope_and_two_derivatives_vanish_at_the_cutoff(p):
    envelope = PolynomialCutoff(3.0, p)
    inside = derivatives(envelope, 3.0 * (1 - 1e-9), 2)
    assert inside == pytest.approx([0, 0, 0], abs=1e-6)
    third = derivatives(envelope, 3.0 * (1 - 1e-9), 3)[3]
    assert third == pytest.approx(-p * (p + 1) * (p + 2) / 27, rel=1e-5)  # it is C² and no more
    assert derivatives(envelope, 3.1, 2) == [0, 0, 0]


def test_the_envelope_starts_at_one_with_five_flat_derivatives():
    assert derivatives(PolynomialCutoff(3.0), 0.0, 5) == [1, 0, 0, 0, 0, 0]


def test_bessel_functions_are_orthonormal():
    r = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000 * 4
    values = BesselBasis(4.0, 5).double()(r)
    overlap = torch.einsum("rn,rm,r->nm", values, values, r**2) * 4 / 20000
    torch.testing.assert_close(overlap, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_activations_have_a_continuous_second_derivative(name):
    act = Activation(name)
    left, right = derivatives(act, -1e-7, 3), derivatives(act, 1e-7, 3)
    assert left == pytest.approx(right, abs=1e-6)


def test_an_mlp_has_no_activation_at_its_end():
    layers = mlp(3, 5, 2, act="silu", bias=False)
    assert [type(layer).__name__ for layer in layers] == ["Linear", "Activation", "Linear"]
    assert [layer.bias for layer in (layers[0], layers[2])] == [None, None]
