"""NequIP-like potential: E(3)-equivariant tensor-product convolutions of e3nn.

Batzner et al., "E(3)-equivariant graph neural networks for data-efficient and accurate interatomic potentials",
Nat. Commun. 13, 2453 (2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import e3nn
import torch
from e3nn import o3
from e3nn.math import normalize2mom
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import PotentialConfig, register
from hessgnn.potentials.blocks.layers import Activation, BesselBasis, PolynomialCutoff, mlp
from hessgnn.potentials.blocks.radial import radial_derivatives
from hessgnn.potentials.closed_form import ClosedFormPotential
from hessgnn.potentials.nequip.evaluation import GateShape, LayerWeights, NequIPEvaluation
from hessgnn.potentials.nequip.geometry import EdgeFunctions
from hessgnn.potentials.nequip.tensor_product import TensorProduct

Irreps = list[o3.Irrep]


@contextmanager
def eager_e3nn() -> Iterator[None]:
    """Build e3nn modules as plain Python: TorchScript breaks batched and third derivatives."""
    before = e3nn.get_optimization_defaults()["jit_mode"]
    e3nn.set_optimization_defaults(jit_mode="eager")
    try:
        yield
    finally:
        e3nn.set_optimization_defaults(jit_mode=before)


class EdgeInputs(NamedTuple):
    """What messages depend on besides features.

    Harmonics ``(n_edges, n_harmonics)``, basis times envelope ``(n_edges, n_basis)``, and ``(2, n_edges)`` atoms.
    """

    harmonics: Tensor
    basis: Tensor
    edge_index: Tensor


class Convolution(nn.Module):
    """Gated tensor-product convolution with an element-wise self-connection.

    Features are ``(n_atoms, components, channels)``: all irreps have as many channels. Irreps without a path to them
    must have been left out.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, config: NequIP.Config) -> None:
        super().__init__()
        channels = config.channels
        self.product = TensorProduct(irreps_in, config.l_max, irreps_out)
        self.gate = Gate(irreps_out, channels)
        self.radial = mlp(config.n_basis, config.radial_width, self.product.n_paths * channels, act="silu", bias=False)
        self.before = nn.ParameterList(_normal(channels, channels) for _ in irreps_in)
        self.after = nn.ParameterList(
            _normal(block.n_paths * channels, width)
            for block, width in zip(self.product.blocks, self.gate.widths, strict=True)
        )
        self.kept = [irreps_in.index(ir) if ir in irreps_in else None for ir in irreps_out]
        self.self_connection = nn.ParameterList(
            _normal(len(config.elements) * channels, width)
            for place, width in zip(self.kept, self.gate.widths, strict=True)
            if place is not None
        )
        self.sizes = [ir.dim for ir in irreps_in]
        self.normalisation = config.average_neighbors**-0.5

    def weights(self, radial: Sequence[Tensor]) -> LayerWeights:
        """Matrices as they multiply, with their normalisation, and radial functions that are known."""
        connections = iter(self.self_connection)
        return LayerWeights(
            product=self.product,
            gate=self.gate.shape,
            before=[weight * len(weight) ** -0.5 for weight in self.before],
            after=[weight * (self.normalisation * len(weight) ** -0.5) for weight in self.after],
            connections=[
                None if place is None else (own := next(connections)) * len(own) ** -0.5 for place in self.kept
            ],
            kept=self.kept,
            radial=radial,
        )

    def forward(self, x: Tensor, elements: Tensor, edges: EdgeInputs) -> Tensor:
        """Features of the next layer, from those of this one and the one-hot elements ``(n_atoms, n_elements)``."""
        weights = self.weights(())
        parts = x.split(self.sizes, 1)
        mixed = torch.cat([part @ weight for part, weight in zip(parts, weights.before, strict=True)], 1)
        message = self.product(mixed, edges.harmonics, self.radial(edges.basis), edges.edge_index)
        out = []
        blocks = zip(self.product.blocks, weights.after, weights.connections, self.kept, strict=True)
        for block, after, connection, place in blocks:
            new = block.of_rows(message).flatten(2) @ after
            if connection is not None and place is not None:
                new = new + (parts[place].unsqueeze(3) * elements[:, None, None, :]).flatten(2) @ connection
            out.append(new)
        return self.gate(out)


class Gate(nn.Module):
    """Scalars through SiLU (even) or tanh (odd), the rest multiplied by even scalars through SiLU.

    The first of the irreps is the even scalar. ``widths`` is the number of features that the gate takes of each irrep;
    the even scalar brings those that multiply the rest.
    """

    def __init__(self, irreps: Irreps, channels: int) -> None:
        super().__init__()
        self.irreps, self.channels = irreps, channels
        gated = sum(ir.l > 0 for ir in irreps)
        self.widths = [channels * (1 + gated), *[channels] * (len(irreps) - 1)]
        self.even, self.odd = Activation("silu"), Activation("tanh")
        # e3nn's convention: an activation of normal numbers has a second moment of 1.
        self.even_scale, self.odd_scale = (normalize2mom(act).cst for act in (self.even, self.odd))

    @property
    def shape(self) -> GateShape:
        """What its derivatives depend on."""
        return GateShape([ir.l for ir in self.irreps], self.channels, self.even_scale, self.odd_scale)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Features ``(n_atoms, components, channels)`` from each irrep's ``(n_atoms, 2 l + 1, width)``."""
        scalars, *gates = (self.even(parts[0]) * self.even_scale).split(self.channels, 2)
        remaining = iter(gates)
        out = [scalars]
        for ir, part in zip(self.irreps[1:], parts[1:], strict=True):
            out.append(part * next(remaining) if ir.l else self.odd(part) * self.odd_scale)
        return torch.cat(out, 1)


