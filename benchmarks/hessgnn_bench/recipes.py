"""What others do to learn from Hessians, written from their descriptions with nothing but ``torch.autograd.grad``.

Each function is a loss with its graph. All share the energy and force terms and the weights of this package's loss, so
that they differ in what they do about the Hessian alone, and each is an unbiased estimate of (or equal to) the same
``‖ΔH‖²_F / 9N²``. Every structure of the batch must carry all labels. ``reference`` takes their Hessians as matrices
(:meth:`hessgnn.data.labels.Hessians.dense`) where a caller has them already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from hessgnn.data.batch import Batch
from hessgnn.data.labels import Labels
from hessgnn.potentials.base import Potential
from hessgnn.training.loss import Weights

Recipe = Callable[[Potential, Batch, Weights, Generator], Tensor]
"""What every recipe takes and gives.

From a potential, a batch whose structures carry all labels, the weights of forces (Å²) and Hessian (Å⁴), and a source
of randomness on the CPU, to the loss: a float64 scalar in eV², with its graph.
"""


def horm(
    potential: Potential,
    batch: Batch,
    weights: Weights,
    generator: Generator,
    rows: int = 2,
    reference: Tensor | None = None,
) -> Tensor:
    """HORM: a few random rows of each Hessian in each step.

    One ``autograd.grad`` with a one-hot for each molecule gives one row of every molecule, since molecules do not
    interact. Cui et al., "HORM: a large scale molecular Hessian database for optimizing reactive machine learning
    interatomic potentials", arXiv 2505.12447; two rows for each molecule and step, drawn without replacement.
    """
    graph = _Graph.of(potential, batch, reference)
    order = [torch.randperm(3 * n, generator=generator)[:rows].tolist() for n in batch.n_atoms.tolist()]
    chosen = [[row[k] if k < len(row) else None for row in order] for k in range(max(map(len, order)))]
    share = batch.n_atoms.new_tensor([len(row) for row in order]) / (3 * batch.n_atoms.double())
    return graph.loss(weights, graph.squares_of_rows(chosen) / share)


def projected(potential: Potential, batch: Batch, weights: Weights, generator: Generator) -> Tensor:
    """Projected Hessian Learning: one Gaussian probe for each molecule and step.

    arXiv 2603.04523: ``‖ΔH v‖² / (3N)²`` with v ~ N(0, 1), drawn anew in each step.
    """
    graph = _Graph.of(potential, batch, None)
    vector = torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64).to(batch.positions)
    return graph.loss(weights, graph.squares(vector))


def full(
    potential: Potential,
    batch: Batch,
    weights: Weights,
    generator: Generator,  # noqa: ARG001 (one signature for all)
    reference: Tensor | None = None,
) -> Tensor:
    """All rows of every Hessian in each step, one row of every molecule after the other.

    As torchani's ``hessians`` loops over the force components, here with a graph, as a loss needs it; this is how
    arXiv 2503.07839 trains on full Hessians.
    """
    graph = _Graph.of(potential, batch, reference)
    sizes = (3 * batch.n_atoms).tolist()
    chosen = [[row if row < size else None for size in sizes] for row in range(max(sizes))]
    return graph.loss(weights, graph.squares_of_rows(chosen))


@dataclass(frozen=True)
class _Graph:
    """Energies and their gradient, as anyone writes it."""

    batch: Batch
    labels: Labels
    positions: Tensor
    energy: Tensor
    gradient: Tensor
    reference: Tensor
    first_atom: Sequence[int]

    @classmethod
    def of(cls, potential: Potential, batch: Batch, reference: Tensor | None) -> _Graph:
        assert batch.labels is not None, "a loss needs labels"
        if reference is None:
            reference = batch.labels.hessian
        positions = batch.positions.clone().requires_grad_(True)
        energy = potential.total_energy(batch.replace(positions=positions))
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        return cls(batch, batch.labels, positions, energy, gradient, reference, batch.first_atom.tolist())

    def squares(self, vector: Tensor) -> Tensor:
        """``‖ΔH v‖²`` of each structure for a vector ``(n_atoms, 3)``, eV²/Å⁴."""
        (product,) = torch.autograd.grad(self.gradient, self.positions, vector, create_graph=True)
        reference = torch.einsum("sij,sj->si", self.reference, self.batch.pad(vector))
        return (self.batch.pad(product) - reference).double().square().sum(-1)

    def squares_of_rows(self, chosen: Iterable[list[int | None]]) -> Tensor:
        """Sum of ``‖ΔH e_r‖²`` over rows r: in each turn one for each structure, or none."""
        total = torch.zeros_like(self.energy)
        for rows in chosen:
            one_hot = np.zeros(self.positions.shape)
            for first, row in zip(self.first_atom, rows, strict=True):
                if row is not None:
                    one_hot[first + row // 3, row % 3] = 1.0
            total = total + self.squares(torch.from_numpy(one_hot).to(self.positions))
        return total

    def loss(self, weights: Weights, hessian: Tensor) -> Tensor:
        """Energy, force and Hessian terms; ``hessian`` stands for ``‖ΔH‖²_F`` of each structure."""
        n = self.batch.n_atoms.double()
        energy = (self.energy - self.labels.energy).square() / n.sqrt()
        forces = self.batch.sum_per_structure((self.gradient + self.labels.forces).double().square().sum(-1)) / (3 * n)
        return (energy + weights.forces * forces + weights.hessian * hessian / (9 * n.square())).mean()
