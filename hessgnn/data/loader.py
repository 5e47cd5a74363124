"""Batches of a split, in an order that depends on nothing but the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from hessgnn.data.batch import Batch
from hessgnn.data.modes import reference_modes
from hessgnn.data.neighbors import neighbors, triplets
from hessgnn.data.store import Store


class Loader:
    """Structures of a store as batches.

    Structures and their neighbour lists are read once and kept in memory. Any batch of any epoch can be asked for
    directly, so a run resumes in the middle of an epoch without replaying it.

    Parameters
    ----------
    store
        Where the structures are.
    indices
        Which of them to use.
    cutoff
        Å, of the neighbour lists.
    batch_size
        Most structures in a batch. The batches of an epoch differ by one structure at most in size.
    dtype
        Floating type of the batches.
    device
        Where the batches are put.
    triplet_cutoff
        Å; find the triplets too, once, as the potential asks for with its ``triplet_cutoff``.
    seed
        Of the shuffling; ``None`` keeps the order of ``indices``.
    modes
        Divide the modes of each structure's reference Hessian into so many parts, once, and give them with the labels.
        They take as much memory as the Hessians.
    """

    def __init__(
        self,
        store: Store,
        indices: Sequence[int] | np.ndarray,
        cutoff: float,
        batch_size: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        triplet_cutoff: float | None = None,
        *,
        seed: int | None = None,
        modes: int | None = None,
    ) -> None:
        self.indices = np.asarray(indices, dtype=np.int64)
        self.structures = [store[int(i)] for i in self.indices]
        self.edges = [neighbors(s.positions, cutoff, s.cell, s.pbc, where=s.name) for s in self.structures]
        self.triplets = None
        if triplet_cutoff is not None:
            self.triplets = [
                triplets(s.positions, e, triplet_cutoff) for s, e in zip(self.structures, self.edges, strict=True)
            ]
        self.cutoff, self.batch_size, self.dtype, self.device, self.seed = cutoff, batch_size, dtype, device, seed
        self.n_parts = modes
        self.modes = [reference_modes(s.hessian, modes, len(s)) for s in self.structures] if modes else None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.indices) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a training step, counted from the first step of the first epoch.

        Parameters
        ----------
        step
            From 0 on, without end.

        Returns
        -------
        Batch
            With labels.
        """
        epoch, place = divmod(step, len(self))
        return self._join(np.array_split(self._order(epoch), len(self))[place])

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the first epoch."""
        return (self.batch(step) for step in range(len(self)))

    def _order(self, epoch: int) -> np.ndarray:
        if self.seed is None:
            return np.arange(len(self.indices))
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.indices))

    def _join(self, chosen: np.ndarray) -> Batch:
        return Batch.from_structures(
            [self.structures[i] for i in chosen],
            self.cutoff,
            self.dtype,
            edges=[self.edges[i] for i in chosen],
            index=self.indices[chosen].tolist(),
            modes=([self.modes[i] for i in chosen], self.n_parts) if self.modes and self.n_parts else None,
            triplets=None if self.triplets is None else [self.triplets[i] for i in chosen],
        ).to(self.device)
