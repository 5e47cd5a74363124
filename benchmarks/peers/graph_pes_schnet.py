"""SchNet of graph-pes: shifted softplus and, as in the original paper, no cutoff function."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from graph_pes import AtomicGraph
from graph_pes.atomic_graph import number_of_edges, replace, sum_per_structure, to_batch
from graph_pes.models import SchNet
from peer import Molecules, Peer
from torch import Tensor


class Driver(Peer):
    """Its ``predict`` without the neighbour list that it trims: the graph has the model's cutoff already."""

    version = version("graph-pes")

    def __init__(self, molecules: Molecules, settings: dict[str, Any]) -> None:
        super().__init__(molecules, settings)
        size = self.size
        self.model = SchNet(
            cutoff=size["cutoff"],
            channels=size["width"],
            expansion_features=size["n_basis"],
            layers=size["n_interactions"],
        )
        self.graph = to_batch([AtomicGraph.from_ase(atoms, size["cutoff"]) for atoms in molecules.atoms()])
        self.n_edges = number_of_edges(self.graph)

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The steps of ``GraphPESModel.predict`` with positions that the Hessian can be taken in."""
        graph = replace(self.graph, R=positions)
        energy = sum_per_structure(self.model(graph)["local_energies"], graph)
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        return energy, -gradient
