"""SchNetPack's SchNet with its defaults: shifted softplus, cosine cutoff, ``Forces`` as an output module."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.utils.data.dataloader
from peer import Molecules, Peer
from torch import Tensor

# SchNetPack 2.1.1 imports this name for an annotation; torch 2.13 no longer has it.
if not hasattr(torch.utils.data.dataloader, "T_co"):
    torch.utils.data.dataloader.T_co = TypeVar("T_co", covariant=True)  # type: ignore[attr-defined]

import schnetpack
import schnetpack.atomistic
import schnetpack.nn
import schnetpack.representation
from schnetpack import properties
from schnetpack.interfaces import AtomsConverter
from schnetpack.model import NeuralNetworkPotential
from schnetpack.transform import MatScipyNeighborList


class Driver(Peer):
    """SchNet with an ``Atomwise`` read-out."""

    version = schnetpack.__version__

    def __init__(self, molecules: Molecules, settings: dict[str, Any]) -> None:
        super().__init__(molecules, settings)
        size = self.size
        representation = schnetpack.representation.SchNet(
            n_atom_basis=size["width"],
            n_interactions=size["n_interactions"],
            radial_basis=schnetpack.nn.GaussianRBF(n_rbf=size["n_basis"], cutoff=size["cutoff"]),
            cutoff_fn=schnetpack.nn.CosineCutoff(size["cutoff"]),
        )
        self.model = NeuralNetworkPotential(
            representation,
            input_modules=[schnetpack.atomistic.PairwiseDistances()],
            output_modules=[
                schnetpack.atomistic.Atomwise(n_in=size["width"], output_key=properties.energy),
                schnetpack.atomistic.Forces(),
            ],
        )
        self.batch = AtomsConverter(MatScipyNeighborList(cutoff=size["cutoff"]))(molecules.atoms())
        self.n_edges = len(self.batch[properties.idx_i])

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """A pass of the whole ``NeuralNetworkPotential``."""
        results = self.model({**self.batch, properties.R: positions})
        return results[properties.energy], results[properties.forces]
