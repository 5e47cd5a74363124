"""Batches of a few fixed sizes, for what is recorded once and replayed: compiled steps and CUDA graphs.

Batches are padded with dummy structures: atoms of an element that the batch holds, each with neighbours that are its
own periodic images just inside the cutoff. An architecture treats them like any other structure and need not know of
them; a loss gives them no weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessgnn.data.batch import Batch

Lengths = Sequence[int] | NDArray[np.int64]

GROWTH = 1.25
"""Ratio of neighbouring sizes: the batches of a run share two or three, about a fifth larger than they are."""

_DISTANCE = 0.95  # of filler neighbours, in cutoffs: as legal as any, outside most angular parts
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


@dataclass(frozen=True)
class Size:
    """Lengths of a batch's axes."""

    n_structures: int
    n_atoms: int
    n_edges: int

    @classmethod
    def of(cls, batch: Batch) -> Size:
        """Size of a batch."""
        return cls(batch.n_structures, len(batch.numbers), batch.edge_index.shape[1])

    def holds(self, other: Size) -> bool:
        """Whether a batch of another size can be filled up to this one, each filler structure with an atom at least."""
        fillers = self.n_structures - other.n_structures
        return fillers > 0 and self.n_atoms - other.n_atoms >= fillers and self.n_edges >= other.n_edges


class Buckets:
    """Sizes that batches are padded to: a geometric ladder, one rung of which is the size that holds most batches."""

    def __init__(self, size: Size) -> None:
        self.size = size

    @classmethod
    def of(cls, n_atoms: Lengths, n_edges: Lengths, batch_size: int) -> Buckets:
        """Choose the ladder for batches drawn at random: mean and one standard deviation of their size.

        ``n_atoms`` and ``n_edges`` are those of each structure of the data set.
        """
        atoms, edges = (batch_size * np.mean(n) + math.sqrt(batch_size) * np.std(n) for n in (n_atoms, n_edges))
        return cls(Size(batch_size, math.ceil(atoms), math.ceil(edges)))

    def for_size(self, size: Size) -> Size:
        """Smallest rung that holds a size; its number of edges is even, as both orders of each pair are present."""
        ratios = (
            size.n_structures / self.size.n_structures,
            size.n_atoms / max(self.size.n_atoms, 1),
            size.n_edges / max(self.size.n_edges, 1),
        )
        step = math.ceil(math.log(max(ratios), GROWTH)) - 1
        while not (rung := self._rung(step)).holds(size):
            step += 1
        return rung

    def _rung(self, step: int) -> Size:
        factor = GROWTH**step
        return Size(
            math.ceil(factor * self.size.n_structures) + 1,
            math.ceil(factor * self.size.n_atoms) + 2,
            2 * math.ceil(factor * self.size.n_edges / 2),
        )


def pad_to(batch: Batch, size: Size, cutoff: float) -> Batch:
    """Append dummy structures to a batch until it has a given size, which must hold it.

    The result has no labels, and the index of a dummy structure is -1; ``cutoff``, Å, is that of the neighbour list.
    Raises :class:`ValueError` when the size does not hold the batch.
    """
    own = Size.of(batch)
    if not size.holds(own) or (size.n_edges - own.n_edges) % 2:
        raise ValueError(f"{own} cannot be filled up to {size}")
    device, dtype = batch.positions.device, batch.positions.dtype
    structures, atoms = size.n_structures - own.n_structures, size.n_atoms - own.n_atoms
    # All is made where the batch lies: copies to a device would wait for it.
    n_atoms = torch.ones(structures, dtype=torch.int64, device=device)
    n_atoms[-1] += atoms - structures
    pairs = torch.arange((size.n_edges - own.n_edges) // 2, device=device)
    centre = own.n_atoms + (pairs % atoms)
    shift = cutoff * _DISTANCE * _half_sphere(len(pairs), device).to(dtype)
    # Apart from each other, so that what looks at pairs beyond the neighbour list finds no atoms on top of each other.
    positions = torch.zeros(atoms, 3, dtype=dtype, device=device)
    positions[:, 0] = 2 * cutoff * torch.arange(atoms, device=device)

    def join(own_values: Tensor, filler: Tensor, axis: int = 0) -> Tensor:
        return torch.cat([own_values, filler], axis)

    return Batch(
        numbers=torch.cat([batch.numbers, batch.numbers[:1].expand(atoms)]),
        positions=join(batch.positions, positions),
        batch=join(batch.batch, own.n_structures + torch.repeat_interleave(n_atoms, output_size=atoms)),
        n_atoms=join(batch.n_atoms, n_atoms),
        edge_index=join(batch.edge_index, torch.cat([centre, centre]).expand(2, -1), 1),
        edge_shift=join(batch.edge_shift, torch.cat([shift, -shift])),
        index=None if batch.index is None else join(batch.index, torch.full((structures,), -1, device=device)),
        pairs=join(batch.pair_edges(), own.n_edges + pairs),
    )


def _half_sphere(n: int, device: torch.device) -> Tensor:
    """Unit vectors of which no two are equal or opposite, ``(n, 3)``: a Fibonacci spiral."""
    k = torch.arange(n, dtype=torch.float64, device=device)
    z = (k + 0.5) / max(n, 1)
    r, angle = (1 - z.square()).sqrt(), _GOLDEN_ANGLE * k
    return torch.stack([r * angle.cos(), r * angle.sin(), z], -1)
