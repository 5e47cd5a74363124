"""NequIP-like potential: E(3)-equivariant tensor-product convolutions of e3nn.

Batzner et al., "E(3)-equivariant graph neural networks for data-efficient and accurate interatomic potentials",
Nat. Commun. 13, 2453 (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import e3nn
from e3nn import o3
from e3nn.nn import Gate
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential, PotentialConfig
from hessgnn.potentials.blocks import BesselBasis, PolynomialCutoff, activation, mlp
from hessgnn.potentials.radial import radial_functions
from hessgnn.potentials.registry import register


@contextmanager
def eager_e3nn() -> Iterator[None]:
    """Build e3nn modules as plain Python: TorchScript breaks batched and third derivatives."""
    before = e3nn.get_optimization_defaults()["jit_mode"]
    e3nn.set_optimization_defaults(jit_mode="eager")
    try:
        yield
    finally:
        e3nn.set_optimization_defaults(jit_mode=before)


class Convolution(nn.Module):
    """Gated tensor-product convolution with an element-wise self-connection."""

    def __init__(
        self,
        irreps_in: o3.Irreps,
        irreps_edge: o3.Irreps,
        irreps_hidden: o3.Irreps,
        n_elements: int,
        n_basis: int,
        radial_width: int,
        average_neighbors: float,
    ) -> None:
        super().__init__()
        self.normalisation = average_neighbors**-0.5
        self.gate = _gate(irreps_in, irreps_edge, irreps_hidden)
        irreps_mid, instructions = _paths(irreps_in, irreps_edge, self.gate.irreps_in)
        self.product = o3.TensorProduct(
            irreps_in, irreps_edge, irreps_mid, instructions, shared_weights=False, internal_weights=False
        )
        self.radial = mlp(n_basis, radial_width, self.product.weight_numel, act="silu", bias=False)
        self.before = o3.Linear(irreps_in, irreps_in)
        self.after = o3.Linear(irreps_mid.simplify(), self.gate.irreps_in)
        self.self_connection = o3.FullyConnectedTensorProduct(irreps_in, f"{n_elements}x0e", self.gate.irreps_in)
        self.irreps_out = self.gate.irreps_out

    def forward(
        self,
        x: Tensor,
        elements: Tensor,
        harmonics: Tensor,
        at_distances: Callable[[nn.Sequential], Tensor],
        batch: Batch,
    ) -> Tensor:
        """Features ``(n_atoms, irreps_out.dim)``."""
        i, j = batch.edge_index
        message = self.product(self.before(x).index_select(0, j), harmonics, at_distances(self.radial))
        gathered = message.new_zeros(len(x), message.shape[-1]).index_add(0, i, message) * self.normalisation
        return self.gate(self.self_connection(x, elements) + self.after(gathered))


@register("nequip")
class NequIP(Potential):
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
        n_elements = len(config.elements)
        irreps_edge = o3.Irreps.spherical_harmonics(config.l_max)
        natural = [(config.channels, (degree, (-1) ** degree)) for degree in range(config.l_max + 1)]
        opposite = [(config.channels, (degree, -((-1) ** degree))) for degree in range(config.l_max + 1)]
        irreps_hidden = o3.Irreps(natural + opposite if config.parity else natural)
        self.basis = BesselBasis(config.cutoff, config.n_basis)
        self.envelope = PolynomialCutoff(config.cutoff)
        layers = []
        with eager_e3nn():
            self.harmonics = o3.SphericalHarmonics(irreps_edge, normalize=True, normalization="component")
            self.embedding = o3.Linear(f"{n_elements}x0e", f"{config.channels}x0e")
            irreps = self.embedding.irreps_out
            for layer in range(config.n_layers):
                last = layer == config.n_layers - 1
                target = o3.Irreps(f"{config.channels}x0e") if last else irreps_hidden
                layers.append(
                    Convolution(
                        irreps,
                        irreps_edge,
                        target,
                        n_elements,
                        config.n_basis,
                        config.radial_width,
                        config.average_neighbors,
                    )
                )
                irreps = layers[-1].irreps_out
        self.layers = nn.ModuleList(layers)
        self.readout = mlp(config.channels, config.channels, 1, act="silu")

    def atomic_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each atom, ``(n_atoms,)``."""
        vectors = batch.edge_vectors()
        distances = vectors.norm(dim=-1)
        # e3nn's harmonics are polynomials of the unit vector, so an edge along an axis is nothing special.
        harmonics = self.harmonics(vectors)
        at_distances = radial_functions(distances, self.basis, self.envelope, batch.derivatives, inside=True)
        elements = nn.functional.one_hot(self.species(batch), len(self.elements)).to(vectors.dtype)
        x = self.embedding(elements)
        for layer in self.layers:
            x = layer(x, elements, harmonics, at_distances, batch)
        return self.readout(x).squeeze(-1)


def _paths(
    irreps_in: o3.Irreps, irreps_edge: o3.Irreps, irreps_wanted: o3.Irreps
) -> tuple[o3.Irreps, list[tuple[int, int, int, str, bool]]]:
    """All 'uvu' paths from features and harmonics to irreps that are wanted, sorted so that equal ones touch."""
    mid: list[tuple[int, o3.Irrep]] = []
    instructions = []
    for a, (mul, ir_in) in enumerate(irreps_in):
        for b, (_, ir_edge) in enumerate(irreps_edge):
            for ir_out in ir_in * ir_edge:
                if ir_out in irreps_wanted:
                    instructions.append((a, b, len(mid), "uvu", True))
                    mid.append((mul, ir_out))
    irreps_mid, permutation, _ = o3.Irreps(mid).sort()
    return irreps_mid, [(a, b, permutation[c], mode, train) for a, b, c, mode, train in instructions]


def _gate(irreps_in: o3.Irreps, irreps_edge: o3.Irreps, irreps_hidden: o3.Irreps) -> Gate:
    """Scalars through SiLU (even) or tanh (odd), the rest multiplied by even scalars through SiLU."""
    reachable = [ir for _, ir_in in irreps_in for _, ir_edge in irreps_edge for ir in ir_in * ir_edge]
    kept = [(mul, ir) for mul, ir in irreps_hidden if ir in reachable]
    scalars = o3.Irreps([(mul, ir) for mul, ir in kept if ir.l == 0])
    gated = o3.Irreps([(mul, ir) for mul, ir in kept if ir.l > 0])
    gates = o3.Irreps([(mul, "0e") for mul, _ in gated])
    activations = {1: activation("silu"), -1: activation("tanh")}
    return Gate(
        scalars,
        [activations[ir.p] for _, ir in scalars],
        gates,
        [activations[1] for _ in gates],
        gated,
    )
