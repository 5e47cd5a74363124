"""Potentials that each break one thing which the contract requires, and the sound one that they come from."""

import math

import torch
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential, PotentialConfig
from hessgnn.potentials.blocks.layers import BesselBasis, PolynomialCutoff, mlp
from hessgnn.potentials.closed_form import ClosedFormPotential, Evaluation


class Sound(Potential):
    n_hops = 1

    def __init__(self, config):
        super().__init__(config)
        self.embedding = nn.Embedding(len(config.elements), 8)
        self.basis = BesselBasis(config.cutoff, 4)
        self.polynomial = PolynomialCutoff(config.cutoff)
        self.filter = nn.Linear(4, 8)
        self.readout = mlp(8, 16, 1, act="silu")

    def vectors(self, batch: Batch) -> Tensor:
        return batch.edge_vectors()

    def envelope(self, distances: Tensor) -> Tensor:
        return self.polynomial(distances)

    def messages(self, batch: Batch) -> Tensor:
        distances = self.vectors(batch).norm(dim=-1)
        weight = self.filter(self.basis(distances)) * self.envelope(distances).unsqueeze(-1)
        return weight * self.embedding(self.species(batch))[batch.edge_index[1]]

    def gather(self, batch: Batch, messages: Tensor) -> Tensor:
        return messages.new_zeros(len(batch.numbers), messages.shape[1]).index_add(0, batch.edge_index[0], messages)

    def features(self, batch: Batch) -> Tensor:
        return self.gather(batch, self.messages(batch)) + self.embedding(self.species(batch))

    def atomic_energies(self, batch: Batch) -> Tensor:
        return self.readout(self.features(batch)).squeeze(-1)


class AnyElement(Sound):
    def species(self, batch):
        return self.element_index[batch.numbers].clamp(min=0)


class FloatCast(Sound):
    def atomic_energies(self, batch):
        return super().atomic_energies(batch).float()


class CentresInPlace(Sound):
    def atomic_energies(self, batch):
        batch.positions.data.sub_(batch.positions.data.mean(0))
        return super().atomic_energies(batch)


class Constant(Sound):
    def features(self, batch):
        return self.embedding(self.species(batch))


class Squeezed(Sound):
    def atomic_energies(self, batch):
        return self.readout(self.features(batch)).squeeze()


class MeanOfNeighbours(Sound):
    def features(self, batch):
        messages = self.messages(batch)
        return self.gather(batch, messages) / self.gather(batch, torch.ones_like(messages))


class WeightsInAList(Sound):
    def __init__(self, config):
        super().__init__(config)
        self.weights = [torch.randn(8)]

    def features(self, batch):
        return super().features(batch) * self.weights[0].to(batch.positions)


class Dropout(Sound):
    def features(self, batch):
        return nn.functional.dropout(super().features(batch), 0.3, self.training)


class BatchNormalised(Sound):
    def features(self, batch):
        x = super().features(batch)
        return x - 0.1 * x.mean(0)


class OrderDependent(Sound):
    def features(self, batch):
        return super().features(batch) * (1 + 0.1 * batch.slot.unsqueeze(1))


class AbsolutePositions(Sound):
    def features(self, batch):
        return super().features(batch) + 0.01 * batch.positions.square().sum(1, keepdim=True)


class Trap(Sound):
    """A harmonic potential around the origin."""

    def atomic_energies(self, batch):
        return super().atomic_energies(batch) + 0.05 * batch.positions.square().sum(1)


class CoordinateAsFeature(Sound):
    def messages(self, batch):
        return super().messages(batch) * (1 + 0.1 * self.vectors(batch)[:, :1])


class Chiral(Sound):
    """A triple product of vectors that changes its sign in the mirror."""

    def features(self, batch):
        vectors, messages = self.vectors(batch), self.messages(batch)
        a, b, c = (self.gather(batch, vectors * messages[:, k : k + 1]) for k in range(3))
        return super().features(batch) + (a * torch.linalg.cross(b, c)).sum(1, keepdim=True)


class MeanOfStructure(Sound):
    def features(self, batch):
        x = super().features(batch)
        mean = batch.sum_per_structure(x) / batch.n_atoms.unsqueeze(1)
        return x + 0.1 * mean[batch.batch]


class ShortSighted(Sound):
    """Passes messages twice, but says once."""

    def features(self, batch):
        x = super().features(batch)
        envelope = self.envelope(self.vectors(batch).norm(dim=-1)).unsqueeze(-1)
        return x + self.gather(batch, envelope * x[batch.edge_index[1]])


class EdgesOfOthers(Sound):
    """Hears what its neighbours send: within one edge, but along edges that they are the centre of."""

    def gather(self, batch, messages):
        return messages.new_zeros(len(batch.numbers), messages.shape[1]).index_add(0, batch.edge_index[1], messages)


class WithoutShift(Sound):
    def vectors(self, batch):
        i, j = batch.edge_index
        return batch.positions[j] - batch.positions[i] + 1e-3


