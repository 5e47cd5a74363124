"""What every peer must be: a model, its own batch of the common molecules, and energies with forces of it.

Imported by ``worker.py`` and the drivers in every environment, so it needs torch, NumPy and ASE and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn


@dataclass(frozen=True)
class Molecules:
    """The molecules that all peers are given, with labels.

    Attributes
    ----------
    numbers, positions, forces
        ``(n_atoms,)``, ``(n_atoms, 3)`` in Å, ``(n_atoms, 3)`` in eV/Å: one molecule behind the other.
    sizes
        ``(n_molecules,)``: atoms of each.
    energies
        ``(n_molecules,)``, eV, less a sum over atoms that fits the compositions: float32 keeps its digits.
    hessians
        ``(n_molecules, 3 max(N), 3 max(N))``, eV/Å², zero behind each molecule's own rows and columns.
    """

    numbers: np.ndarray
    positions: np.ndarray
    sizes: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    hessians: np.ndarray

    @classmethod
    def load(cls, path: str | Path) -> Molecules:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**arrays)

    def save(self, path: str | Path) -> None:
        """Write all arrays into one NumPy archive."""
        np.savez(path, **vars(self))

    def atoms(self) -> list[Atoms]:
        """One ASE object for each molecule."""
        ends = np.cumsum(self.sizes)
        return [
            Atoms(numbers=self.numbers[end - size : end], positions=self.positions[end - size : end])
            for size, end in zip(self.sizes, ends, strict=True)
        ]


@dataclass(frozen=True)
class Labels:
    """What the loss compares with, as tensors of the training type (float32).

    Attributes
    ----------
    energy, forces, hessian, sizes
        As in :class:`Molecules`.
    molecule, slot
        ``(n_atoms,)``: molecule of each atom, and its place in it.
    """

    energy: Tensor
    forces: Tensor
    hessian: Tensor
    sizes: Tensor
    molecule: Tensor
    slot: Tensor

    @classmethod
    def of(cls, molecules: Molecules) -> Labels:
        """Labels of the molecules."""
        sizes = torch.from_numpy(molecules.sizes)
        molecule = torch.repeat_interleave(sizes)
        return cls(
            torch.from_numpy(molecules.energies).float(),
            torch.from_numpy(molecules.forces).float(),
            torch.from_numpy(molecules.hessians).float(),
            sizes,
            molecule,
            torch.arange(len(molecule)) - (sizes.cumsum(0) - sizes)[molecule],
        )

    def mean_square(self, error: Tensor) -> Tensor:
        """Mean over molecules of the mean square of ``(n_atoms, 3)``."""
        squares = torch.zeros_like(self.energy).index_add(0, self.molecule, error.square().sum(-1))
        return (squares / (3 * self.sizes)).mean()

    def rows(self, index: Tensor) -> Tensor:
        """Rows of the Hessians, row ``index[m]`` of molecule m, ``(n_atoms, 3)``."""
        row = self.hessian[torch.arange(len(index)), index].unflatten(-1, (-1, 3))
        return row[self.molecule, self.slot]


class Peer(ABC):
    """A model with a batch, trained as its users train it.

    A driver defines a subclass named ``Driver`` and gives :attr:`model`, :attr:`version`, :attr:`n_edges` and
    :meth:`energy_and_forces`. Neighbours are found in ``__init__``, as a data loader would.

    Parameters
    ----------
    molecules
        The batch.
    settings
        ``size`` (of the model, in the words of our configs), ``forces`` and ``hessian`` (loss weights, Å² and Å⁴),
        ``learning_rate``.
    """

    model: nn.Module
    version: str
    n_edges: int | None = None
    """Directed edges within the cutoff; ``None`` for a model that finds pairs itself in each step."""

    def __init__(self, molecules: Molecules, settings: dict[str, Any]) -> None:
        self.molecules, self.settings, self.size = molecules, settings, settings["size"]
        self.labels = Labels.of(molecules)
        self.positions = torch.from_numpy(molecules.positions).float()
        self.generator = torch.Generator().manual_seed(0)

    @abstractmethod
    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Energies ``(n_molecules,)`` and forces ``(n_atoms, 3)`` with their graph.

        ``positions`` is a leaf of shape ``(n_atoms, 3)`` that requires a gradient.
        """

    def start(self) -> None:
        """Make the optimizer; called once, when the model stands."""
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.settings["learning_rate"])

    @property
    def n_parameters(self) -> int:
        """Numbers that are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def works(self) -> dict[str, Callable[[], object]]:
        """Name of each piece of work -> what is timed. E-F-H alone means one Hessian row of each molecule."""
        return {
            "E-F": self.step,
            "E-F-H": partial(self.hessian_step, 1),
            "E-F-H, 2 rows": partial(self.hessian_step, 2),
            "Hessians": self.hessians,
        }

    def step(self) -> float:
        """One E-F training step; returns the loss."""
        return self._optimize(self._loss(*self.energy_and_forces(self._leaf())))

    def hessian_step(self, number: int) -> float:
        """One E-F-H training step on ``number`` random Hessian rows of each molecule; returns the loss."""
        indices = [self._draw() for _ in range(number)]
        energy, forces, rows = self.rows(self._leaf(), indices)
        errors = [
            self.labels.mean_square(row - self.labels.rows(index)) for row, index in zip(rows, indices, strict=True)
        ]
        loss = self._loss(energy, forces) + self.settings["hessian"] * torch.stack(errors).mean()
        return self._optimize(loss)

    def rows(self, positions: Tensor, indices: Sequence[Tensor]) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """Energies, forces and Hessian rows with their graph.

        Row ``indices[k][m]`` of molecule m lies in rows k, ``(n_atoms, 3)``: one backward pass serves all molecules.
        """
        energy, forces = self.energy_and_forces(positions)
        rows = [torch.autograd.grad(forces, positions, -self.one_hot(index), create_graph=True)[0] for index in indices]
        return energy, forces, rows

    def one_hot(self, index: Tensor) -> Tensor:
        """1 at component ``index[m]`` of molecule m, else 0, ``(n_atoms, 3)``."""
        component = 3 * self.labels.slot.unsqueeze(-1) + torch.arange(3)
        return (index[self.labels.molecule].unsqueeze(-1) == component).float()

    def hessians(self) -> Tensor:
        """Full Hessians, padded: one backward pass serves one row of every molecule, the best one can do by hand."""
        positions = self._leaf()
        _, forces = self.energy_and_forces(positions)
        result = torch.zeros_like(self.labels.hessian)
        for row in range(result.shape[1]):
            chosen = torch.zeros_like(forces)
            chosen[self.labels.slot == row // 3, row % 3] = -1.0
            (product,) = torch.autograd.grad(forces, positions, chosen, retain_graph=True)
            result[:, row].unflatten(-1, (-1, 3))[self.labels.molecule, self.labels.slot] = product.detach()
        return result

    def forces_error(self) -> float:
        """Relative error of the forces against a central difference of the energies, along the forces themselves."""
        energy, forces = self.energy_and_forces(self._leaf())
        assert energy.shape == self.labels.energy.shape, f"energies have the shape {tuple(energy.shape)}"
        assert forces.shape == self.positions.shape, f"forces have the shape {tuple(forces.shape)}"
        norm = forces.detach().double().norm()
        shift = (0.05 / norm * forces.detach()).float()  # Å
        upper, lower = (
            self.energy_and_forces((self.positions + sign * shift).requires_grad_(True))[0].detach().double().sum()
            for sign in (1, -1)
        )
        return float(abs((lower - upper) / (2 * 0.05) - norm) / norm)

    def rows_error(self, number: int) -> float:
        """Relative error of Hessian rows against central differences of the forces, one component of each molecule."""
        indices, length = [self._draw() for _ in range(number)], 0.005  # Å
        _, _, rows = self.rows(self._leaf(), indices)
        error, size = 0.0, 0.0
        for row, index in zip(rows, indices, strict=True):
            upper, lower = (
                self.energy_and_forces((self.positions + shift * self.one_hot(index)).requires_grad_(True))[1].detach()
                for shift in (length, -length)
            )
            difference = (lower.double() - upper.double()) / (2 * length)
            error += float((row.detach() - difference).square().sum())
            size += float(difference.square().sum())
        return float((error / size) ** 0.5)

    def _draw(self) -> Tensor:
        return (torch.rand(len(self.labels.sizes), generator=self.generator) * 3 * self.labels.sizes).long()

    def _leaf(self) -> Tensor:
        return self.positions.clone().requires_grad_(True)

    def _loss(self, energy: Tensor, forces: Tensor) -> Tensor:
        per_atom = ((energy - self.labels.energy) / self.labels.sizes).square().mean()
        return per_atom + self.settings["forces"] * self.labels.mean_square(forces - self.labels.forces)

    def _optimize(self, loss: Tensor) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()
