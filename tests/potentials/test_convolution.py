"""Written-down derivatives of convolutions are those of autograd."""

import pytest
import torch
from e3nn import o3

from hessgnn.potentials.nequip import slopes
from hessgnn.potentials.nequip.convolution import known_convolution
from hessgnn.potentials.nequip.tensor_product import TensorProduct

CHANNELS = 2
EDGES = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3], [1, 2, 0, 2, 0, 1, 0, 2]])
CASES = {
    "scalars in": (["0e"], 2, ["0e", "1o", "2e"]),
    "scalars out": (["0e", "1o", "2e"], 2, ["0e"]),
    "all": (["0e", "1o", "1e"], 1, ["0e", "0o", "1o", "1e"]),
    "no vectors": (["0e"], 0, ["0e"]),
}


def network(theta, d):
    """Radial functions with their derivatives, ``(3, n_edges, n)``."""
    angle = d.unsqueeze(1) * theta
    return torch.stack([torch.sin(angle), theta * torch.cos(angle), -theta.square() * torch.sin(angle)])


def derivatives(case, known, number, backend, create_graph):
    """Value, forces, products and the gradient of a loss on them in the parameters, of two layers."""
    torch.manual_seed(0)
    inside, l_max, outside = CASES[case]
    first = TensorProduct([o3.Irrep("0e")], l_max, [o3.Irrep(ir) for ir in inside]).double()
    # A layer that reaches all of the irreps that the second is to see, some of them made up.
    second = TensorProduct([o3.Irrep(ir) for ir in inside], l_max, [o3.Irrep(ir) for ir in outside]).double()
    positions = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(4, 1, CHANNELS, dtype=torch.float64, requires_grad=True)
    made_up = torch.randn(4, second.dim_in, CHANNELS, dtype=torch.float64, requires_grad=True)
    theta = [torch.randn(p.n_paths * CHANNELS, dtype=torch.float64, requires_grad=True) for p in (first, second)]
    v = torch.randn(number, 4, 3, dtype=torch.float64)
    vectors = positions[EDGES[1]] - positions[EDGES[0]]
    distances = vectors.norm(dim=1)
    harmonics = o3.spherical_harmonics(list(range(l_max + 1)), vectors, True, "component")
    for product, t in zip((first, second), theta, strict=True):
        if known:
            x = known_convolution(product, x, harmonics, distances, network(t, distances.detach()), EDGES)
        else:
            x = product(x, harmonics, network(t, distances)[0], EDGES)
        if product is first:  # the mean over paths of an irrep
            mean = {str(b.irrep): b.of_rows(x).sum(2) for b in first.blocks}
            parts = made_up.split([o3.Irrep(ir).dim for ir in inside], 1)
            x = torch.cat([part * (1 + mean.get(ir, 0)) for ir, part in zip(inside, parts, strict=True)], 1).tanh()
    energy = x.square().sum()
    (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
    values = [gradient]
    if number and backend == "vmap":
        values += torch.autograd.grad(gradient, positions, v, create_graph=create_graph, is_grads_batched=True)
    elif number:
        values += [
            torch.autograd.grad(gradient, positions, u, create_graph=create_graph, retain_graph=True)[0] for u in v
        ]
    if create_graph:
        loss = sum(value.pow(2).sum() for value in [energy, *values])
        values += torch.autograd.grad(loss, [*theta, made_up])
    return [energy, *values]


@pytest.mark.parametrize("portion", [1, 2**19])
@pytest.mark.parametrize("create_graph", [True, False])
@pytest.mark.parametrize(("number", "backend"), [(0, "loop"), (2, "loop"), (3, "vmap")])
@pytest.mark.parametrize("case", CASES)
def test_derivatives_are_those_of_autograd(case, number, backend, create_graph, portion, monkeypatch):
    monkeypatch.setattr(slopes, "CACHED", portion)
    got = derivatives(case, True, number, backend, create_graph)
    wanted = derivatives(case, False, number, backend, create_graph)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12 * float(theirs.detach().abs().max()))


@pytest.mark.parametrize("settings", [{"create_graph": True}, {"is_grads_batched": True}])
def test_what_is_not_known_in_the_parameters_is_refused(settings):
    product = TensorProduct([o3.Irrep("0e")], 0, [o3.Irrep("0e")])
    theta = torch.randn(CHANNELS, requires_grad=True)
    d = torch.rand(8, requires_grad=True)
    harmonics = torch.ones(8, 1)
    out = known_convolution(product, torch.randn(4, 1, CHANNELS), harmonics, d, network(theta, d.detach()), EDGES)
    with pytest.raises(NotImplementedError, match="total_energy"):
        torch.autograd.grad(
            out, theta, torch.ones(2 if "is_grads_batched" in settings else 1, *out.shape).squeeze(0), **settings
        )