class DetachedEnvelope(Sound):
    def envelope(self, distances):
        return super().envelope(distances.detach())


class _SquareOnce(torch.autograd.Function):
    """As compiled extensions do: a first derivative that is not differentiable itself."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * grad * x.detach()


class FirstDerivativeOnly(Sound):
    def features(self, batch):
        return _SquareOnce.apply(super().features(batch))


class AngleByArcCosine(Sound):
    """Angle between a neighbour and the sum of all: without derivative where atoms lie on a line."""

    def messages(self, batch):
        vectors, messages = self.vectors(batch), super().messages(batch)
        unit = vectors / vectors.norm(dim=-1, keepdim=True)
        envelope = self.envelope(vectors.norm(dim=-1)).unsqueeze(-1)
        mean = self.gather(batch, unit * envelope)[batch.edge_index[0]]
        cosine = (unit * mean).sum(1) / mean.norm(dim=1)
        return messages * (1 + 0.1 * torch.acos(cosine.clamp(-1, 1)).unsqueeze(1))


class _HalfProduct(torch.autograd.Function):
    """A product whose first derivative depends on one of its factors only."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, b):
        return a * b

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        return grad * b.detach(), grad * a


class AsymmetricHessian(Sound):
    def features(self, batch):
        x = super().features(batch)
        return x + _HalfProduct.apply(x, x.roll(1, dims=1))


class NegativeProducts(Sound):
    """The convention of some data sets: -H."""

    def hvp(self, batch, vectors, create_graph=False):
        return -super().hvp(batch, vectors, create_graph)


class DecidesByValue(Sound):
    """A hook that clips gradients, as trainers do; it cannot be vectorised."""

    def features(self, batch):
        x = super().features(batch)
        if x.requires_grad:
            x.register_hook(lambda grad: grad.clamp(-1e9, 1e9) if grad.abs().max().item() > 1e9 else grad)
        return x


class DetachedWeights(Sound):
    def features(self, batch):
        return super().features(batch) * self.embedding.weight.detach().square().mean(0)


class Unguarded(Sound):
    """Smooth on paper: exp(-1/(1-x)) for x < 1."""

    def envelope(self, distances):
        x = distances / self.cutoff
        return torch.exp(1 - 1 / (1 - x)) * (x < 1)


class UnguardedInside(Sound):
    """The same with a cutoff of its own, as ANI has for angles."""

    class Config(PotentialConfig):
        angular_cutoff: float = 2.5

    def envelope(self, distances):
        x = distances / self.config.angular_cutoff
        return super().envelope(distances) * (1 + torch.exp(1 - 1 / (1 - x)) * (x < 1))


class CosineCutoff(Sound):
    def envelope(self, distances):
        return (0.5 + 0.5 * torch.cos(math.pi * distances / self.cutoff)) * (distances < self.cutoff)


class HardCutoff(Sound):
    def envelope(self, distances):
        return torch.ones_like(distances)


class ConstantStep(Sound):
    """Energy jumps at the cutoff, its derivatives do not: each neighbour counts."""

    def atomic_energies(self, batch):
        return super().atomic_energies(batch) + 0.01 * self.gather(batch, torch.ones_like(self.vectors(batch)))[:, 0]


class InnerStep(Sound):
    """The second derivative jumps at 1.7 Å, as inner cutoffs do."""

    def envelope(self, distances):
        return super().envelope(distances) + 1e-3 * (1.7 - distances).clamp(min=0).square()


class _Rough(Sound):
    act: type[nn.Module]

    def __init__(self, config):
        super().__init__(config)
        self.readout = nn.Sequential(nn.Linear(8, 16), self.act(), nn.Linear(16, 1))


class WithCELU(_Rough):
    act = nn.CELU


class WithELU(_Rough):
    act = nn.ELU


class WithReLU(_Rough):
    act = nn.ReLU


class OwnsUp(WithCELU):
    not_c2 = "CELU has a jump in its second derivative at 0"


class WrongFormulas(ClosedFormPotential):
    """A harmonic trap whose formulas give another stiffness, and no gradient in it."""

    def __init__(self, config):
        super().__init__(config)
        self.stiffness = nn.Parameter(torch.ones(()))

    def atomic_energies(self, batch):
        return 0.5 * self.stiffness * batch.positions.square().sum(1)

    def evaluate(self, batch, vectors):
        return _WrongEvaluation(self, batch, vectors)

    def product_bytes(self, batch):
        return batch.positions.numel()


class _WrongEvaluation(Evaluation):
    def __init__(self, potential, batch, vectors):
        self.parameters = [potential.stiffness]
        stiffness = 2 * potential.stiffness.detach()
        self.energies = 0.5 * stiffness * batch.positions.square().sum(1)
        self.gradient, self.products = stiffness * batch.positions, stiffness * vectors

    def backward(self, energies, gradient, products):
        return [torch.zeros_like(self.parameters[0])]
