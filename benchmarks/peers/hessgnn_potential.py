"""Our own potentials, with the step that our trainer takes: its loss, gradient clipping and AdamW."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Literal

import torch
from ase.data import atomic_numbers
from hessgnn_bench.timing import TrainingStep
from peer import Molecules, Peer
from torch import Tensor

import hessgnn
from hessgnn.curvature.hessian import padded_hessians
from hessgnn.data.batch import Batch
from hessgnn.data.structure import Structure
from hessgnn.training.config import LossConfig, ProbeConfig
from hessgnn.training.optimizer import Update

PER_ATOM: Literal["per_atom"] = "per_atom"
"""Form of the energy term that all peers have."""


class Driver(Peer):
    """A registered potential."""

    version = version("hessgnn")

    def __init__(self, molecules: Molecules, settings: dict[str, Any]) -> None:
        super().__init__(molecules, settings)
        self.model = hessgnn.create(
            settings["architecture"], elements=[atomic_numbers[s] for s in settings["elements"]], **self.size
        )
        ends = molecules.sizes.cumsum()
        structures = [
            Structure(
                name="",
                numbers=molecules.numbers[end - n : end],
                positions=molecules.positions[end - n : end],
                energy=energy,
                forces=molecules.forces[end - n : end],
                hessian=hessian[: 3 * n, : 3 * n],
            )
            for n, end, energy, hessian in zip(
                molecules.sizes, ends, molecules.energies, molecules.hessians, strict=True
            )
        ]
        self.batch = Batch.from_structures(structures, self.model.cutoff, torch.float32)
        self.n_edges = self.batch.edge_index.shape[1]

    def start(self) -> None:
        """Make the trainer's steps, with and without Hessian rows, on one optimizer."""
        super().start()
        weight, rows = self.settings["forces"], ProbeConfig(kind="rows", number=1)
        self.steps = {
            0.0: TrainingStep(self.model, self.batch, LossConfig(forces=weight, hessian=0.0, energy_form=PER_ATOM)),
            1.0: TrainingStep(
                self.model,
                self.batch,
                LossConfig(forces=weight, hessian=self.settings["hessian"], probes=rows, energy_form=PER_ATOM),
            ),
        }
        for step in self.steps.values():
            step.update = Update(self.model.parameters(), [self.optimizer], step.update.clip)

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """For the check of the forces only."""
        prediction = self.model(self.batch.replace(positions=positions), forces=True, create_graph=True)
        return prediction.energy, prediction.forces

    def step(self) -> float:
        """The trainer's E-F step."""
        return float(self.steps[0.0]())

    def hessian_step(self) -> float:
        """The trainer's step with one Hessian row of each molecule."""
        return float(self.steps[1.0]())

    def hessians(self) -> Tensor:
        """Our full Hessians."""
        return padded_hessians(self.model, self.batch)
