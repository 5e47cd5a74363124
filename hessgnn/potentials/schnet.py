"""SchNet-like potential: continuous-filter convolutions on distances, made smooth enough for Hessians.

Schütt et al., "SchNet: A continuous-filter convolutional neural network for modeling quantum interactions"
(NeurIPS 2017). Two changes: the cosine cutoff became a C² polynomial, and nothing in the network is less smooth than
the activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential, PotentialConfig
from hessgnn.potentials.blocks import GaussianBasis, PolynomialCutoff, activation, mlp
from hessgnn.potentials.radial import radial_functions
from hessgnn.potentials.registry import register


class Interaction(nn.Module):
    """One continuous-filter convolution with the dense layers around it."""

    def __init__(self, width: int, n_basis: int, act: str) -> None:
        super().__init__()
        self.filter = mlp(n_basis, width, width, act=act)
        self.before = nn.Linear(width, width, bias=False)
        self.after = nn.Sequential(nn.Linear(width, width), activation(act), nn.Linear(width, width))

    def forward(self, x: Tensor, at_distances: Callable[[nn.Sequential], Tensor], batch: Batch) -> Tensor:
        """Update of the atom features ``(n_atoms, width)``."""
        i, j = batch.edge_index
        message = self.before(x).index_select(0, j) * at_distances(self.filter)
        return self.after(message.new_zeros(x.shape).index_add(0, i, message))


@register("schnet")
class SchNet(Potential):
    """SchNet with a C² cutoff and smooth activations."""

    class Config(PotentialConfig):
        """Hyper-parameters; the defaults make a small model for molecules."""

        width: PositiveInt = Field(default=64, description="features of an atom")
        n_interactions: PositiveInt = Field(default=3, description="message-passing layers")
        n_basis: PositiveInt = Field(default=32, description="Gaussians that a distance is expanded in")
        activation: Literal["silu", "gelu", "softplus", "tanh"] = "silu"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_hops = config.n_interactions
        self.embedding = nn.Embedding(len(config.elements), config.width)
        self.basis = GaussianBasis(config.cutoff, config.n_basis)
        self.envelope = PolynomialCutoff(config.cutoff)
        self.interactions = nn.ModuleList(
            Interaction(config.width, config.n_basis, config.activation) for _ in range(config.n_interactions)
        )
        self.readout = mlp(config.width, config.width // 2, 1, act=config.activation)

    def atomic_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each atom, ``(n_atoms,)``."""
        distances = batch.edge_vectors().norm(dim=-1)
        at_distances = radial_functions(distances, self.basis, self.envelope, batch.derivatives)
        x = self.embedding(self.species(batch))
        for interaction in self.interactions:
            x = x + interaction(x, at_distances, batch)
        return self.readout(x).squeeze(-1)
