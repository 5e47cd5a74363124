import re
import warnings

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import nn
from torch.autograd.function import once_differentiable

from hessgnn.curvature import refusals
from hessgnn.curvature.products import predict
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError
from hessgnn.potentials.base import Potential, create


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


class Never(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.square()


class ByHand(torch.autograd.Function):
    """Its backward returns numbers without a graph and says nothing."""

    @staticmethod
    def forward(ctx, vectors):
        ctx.save_for_backward(vectors)
        return vectors.square().sum(1)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient.unsqueeze(1) * ctx.saved_tensors[0].detach()


class Layer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Built(Potential):
    """A sum over edges of a function of the distance, inside two modules."""

    def __init__(self, layer, config=None):
        super().__init__(config or self.Config())
        self.body = nn.Sequential(nn.Identity(), layer)

    def atomic_energies(self, batch):
        i, _ = batch.edge_index
        distances = batch.edge_vectors().norm(dim=1, keepdim=True)
        return distances.new_zeros(len(batch.numbers)).index_add(0, i, self.body(distances).sum(-1))


def cdist(x):
    return torch.cdist(x, torch.ones_like(x) * torch.arange(len(x)).unsqueeze(1))


def attention(x):
    return nn.functional.scaled_dot_product_attention(*3 * (x[None, None],))[0, 0]


@pytest.fixture
def batch():
    return Batch.from_atoms([molecule("H2O"), Atoms("O")], 5.0)


def vectors(batch, number=2):
    return torch.ones(number, *batch.positions.shape, dtype=batch.positions.dtype)


def refusal(potential, batch, **options):
    with pytest.raises(UserError) as caught:
        predict(potential, batch, vectors=vectors(batch), **options)
    line = str(caught.value)
    assert "\n" not in line
    assert "Hint: " in line
    return line


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (Once.apply, "Built: Once in body.1 can be differentiated once only"),
        (Never.apply, "Built: the derivative of a custom function without backward in body.1 is not implemented"),
        (cdist, "Built: the derivative of _cdist_backward in body.1 is not implemented"),
        (attention, r"Built: the derivative of _scaled_dot_product_\w+_backward in body.1 is not implemented"),
        (lambda x: torch.special.zeta(x + 2, 1.0), "Built: the derivative of zeta in body.1 is not implemented"),
        (lambda x: x.detach(), "Built: the energy has no graph that leads to the positions"),
        (torch.special.bessel_j0, "Built: the energy has no graph that leads to the positions"),
    ],
)
@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_what_has_no_second_derivative_is_named(function, told, backend, batch):
    assert re.match(told, refusal(Built(Layer(function)), batch, backend=backend))


def test_an_operation_outside_of_all_modules_is_named_without_one(batch):
    class Plain(Built):
        def atomic_energies(self, batch):
            return Once.apply(super().atomic_energies(batch))

    assert "Plain: Once can be differentiated once only" in refusal(Plain(nn.Identity()), batch)


def test_forces_without_a_graph_are_refused(batch):
    class Springs(Built):
        def atomic_energies(self, batch):
            i, _ = batch.edge_index
            return batch.positions.new_zeros(len(batch.numbers)).index_add(0, i, ByHand.apply(batch.edge_vectors()))

    told = "Springs: the gradient of the energy has no graph that leads to the positions"
    assert told in refusal(Springs(nn.Identity()), batch)


def test_a_function_that_is_differentiated_once_in_the_weights_only_is_sound(batch):
    class Weighted(Built):
        def __init__(self):
            super().__init__(nn.Identity())
            self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

        def atomic_energies(self, batch):
            return super().atomic_energies(batch).square() * Once.apply(self.weight)

    assert predict(Weighted(), batch, vectors=vectors(batch)).products.isfinite().all()


def test_forces_may_come_from_what_has_one_derivative(batch):
    for function in (Once.apply, cdist):
        assert bool(predict(Built(Layer(function)), batch).forces.any())


def test_torchscript_is_refused_by_name(batch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.trace(nn.Linear(1, 1).double(), torch.ones(1, 1, dtype=torch.float64))
        function = torch.jit.trace(lambda x: x.square(), torch.ones(1))
    assert refusal(Built(module), batch).startswith("Built: body.1 (TopLevelTracedModule) is TorchScript")
    assert refusal(Built(Layer(function)), batch).startswith("Built: body.1 (Layer) is TorchScript")


def test_compiled_modules_are_refused_by_name(batch):
    compiled = nn.Linear(1, 1).double()
    compiled.compile()
    whole = Built(nn.Identity())
    whole.compile()
    assert "the potential itself (Built) is compiled" in refusal(whole, batch)
    for layer in (torch.compile(nn.Linear(1, 1).double()), compiled, Layer(torch.compile(torch.sin))):
        assert re.match(r"Built: body\.1 \(\w+\) is compiled by torch\.compile", refusal(Built(layer), batch))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype, batch):
    potential = create("schnet", width=8)
    assert f"positions in {dtype}" in refusal(potential, batch.replace(positions=batch.positions.to(dtype)))
    assert f"the potential in {dtype}" in refusal(create("schnet", width=8).to(dtype), batch)
    potential.double().readout.to(dtype)
    assert re.search(rf"with readout\.\w+\.?\w* in {dtype}", refusal(potential, batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "leave torch.autocast" in refusal(create("schnet", width=8).double(), batch)


def test_inference_mode_is_refused(batch):
    potential = create("schnet", width=8).double()
    potential.closed_form = False  # its formulas need no graph
    with torch.inference_mode():
        assert "inference_mode" in refusal(potential, batch)


def test_a_potential_is_looked_at_once(batch, monkeypatch):
    potential = create("schnet", width=8).double()
    predict(potential, batch, vectors=vectors(batch))
    monkeypatch.setattr(refusals, "_nodes_between", None)
    monkeypatch.setattr(type(potential), "named_modules", None)
    predict(potential, batch, vectors=vectors(batch))


def test_a_batch_of_lone_atoms_tells_nothing_about_the_graph():
    potential = Built(Layer(Once.apply))
    lone, pair = (Batch.from_atoms([Atoms(s, [[0, 0, k] for k in range(len(s))])], 5.0) for s in ("O", "OH"))
    assert not predict(potential, lone, vectors=vectors(lone)).products.any()
    assert "Once" in refusal(potential, pair)


def test_other_errors_name_the_line_of_the_potential(batch):
    def fails(x):
        raise RuntimeError("something else")

    found = refusal(Built(Layer(fails)), batch)
    assert "Built: atomic_energies failed in test_refusals.py, line" in found
    assert "RuntimeError: something else" in found


def test_in_place_operations_are_named(batch):
    def changed(x):
        root = (x.square() + 1).sqrt()
        result = root.exp()
        root.add_(1)
        return result

    found = refusal(Built(Layer(changed)), batch)
    assert "an in-place operation changes the result of Sqrt, which the derivatives need" in found
