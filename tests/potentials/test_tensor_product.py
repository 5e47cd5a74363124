"""The tensor product is e3nn's, with all its derivatives, and equivariant."""

import pytest
import torch
from e3nn import o3

from hessgnn.potentials.nequip.tensor_product import TensorProduct

CHANNELS = 2
IRREPS = [o3.Irrep(ir) for ir in ("0e", "1o", "1e", "2e", "2o", "3o")]
EDGES = torch.tensor([[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]])
CASES = [([0], 2, [0, 1, 3]), ([0, 1], 1, [0, 1, 2]), ([0, 1, 2, 3, 4], 2, [0, 1, 2, 3, 4]), ([0, 1, 3, 5], 3, [0])]


@pytest.fixture(autouse=True)
def double():
    """Have e3nn make its constants in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(case):
    inside, l_max, outside = case
    return TensorProduct([IRREPS[k] for k in inside], l_max, [IRREPS[k] for k in outside]).double()


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def of_e3nn(case, ours):
    """e3nn's product between our layouts."""
    inside, l_max, _ = case
    irreps_out = o3.Irreps([(CHANNELS, out) for _, _, out in ours.paths])
    theirs = o3.TensorProduct(
        o3.Irreps([(CHANNELS, IRREPS[k]) for k in inside]),
        o3.Irreps.spherical_harmonics(l_max),
        irreps_out,
        [(a, degree, k, "uvu", True) for k, (a, degree, _) in enumerate(ours.paths)],
        shared_weights=False,
        internal_weights=False,
        compile_right=False,
    ).double()

    def product(x, harmonics, weights, edge_index):
        i, j = edge_index
        parts = x.split([IRREPS[k].dim for k in inside], 1)
        message = theirs(torch.cat([part.transpose(1, 2).flatten(1) for part in parts], 1)[j], harmonics, weights)
        summed = torch.zeros(len(x), message.shape[1], dtype=x.dtype).index_add(0, i, message)
        slots = [
            part.unflatten(1, (CHANNELS, -1)).transpose(1, 2)
            for part in summed.split([CHANNELS * ir.dim for _, ir in irreps_out], 1)
        ]
        # The path runs faster than the component.
        return torch.cat([torch.stack(slots[block.paths], 2).flatten(1, 2) for block in ours.blocks], 1)

    return product


@pytest.mark.parametrize("case", CASES)
def test_values_and_three_derivatives_are_those_of_e3nn(case):
    ours = build(case)
    inputs = [random(3, ours.dim_in, CHANNELS), random(6, 3), random(6, ours.n_paths * CHANNELS)]
    along = [random(*t.shape) for t in inputs]
    found = []
    for product in (ours, of_e3nn(case, ours)):
        leaves = [t.clone().requires_grad_() for t in inputs]

        def energy(leaves=leaves, product=product):
            x, vectors, weights = leaves
            harmonics = o3.spherical_harmonics(list(range(case[1] + 1)), vectors, True, "component")
            return product(x, harmonics, weights, EDGES).pow(3)

        values = [energy()]
        value = values[0].sum()
        for _ in range(3):
            gradient = torch.autograd.grad(value, leaves, create_graph=True)
            values += gradient
            value = sum((g * v).sum() for g, v in zip(gradient, along, strict=True))
        found.append(values)
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12 * float(wanted.detach().abs().max()))


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_it_is_equivariant(case, improper):
    ours = build(case)
    inside, l_max, _ = case
    rotation = o3.matrix_x(torch.tensor(0.4)) @ o3.matrix_y(torch.tensor(1.1)) @ o3.matrix_x(torch.tensor(-2.0))
    rotation = -rotation if improper else rotation
    x, vectors, weights = random(3, ours.dim_in, CHANNELS), random(6, 3), random(6, ours.n_paths * CHANNELS)

    def harmonics(vectors):
        return o3.spherical_harmonics(list(range(l_max + 1)), vectors, True, "component")

    before = o3.Irreps([(1, IRREPS[k]) for k in inside]).D_from_matrix(rotation)
    turned = ours(torch.einsum("ij,njc->nic", before, x), harmonics(vectors @ rotation.T), weights, EDGES)
    plain = ours(x, harmonics(vectors), weights, EDGES)
    for block in ours.blocks:
        after = block.irrep.D_from_matrix(rotation)
        wanted = torch.einsum("ij,njpc->nipc", after, block.of_rows(plain))
        torch.testing.assert_close(block.of_rows(turned), wanted, rtol=1e-12, atol=1e-12)


def test_what_no_path_leads_to_is_left_out():
    product = TensorProduct([IRREPS[0]], 1, IRREPS[:3])
    assert [block.irrep for block in product.blocks] == IRREPS[:2]


def test_float64_after_float32_is_exact():
    product = build(CASES[1])
    torch.testing.assert_close(product.float().double().coupling, product.exact, rtol=0, atol=0)
