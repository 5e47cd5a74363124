"""The tensor product of a convolution against e3nn's."""

import pytest
import torch
from e3nn import o3
from torch import nn

from hessgnn.potentials.blocks.couplings import EdgeProduct, can_replace, replace_products
from hessgnn.potentials.nequip.model import eager_e3nn

IN, EDGE = o3.Irreps("4x0e+3x1o+2x2e"), o3.Irreps("0e+1o+2e")


def convolution(mode: str = "uvu", **settings: bool) -> o3.TensorProduct:
    """All paths up to degree 2, outputs sorted as convolutions have them, so not in the order of the inputs."""
    paths = [
        (i, j, mul, ir)
        for i, (mul, ir_in) in enumerate(IN)
        for j, (_, ir_edge) in enumerate(EDGE)
        for ir in ir_in * ir_edge
        if ir.l <= 2
    ]
    out, place, _ = o3.Irreps([(mul, ir) for _, _, mul, ir in paths]).sort()
    instructions = sorted(
        ((i, j, place[k], mode, True) for k, (i, j, _, _) in enumerate(paths)), key=lambda one: one[2]
    )
    settings = {"shared_weights": False, "internal_weights": False} | settings
    with eager_e3nn():
        return o3.TensorProduct(IN, EDGE, out, instructions, **settings)


@pytest.fixture
def inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    sizes = (IN.dim, EDGE.dim, convolution().weight_numel)
    return tuple(torch.randn(5, size, generator=generator, dtype=torch.float64) for size in sizes)


def test_it_gives_what_e3nn_gives(inputs):
    theirs = convolution()
    ours = EdgeProduct(theirs).double()
    expected = theirs.double()(*inputs)
    assert ours(*inputs).shape == expected.shape
    assert (ours(*inputs) - expected).abs().max() < 1e-6 * expected.abs().max()  # theirs are coefficients in float32


def test_it_is_equivariant_in_float64_to_the_last_digits(inputs):
    product = EdgeProduct(convolution()).float().double()
    x, y, weight = inputs
    rotation = o3.rand_matrix(dtype=torch.float64)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # e3nn's representations are made in the default type
    try:
        turn = [irreps.D_from_matrix(rotation) for irreps in (IN, EDGE, product.irreps_out)]
    finally:
        torch.set_default_dtype(before)
    turned = product(x @ turn[0].T, y @ turn[1].T, weight)
    assert (turned - product(x, y, weight) @ turn[2].T).abs().max() < 1e-12


def test_only_products_of_this_kind_are_replaced():
    assert can_replace(convolution())
    assert not can_replace(convolution(internal_weights=True, shared_weights=True))
    with eager_e3nn():
        assert not can_replace(o3.FullyConnectedTensorProduct("2x0e", "1x0e", "2x0e"))
    model = nn.ModuleDict({"a": nn.ModuleDict({"product": convolution()}), "b": nn.Linear(2, 2)})
    replace_products(model)
    assert type(model["a"]["product"]) is EdgeProduct


def test_weights_that_were_saved_with_e3nns_constants_are_loaded():
    model = nn.ModuleDict({"product": convolution(), "linear": nn.Linear(2, 2)})
    state = model.state_dict()
    assert any("w3j" in name for name in state)
    replace_products(model)
    model.load_state_dict(state)
    assert not any(name.startswith("product") for name in model.state_dict())
