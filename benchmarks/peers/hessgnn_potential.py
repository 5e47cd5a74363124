"""Our own potentials with the step of our trainer: its loss, gradient (eager or compiled), clipping and AdamW."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from ase.data import atomic_numbers
from peer import Molecules, Peer
from torch import Tensor

import hessgnn
from hessgnn.curvature.hessian import padded_hessians
from hessgnn.data.loader import Loader
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.training.build import build_gradient
from hessgnn.training.config import RunConfig, TrainingConfig
from hessgnn.training.distributed import Ranks
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.loss_config import LossConfig, ProbeConfig
from hessgnn.training.optimizer import Update

PER_ATOM: Literal["per_atom"] = "per_atom"
"""Form of the energy term that all peers have."""


class Driver(Peer):
    """A registered potential; ``settings["step"]`` is ``training.step``."""

    version = version("hessgnn")

    def __init__(self, molecules: Molecules, settings: dict[str, Any]) -> None:
        super().__init__(molecules, settings)
        self.model = hessgnn.create(
            settings["architecture"], elements=[atomic_numbers[s] for s in settings["elements"]], **self.size
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "molecules.h5"
            write_store(path, _structures(molecules), level_of_theory="given")
            number = len(molecules.sizes)
            # In the order of the labels. Compiled batches are filled up to what training on these molecules would take.
            self.loader = Loader(
                Store.open(path),
                range(number),
                self.model.cutoff,
                number,
                torch.float32,
                triplet_cutoff=self.model.triplet_cutoff,
            )
            self.batch = self.loader.batch(0)
            assert len(self.loader.n_edges) == number  # counted while the file is there
        self.n_edges = self.batch.edge_index.shape[1]

    def start(self) -> None:
        """Make the trainer's update; gradients are made when they are first asked for, as compiling takes long."""
        super().start()
        self.update = Update(self.model.parameters(), [self.optimizer], TrainingConfig().clip)
        self.steps: dict[int, Any] = {}

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """For the check of the forces only."""
        prediction = self.model(self.batch.replace(positions=positions), forces=True, create_graph=True)
        return prediction.energy, prediction.forces

    def rows(self, positions: Tensor, indices: Sequence[Tensor]) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """For the check of the rows only: the products that our loss is made of."""
        vectors = torch.stack([self.one_hot(index) for index in indices])
        prediction = self.model(
            self.batch.replace(positions=positions), forces=True, vectors=vectors, create_graph=True, backend="vmap"
        )
        return prediction.energy, prediction.forces, list(prediction.products)

    def step(self) -> float:
        """The trainer's E-F step."""
        return self._train(0)

    def hessian_step(self, number: int) -> float:
        """The trainer's step on Hessian rows of each molecule."""
        return self._train(number)

    def hessians(self) -> Tensor:
        """Our full Hessians."""
        return padded_hessians(self.model, self.batch)

    def _train(self, rows: int) -> float:
        weights = Weights(self.settings["forces"], self.settings["hessian"] if rows else 0.0)
        if rows not in self.steps:
            config = RunConfig(
                data={"path": "molecules"},
                potential={"name": self.settings["architecture"]},
                loss=LossConfig(
                    forces=weights.forces,
                    hessian=weights.hessian,
                    probes=ProbeConfig(kind="rows", number=max(rows, 1)),
                    energy_form=PER_ATOM,
                ),
                training={"step": self.settings.get("step", "eager"), "batch_size": len(self.labels.sizes)},
            )
            loss = Loss(config.loss)
            self.steps[rows] = loss, build_gradient(config, loss, self.model, [self.loader], Ranks())
        loss, gradient = self.steps[rows]
        (part,) = loss.parts(self.batch, weights, self.generator)
        totals: list[Tensor] = []

        def evaluate() -> Tensor:
            totals.append(part.total(gradient(part)))
            return totals[-1]

        self.update(evaluate)
        return float(totals[0])


def _structures(molecules: Molecules) -> list[Structure]:
    ends = molecules.sizes.cumsum()
    return [
        Structure(
            name=f"molecule {i}",
            numbers=molecules.numbers[end - n : end],
            positions=molecules.positions[end - n : end],
            energy=energy,
            forces=molecules.forces[end - n : end],
            hessian=hessian[: 3 * n, : 3 * n],
        )
        for i, (n, end, energy, hessian) in enumerate(
            zip(molecules.sizes, ends, molecules.energies, molecules.hessians, strict=True)
        )
    ]
