"""Batches of a few fixed sizes, for what is recorded once and replayed: compiled steps and CUDA graphs.

Batches are padded with dummy structures: atoms of elements that the batch holds, each with neighbours that are its
own periodic images just inside the cutoff. An architecture treats them like any other structure and need not know of
them; a loss gives them no weight. Where an architecture has a network for each element (ANI), the number of atoms of
each element is padded too: it is the length of an axis there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessgnn.data.batch import Batch, element_counts_of

Lengths = Sequence[int] | NDArray[np.int64]

GROWTH = 1.25
"""Ratio of neighbouring sizes: the batches of a run share two or three, about a fifth larger than they are."""

_DISTANCE = 0.95  # of filler neighbours, in cutoffs: as legal as any, outside most angular parts
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


_SLACK, _ELEMENT_SLACK = 1, 2  # standard deviations above the mean; rare elements vary most, and an atom costs little


@dataclass(frozen=True)
class Size:
    """Lengths of a batch's axes.

    ``elements`` holds pairs of atomic number and number of atoms, for the elements that are there; nothing where
    these numbers need not be fixed.
    """

    n_structures: int
    n_atoms: int
    n_edges: int
    n_triplets: int = 0
    elements: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, batch: Batch, *, by_element: bool = False) -> Size:
        """Size of a batch, with the number of atoms of each element if asked for."""
        n_triplets = 0 if batch.triplets is None else batch.triplets.shape[1]
        elements: tuple[tuple[int, int], ...] = ()
        if by_element:
            counts = batch.element_counts or element_counts_of(batch.numbers.cpu().numpy())
            elements = tuple(sorted(counts.items()))
        return cls(batch.n_structures, len(batch.numbers), batch.edge_index.shape[1], n_triplets, elements)

    def holds(self, other: Size) -> bool:
        """Whether a batch of another size can be filled up to this one, each filler structure with an atom at least."""
        fillers, counts = self.n_structures - other.n_structures, dict(self.elements)
        return (
            fillers > 0
            and self.n_atoms - other.n_atoms >= fillers
            and self.n_edges >= other.n_edges
            and self.n_triplets >= other.n_triplets
            # A triplet is filled up with two edges that are fillers too.
            and (self.n_triplets == other.n_triplets or self.n_edges > other.n_edges)
            and all(counts.get(z, 0) >= n for z, n in other.elements)
        )


class Buckets:
    """Sizes that batches are padded to: a geometric ladder, one rung of which is the size that holds most batches."""

    def __init__(self, size: Size) -> None:
        self.size = size

    @classmethod
    def of(
        cls,
        n_atoms: Lengths,
        n_edges: Lengths,
        batch_size: int,
        n_triplets: Lengths | None = None,
        elements: Mapping[int, Lengths] | None = None,
    ) -> Buckets:
        """Choose the ladder for batches drawn at random: mean and one standard deviation of their size.

        All numbers are those of each structure of the data set; ``elements`` are its atoms of each element, of which
        two standard deviations are added.
        """

        def rung(n: Lengths, slack: float) -> int:
            return math.ceil(batch_size * np.mean(n) + slack * math.sqrt(batch_size) * np.std(n))

        counts = {z: rung(n, _ELEMENT_SLACK) for z, n in (elements or {}).items()}
        return cls(
            Size(
                batch_size,
                rung(n_atoms, _SLACK),
                rung(n_edges, _SLACK),
                0 if n_triplets is None else rung(n_triplets, _SLACK),
                tuple(sorted(counts.items())),
            )
        )

    def for_size(self, size: Size) -> Size:
        """Smallest rung that holds a size; its number of edges is even, as both orders of each pair are present."""
        base, own = dict(self.size.elements), self.size
        pairs = [
            (size.n_structures, own.n_structures),
            (size.n_edges, own.n_edges),
            (size.n_triplets, own.n_triplets),
            *((n, base.get(z, 0)) for z, n in size.elements),
        ]
        if not size.elements:
            pairs.append((size.n_atoms, own.n_atoms))
        step = math.ceil(math.log(max(n / max(typical, 1) for n, typical in pairs), GROWTH)) - 1
        while not (rung := self._rung(step, size)).holds(size):
            step += 1
        return rung

    def _rung(self, step: int, size: Size) -> Size:
        """A rung for batches that hold triplets and elements as this one does: what is absent is not filled up."""
        factor, base = GROWTH**step, dict(self.size.elements)
        elements = tuple((z, math.ceil(factor * max(base.get(z, 0), 1))) for z, _ in size.elements)
        return Size(
            math.ceil(factor * self.size.n_structures) + 1,
            sum(n for _, n in elements) if elements else math.ceil(factor * self.size.n_atoms) + 2,
            2 * math.ceil(factor * self.size.n_edges / 2),
            math.ceil(factor * self.size.n_triplets) if size.n_triplets else 0,
            elements,
        )


class AnyOf(Buckets):
    """Sizes of several ladders, for batches of several kinds: the smallest that holds a batch."""

    def __init__(self, ladders: Sequence[Buckets]) -> None:
        super().__init__(ladders[0].size)
        self.ladders = list(ladders)

    def for_size(self, size: Size) -> Size:
        """Smallest rung of any ladder that holds a size."""
        return min((ladder.for_size(size) for ladder in self.ladders), key=lambda rung: (rung.n_edges, rung.n_atoms))


def pad_to(batch: Batch, size: Size, cutoff: float) -> Batch:
    """Append dummy structures to a batch until it has a given size, which must hold it.

    The result has no labels, and the index of a dummy structure is -1; ``cutoff``, Å, is that of the neighbour list.
    Raises :class:`ValueError` when the size does not hold the batch.
    """
    own = Size.of(batch, by_element=bool(size.elements))
    if not size.holds(own) or (size.n_edges - own.n_edges) % 2:
        raise ValueError(f"{own} cannot be filled up to {size}")
    device, dtype = batch.positions.device, batch.positions.dtype
    structures, atoms = size.n_structures - own.n_structures, size.n_atoms - own.n_atoms
    # All is made where the batch lies: copies to a device would wait for it.
    n_atoms = torch.ones(structures, dtype=torch.int64, device=device)
    n_atoms[-1] += atoms - structures
    n_pairs = (size.n_edges - own.n_edges) // 2
    pairs = torch.arange(n_pairs, device=device)
    centre = own.n_atoms + (pairs % atoms)
    shift = cutoff * _DISTANCE * _half_sphere(n_pairs, device).to(dtype)
    # Apart from each other, so that what looks at pairs beyond the neighbour list finds no atoms on top of each other.
    positions = torch.zeros(atoms, 3, dtype=dtype, device=device)
    positions[:, 0] = 2 * cutoff * torch.arange(atoms, device=device)
    numbers, triplets = batch.numbers[:1].expand(atoms), batch.triplets

    def join(own_values: Tensor, filler: Tensor, axis: int = 0) -> Tensor:
        return torch.cat([own_values, filler], axis)

    if size.elements:
        missing = Counter(dict(size.elements)) - Counter(dict(own.elements))
        values = (batch.numbers.new_full((number,), z) for z, number in missing.items())
        numbers = torch.cat(list(values))
    if triplets is not None and size.n_triplets > own.n_triplets:
        # The two opposite edges of a pair, again and again: nothing is added up behind the angular cutoff.
        pair = own.n_edges + torch.arange(size.n_triplets - own.n_triplets, device=device) % n_pairs
        triplets = join(triplets, torch.stack([pair, pair + n_pairs]), 1)
    return Batch(
        numbers=join(batch.numbers, numbers),
        positions=join(batch.positions, positions),
        batch=join(batch.batch, own.n_structures + torch.repeat_interleave(n_atoms, output_size=atoms)),
        n_atoms=join(batch.n_atoms, n_atoms),
        edge_index=join(batch.edge_index, torch.cat([centre, centre]).expand(2, -1), 1),
        edge_shift=join(batch.edge_shift, torch.cat([shift, -shift])),
        index=None if batch.index is None else join(batch.index, torch.full((structures,), -1, device=device)),
        triplets=triplets,
        pairs=join(batch.pair_edges(), own.n_edges + pairs),
        element_counts=dict(size.elements) or None,
    )


def _half_sphere(n: int, device: torch.device) -> Tensor:
    """Unit vectors of which no two are equal or opposite, ``(n, 3)``: a Fibonacci spiral."""
    k = torch.arange(n, dtype=torch.float64, device=device)
    z = (k + 0.5) / max(n, 1)
    r, angle = (1 - z.square()).sqrt(), _GOLDEN_ANGLE * k
    return torch.stack([r * angle.cos(), r * angle.sin(), z], -1)