@register("nequip")
class NequIP(ClosedFormPotential):
    """Equivariant message passing with spherical harmonics up to ``l_max``."""

    class Config(PotentialConfig):
        """Hyper-parameters; the defaults make a small model that a CPU can train."""

        channels: PositiveInt = Field(default=16, description="features of each irrep")
        l_max: NonNegativeInt = Field(default=1, description="highest degree of features and spherical harmonics")
        parity: bool = Field(default=True, description="keep pseudo-tensors, such as odd scalars")
        n_layers: PositiveInt = 2
        n_basis: PositiveInt = Field(default=8, description="Bessel functions that a distance is expanded in")
        radial_width: PositiveInt = Field(default=32, description="hidden width of the radial network")
        average_neighbors: PositiveFloat = Field(default=10.0, description="messages are divided by its square root")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_hops = config.n_layers
        self.basis = BesselBasis(config.cutoff, config.n_basis)
        self.envelope = PolynomialCutoff(config.cutoff)
        with eager_e3nn():
            self.harmonics = o3.SphericalHarmonics(
                o3.Irreps.spherical_harmonics(config.l_max), normalize=False, normalization="component"
            )
        self.edge_functions = EdgeFunctions(config.l_max)
        self.embedding = _normal(len(config.elements), config.channels)
        irreps = _irreps(config.l_max, config.parity, config.n_layers)
        self.layers = nn.ModuleList(
            Convolution(irreps_in, irreps_out, config) for irreps_in, irreps_out in pairwise(irreps)
        )
        self.readout = mlp(config.channels, config.channels, 1, act="silu")

    def atomic_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each atom, ``(n_atoms,)``."""
        vectors = batch.edge_vectors()
        distances = vectors.norm(dim=-1)
        # e3nn's harmonics are polynomials of the unit vector, so an edge along an axis is nothing special.
        harmonics = self.harmonics(vectors / distances.unsqueeze(-1))
        basis = self.basis(distances) * self.envelope(distances).unsqueeze(-1)
        edges = EdgeInputs(harmonics, basis, batch.edge_index)
        elements = self._one_hot(batch)
        x = (elements @ self._embedding()).unsqueeze(1)
        for layer in self.layers:
            x = layer(x, elements, edges)
        return self.readout(x.squeeze(1)).squeeze(-1)

    def evaluate(self, batch: Batch, vectors: Tensor) -> NequIPEvaluation:
        """See :meth:`ClosedFormPotential.evaluate`; the radial networks are left to autograd."""
        with torch.no_grad():
            distances = batch.edge_vectors(batch.pair_edges()).norm(dim=-1)
        radial = radial_derivatives(distances, self.basis, self.envelope, 2 if len(vectors) else 1)
        layers = [layer.weights(radial(layer.radial)) for layer in self._convolutions()]
        first, last = (layer for layer in self.readout if isinstance(layer, nn.Linear))
        readout = [first.weight, first.bias, last.weight, last.bias]
        embedding = self._embedding()
        with torch.no_grad():
            return NequIPEvaluation(
                batch, vectors, self.edge_functions, embedding, self._one_hot(batch), layers, readout
            )

    def product_bytes(self, batch: Batch) -> int:
        """See :meth:`ClosedFormPotential.product_bytes`: messages and features of all layers, forward and back."""
        rows = sum(layer.product.n_rows + 4 * layer.product.dim_in for layer in self._convolutions())
        channels = self.embedding.shape[1]
        return 2 * len(batch.numbers) * rows * channels * batch.positions.element_size()

    def _convolutions(self) -> list[Convolution]:
        return [layer for layer in self.layers if isinstance(layer, Convolution)]

    def _one_hot(self, batch: Batch) -> Tensor:
        return nn.functional.one_hot(self.species(batch), len(self.elements)).to(batch.positions.dtype)

    def _embedding(self) -> Tensor:
        return self.embedding * len(self.embedding) ** -0.5


def _normal(*shape: int) -> nn.Parameter:
    """Weights in e3nn's convention: of variance 1, normalised where they are used."""
    return nn.Parameter(torch.randn(*shape))


def _irreps(l_max: int, parity: bool, n_layers: int) -> list[Irreps]:
    """Irreps of the features before and behind each layer: those that can be reached and that the energy can use."""
    signs = (1, -1) if parity else (1,)  # natural parity first: the gate wants the even scalar in front
    hidden = [o3.Irrep(degree, sign * (-1) ** degree) for degree in range(l_max + 1) for sign in signs]
    harmonics = [ir for _, ir in o3.Irreps.spherical_harmonics(l_max)]

    def neighbours(irreps: Irreps) -> Irreps:
        """Irreps that one layer leads to, or, as products are symmetric, comes from."""
        return [out for out in hidden if any(out in ir * y for ir in irreps for y in harmonics)]

    scalar = [o3.Irrep("0e")]
    reached, used = [scalar], [scalar]
    for _ in range(n_layers):
        reached.append(neighbours(reached[-1]))
        used.append(neighbours(used[-1]))
    return [[ir for ir in a if ir in b] for a, b in zip(reached, reversed(used), strict=True)]
