"""A molecule held by springs between all its atoms, as a potential: its minimum and its energies are known."""

from __future__ import annotations

import torch
from ase import Atoms
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential, PotentialConfig


class PairSprings(Potential):
    """``E = Σ_{i<j} k (r_ij - r⁰_ij)² / 2`` for any number of copies of one molecule."""

    rest: Tensor

    @classmethod
    def of(cls, atoms: Atoms, stiffness: float = 20.0) -> PairSprings:
        potential = cls(PotentialConfig(elements=tuple(atoms.numbers), cutoff=20.0))
        potential.register_buffer("rest", torch.from_numpy(atoms.get_all_distances()))
        potential.scale.fill_(stiffness)
        return potential.double()

    def atomic_energies(self, batch: Batch) -> Tensor:
        i, j = batch.edge_index
        stretch = batch.edge_vectors().norm(dim=-1) - self.rest[batch.slot[i], batch.slot[j]]
        return stretch.new_zeros(len(batch.numbers)).index_add(0, i, stretch.square() / 4)
