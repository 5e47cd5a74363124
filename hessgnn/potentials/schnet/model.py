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
from hessgnn.potentials.base import PotentialConfig, register
from hessgnn.potentials.blocks.layers import Activation, GaussianBasis, PolynomialCutoff, mlp
from hessgnn.potentials.blocks.radial import radial_functions
from hessgnn.potentials.closed_form import ClosedFormPotential
from hessgnn.potentials.schnet.derivatives import SchNetEvaluation


class Interaction(nn.Module):
    """One continuous-filter convolution with the dense layers around it."""

    def __init__(self, width: int, n_basis: int, act: str) -> None:
        super().__init__()
        self.filter = mlp(n_basis, width, width, act=act)
        self.before = nn.Linear(width, width, bias=False)
        self.after = nn.Sequential(nn.Linear(width, width), Activation(act), nn.Linear(width, width))

    def forward(self, x: Tensor, at_distances: Callable[[nn.Sequential], Tensor], pairs: Tensor) -> Tensor:
        """Update of the atom features ``(n_atoms, width)``, by messages both ways between pairs of atoms ``(2, n)``."""
        i, j = pairs
        features, filters = self.before(x), at_distances(self.filter)
        messages = x.new_zeros(x.shape).index_add(0, i, features.index_select(0, j) * filters)
        return self.after(messages.index_add(0, j, features.index_select(0, i) * filters))


@register("schnet")
class SchNet(ClosedFormPotential):
    """SchNet with a C² cutoff and smooth activations."""

    class Config(PotentialConfig):
        """Hyper-parameters; the defaults make a small model for molecules."""

        width: PositiveInt = Field(default=64, description="features of an atom")
        n_interactions: PositiveInt = Field(default=3, description="message-passing layers")
        n_basis: PositiveInt = Field(default=32, description="Gaussians that a distance is expanded in")
        activation: Literal["silu", "gelu", "softplus", "tanh"] = "silu"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        # An edge's filter serves the opposite edge too, so that even one layer does not leave each atom its own edges.
        self.n_hops = config.n_interactions if config.n_interactions > 1 else None
        self.embedding = nn.Embedding(len(config.elements), config.width)
        self.basis = GaussianBasis(config.cutoff, config.n_basis)
        self.envelope = PolynomialCutoff(config.cutoff)
        self.interactions = nn.ModuleList(
            Interaction(config.width, config.n_basis, config.activation) for _ in range(config.n_interactions)
        )
        self.readout = mlp(config.width, config.width // 2, 1, act=config.activation)

    def atomic_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each atom, ``(n_atoms,)``."""
        # A filter depends on the distance alone, so that both directions of a pair share it.
        once = batch.pair_edges()
        distances = batch.edge_vectors(once).norm(dim=-1)
        pairs = batch.edge_index.index_select(1, once)
        at_distances = radial_functions(distances, self.basis, self.envelope, batch.derivatives)
        x = self.embedding(self.species(batch))
        for interaction in self.interactions:
            x = x + interaction(x, at_distances, pairs)
        return self.readout(x).squeeze(-1)

    def evaluate(self, batch: Batch, vectors: Tensor) -> SchNetEvaluation:
        """Energies, gradient and products by the formulas."""
        return SchNetEvaluation(self, batch, vectors)

    def product_bytes(self, batch: Batch) -> int:
        """See :meth:`ClosedFormPotential.product_bytes`."""
        n_atoms, n_edges, n_layers = len(batch.numbers), batch.edge_index.shape[1], len(self.interactions)
        # Of a layer about a dozen arrays of the atoms are kept and one of the pairs; in passing, three of the edges.
        numbers = n_layers * (12 * n_atoms + n_edges // 2) + 3 * n_edges
        return numbers * self.embedding.embedding_dim * batch.positions.itemsize
