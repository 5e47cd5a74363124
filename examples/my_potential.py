"""An architecture of your own in one file: a moment potential, trainable as ``examples.my_potential:MyPotential``.

Each atom collects the zeroth, first and second moment of its neighbours' directions, weighted by learned functions of
distance and element (Baskes, Phys. Rev. B 46, 2727 (1992), made learnable). A network turns the rotational invariants
of the moments into the atom's energy. Train it with ``potential: {name: "examples.my_potential:MyPotential"}``, and
try whether it is fit for Hessians with ``hessgnn check examples.my_potential:MyPotential``.
"""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential, PotentialConfig
from hessgnn.potentials.blocks.layers import BesselBasis, PolynomialCutoff, mlp


class MyPotential(Potential):
    """Learnable moments of neighbours, their invariants, and one network."""

    class Config(PotentialConfig):
        """Hyper-parameters: each is a key of the YAML file, checked, and shown by ``hessgnn models``."""

        width: PositiveInt = Field(default=32, description="moments of each order")
        n_basis: PositiveInt = Field(default=8, description="functions that a distance is expanded in")

    n_hops = 1  # an atom hears its own neighbours only, so Hessians of large structures take few products

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.centre = nn.Embedding(len(config.elements), config.width)
        self.neighbour = nn.Embedding(len(config.elements), config.width)
        self.radial = nn.Linear(config.n_basis, config.width, bias=False)
        self.basis = BesselBasis(config.cutoff, config.n_basis)
        self.envelope = PolynomialCutoff(config.cutoff)  # C² at the cutoff, as the Hessian needs
        self.readout = mlp(4 * config.width, config.width, config.width, 1, act="silu")

    def atomic_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each atom, ``(n_atoms,)``: all that an architecture writes."""
        species, (i, j) = self.species(batch), batch.edge_index
        vectors = batch.edge_vectors()  # never the positions themselves: this holds the periodic shift
        distances = vectors.norm(dim=-1, keepdim=True)
        unit = vectors / distances
        weight = self.radial(self.basis(distances.squeeze(-1))) * self.envelope(distances)
        weight = weight * self.neighbour(species)[j]

        directions = torch.cat([torch.ones_like(distances), unit, _traceless(unit)], dim=1)  # (n_edges, 1 + 3 + 9)
        per_edge = weight.unsqueeze(1) * directions.unsqueeze(2)
        moments = per_edge.new_zeros(len(species), *per_edge.shape[1:]).index_add(0, i, per_edge)
        zeroth, first, second = moments.split([1, 3, 9], dim=1)
        invariants = [zeroth.squeeze(1), first.square().sum(1), second.square().sum(1)]
        return self.readout(torch.cat([self.centre(species), *invariants], dim=1)).squeeze(-1)


def _traceless(unit: Tensor) -> Tensor:
    outer = unit.unsqueeze(2) * unit.unsqueeze(1)
    return (outer - torch.eye(3).to(unit) / 3).flatten(1)
