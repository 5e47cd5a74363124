"""A potential of two numbers: compiled in a moment."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential, PotentialConfig


class PairEnergy(Potential):
    """``ε_i = Σ_j a exp(-b r_ij)``."""

    def __init__(self, config: PotentialConfig) -> None:
        super().__init__(config)
        self.a, self.b = nn.Parameter(torch.ones(())), nn.Parameter(torch.full((), 0.7))

    def atomic_energies(self, batch: Batch) -> Tensor:
        distances = batch.edge_vectors().norm(dim=-1)
        terms = self.a * torch.exp(-self.b * distances)
        return terms.new_zeros(len(batch.numbers)).index_add(0, batch.edge_index[0], terms)
