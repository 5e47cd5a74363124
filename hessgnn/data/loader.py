"""Batches of a split, in an order that depends on nothing but the seed and the epoch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from hessgnn.data.batch import Batch
from hessgnn.data.collate import Arrays, Collator
from hessgnn.data.labels import Preparation
from hessgnn.data.plan import LimitedPlan, Plan
from hessgnn.data.store.store import Store
from hessgnn.errors import DataError, UserError


class Loader:
    """Structures of a store, given by their indices, as batches.

    Any batch of any epoch can be asked for directly, so a run resumes in the middle of an epoch without replaying it.
    Nothing is kept of a batch; its Hessians are not read before something is asked of them, see
    :class:`~hessgnn.data.labels.Hessians`.

    Parameters
    ----------
    cutoff
        Å, of the neighbour lists.
    batch_size
        Most structures in a batch. Without other limits the batches of an epoch differ by one structure at most. Or a
        plan for places in ``indices``, which replaces ``seed`` and the other limits.
    dtype
        Floating type of the batches.
    triplet_cutoff
        Å; find the triplets too, as the potential asks for with its ``triplet_cutoff``.
    seed
        Of the shuffling; ``None`` keeps the order of ``indices``.
    preparation
        Computed once of each structure's reference Hessian, and given with the labels.
    max_atoms, max_edges
        Most atoms and edges in a batch.
    workers
        Processes that make the next batches ahead; they do not change what a batch is.
    share
        Rank of this process, and how many share each batch. Batches are the joint ones, with the edges and triplets of
        those structures only that :func:`~hessgnn.data.plan.share_of` gives to this rank.
    """

    def __init__(
        self,
        store: Store,
        indices: Sequence[int] | np.ndarray,
        cutoff: float,
        batch_size: int | Plan,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        triplet_cutoff: float | None = None,
        *,
        seed: int | None = None,
        preparation: Preparation | None = None,
        max_atoms: int | None = None,
        max_edges: int | None = None,
        workers: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.indices = np.asarray(indices, dtype=np.int64)
        self.device, self.workers = torch.device(device), workers
        self.collator = Collator(store, cutoff, dtype, triplet_cutoff, preparation, share)
        self.plan = batch_size if isinstance(batch_size, Plan) else self._plan(batch_size, seed, max_atoms, max_edges)
        self._ahead: tuple[int, Iterator[Arrays | UserError]] | None = None

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """Atoms of each structure."""
        return self.collator.store.n_atoms[self.indices]

    @cached_property
    def n_edges(self) -> NDArray[np.int64]:
        """Edges of each structure; all neighbours are found to count them."""
        return self.collator.count_edges(self.indices)

    @cached_property
    def n_triplets(self) -> NDArray[np.int64] | None:
        """Triplets of each structure, if they are asked for; all are found to count them."""
        return None if self.collator.triplet_cutoff is None else self.collator.count_triplets(self.indices)

    def __len__(self) -> int:
        """Batches in the first epoch."""
        return len(self.plan)

    def batch(self, step: int, device: torch.device | None = None) -> Batch:
        """The batch of a training step, counted from the first step of the first epoch and without end; with labels.

        It lies on the loader's device unless another is named.

        Raises
        ------
        DataError
            When atoms of a structure coincide, something cannot be read, the store was changed since it was opened, or
            a worker died.
        """
        self.collator.store.columns.require_unchanged()  # here, too, where a worker makes the rest: Hessians are mapped
        arrays = self._from_worker(step) if self.workers else self.collator.arrays(self.indices[self.plan.batch(step)])
        return self.collator.batch(arrays, self.device if device is None else device)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the first epoch."""
        return (self.batch(step) for step in range(len(self)))

    def close(self) -> None:
        """End the workers."""
        self._ahead = None

    def _plan(self, batch_size: int, seed: int | None, max_atoms: int | None, max_edges: int | None) -> Plan:
        limits = {}
        if max_atoms is not None:
            limits["atoms"] = self.n_atoms, max_atoms
        if max_edges is not None:
            limits["edges"] = self.n_edges, max_edges
        number = len(self.indices)
        return LimitedPlan(number, batch_size, seed, limits) if limits else Plan(number, batch_size, seed)

    def _from_worker(self, step: int) -> Arrays:
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = step, self._start_workers(step)
        batches = self._ahead[1]
        try:
            arrays = next(batches)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                "a process that makes batches died (out of memory, or killed)",
                where=self.collator.store.path,
                hint="go on with fewer workers",
            ) from error
        self._ahead = step + 1, batches
        if isinstance(arrays, UserError):
            raise arrays
        return arrays

    def _start_workers(self, step: int) -> Iterator[Arrays | UserError]:
        steps = _Steps(self.collator, self.indices, self.plan)
        loader = DataLoader(
            steps,
            batch_size=None,
            sampler=itertools.count(step),
            num_workers=self.workers,
            collate_fn=_as_it_is,
            multiprocessing_context="spawn",  # a fork may copy locks that threads of torch or JAX hold
        )
        return iter(loader)


class _Steps(Dataset["Arrays | UserError"]):
    """What each step is made of, for worker processes."""

    def __init__(self, collator: Collator, indices: NDArray[np.int64], plan: Plan) -> None:
        self.collator, self.indices, self.plan = collator, indices, plan

    def __getitem__(self, step: int) -> Arrays | UserError:
        try:
            return self.collator.arrays(self.indices[self.plan.batch(step)])
        except UserError as error:  # raised in the main process, which would tell it with a worker's traceback
            return error


def _as_it_is(arrays: Any) -> Any:
    """Arrays stay arrays: as tensors each would be shared by a file of its own, which costs more than a small copy."""
    return arrays
