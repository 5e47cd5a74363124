"""One run on several devices: each rank computes a part of every batch, and the gradients are summed (all-reduce).

Batches, probes and weights of the joint batch do not depend on the number of ranks, since they follow from the seed and
the step alone; the means over structures are in the weights of the parts (:mod:`hessgnn.training.part`). So the sum
over all ranks is the gradient of the joint batch, and the results are those of one process up to rounding.

``DistributedDataParallel`` is not used: it expects one backward pass through what its own ``forward`` gave, and its
documentation excludes ``torch.autograd.grad``. Here forces and Hessian products are derivatives taken in between, a
batch in parts has several backward passes, a recorded step has none, and networks of elements that a part lacks have
no gradient. What it would hide, sending while computing, is little for 10⁵ to 10⁶ weights.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from hessgnn.data.batch import Batch
from hessgnn.data.plan import share_of
from hessgnn.errors import TrainingError, UserError
from hessgnn.training.part import Part

T = TypeVar("T")

_TIMEOUT = timedelta(hours=2)
"""For a rank that compiles or validates longer than others; torchrun notices sooner when one has failed."""

_HEARING = 5.0
"""Seconds that a rank waits for rank 0 to report the same error, before it reports the error itself."""

_ERROR = "hessgnn error of the first process"


@dataclass(frozen=True)
class Ranks:
    """The processes that train one potential together, seen from one of them. By default there is only one.

    Attributes
    ----------
    rank
        Rank of this process, from 0.
    number
        Number of ranks (world size).
    local_rank
        Rank of this process on its machine.
    """

    rank: int = 0
    number: int = 1
    local_rank: int = 0

    @classmethod
    def here(cls) -> Ranks:
        """The ranks of torch's process group; a single one where there is no group."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", dist.get_rank())))

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def share(self, batch: Batch) -> Tensor | None:
        """Structures of a batch with labels that this rank computes, ``(n_structures,)`` bool; ``None`` for all."""
        if self.number == 1:
            return None
        assert batch.labels is not None
        hessians, directions = batch.labels.hessians, batch.labels.directions
        own = share_of(self.rank, self.number, hessians.n_atoms, hessians.known | (directions.number > 0))
        return torch.from_numpy(own).to(batch.n_atoms.device)

    def total(self, values: Tensor) -> Tensor:
        """Sum of ``values`` over all ranks, bit for bit the same on each. They are overwritten."""
        if self.number > 1:
            with _other_ranks_may_fail():
                dist.all_reduce(values)
        return values

    def joined(
        self,
        joint: Part,
        parts: Sequence[Part],
        errors: Sequence[dict[str, Tensor]],
        parameters: Sequence[Tensor],
    ) -> tuple[list[Part], list[dict[str, Tensor]]]:
        """Sum the gradients of all ranks and exchange the errors of the structures.

        Parameters
        ----------
        joint, parts
            The batch that the ranks share, and the parts of this one, see :meth:`hessgnn.training.loss.Loss.divide`.
        errors
            Of the parts: term -> ``(n_structures,)``. Every rank sees values that are not finite.
        parameters
            With the gradients of these parts, which are replaced by those of the joint batch. A parameter without a
            gradient on any rank gets none, as in one process: the optimiser skips it then.

        Returns
        -------
        parts
            Parts of which the joint batch consists: those of one process, or ``joint`` itself.
        errors
            Of these, bit for bit the same on each rank.
        """
        if self.number == 1:
            return list(parts), list(errors)
        device = parameters[0].device
        # One message a step. float64, so that the sum has the digits of the parts; 8 MB at 10⁶ weights.
        terms = {name: torch.zeros_like(weight, device=device) for name, weight in joint.weights.items()}
        for part, found in zip(parts, errors, strict=True):
            assert part.place is not None
            for name, values in found.items():
                terms[name][part.place] = values.double()
        pieces = list(terms.values())
        known = [p.grad is not None for p in parameters]
        pieces.append(torch.tensor(known, dtype=torch.float64, device=device))
        pieces += [torch.zeros_like(p, dtype=torch.float64) if p.grad is None else p.grad.double() for p in parameters]
        sizes = [piece.numel() for piece in pieces]
        summed = list(self.total(torch.cat([piece.detach().flatten() for piece in pieces])).split(sizes))
        gradients, known = summed[len(terms) + 1 :], summed[len(terms)].bool().tolist()
        for parameter, there, gradient in zip(parameters, known, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if there else None
        return ([joint], [dict(zip(terms, summed, strict=False))]) if terms else ([], [])

    def from_first(self, function: Callable[[], T]) -> T:
        """Call a function, which reads or writes files, on rank 0 and broadcast its result (pickled).

        Raises
        ------
        UserError
            On every rank, when the function raises it on rank 0.
        """
        if self.number == 1:
            return function()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = function()
            except UserError as error:
                answer[1] = error
        with _other_ranks_may_fail():
            dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
        if answer[1] is not None:
            raise answer[1]
        return answer[0]


@contextmanager
def ranks_of_torchrun() -> Iterator[Ranks]:
    """Initialise the process group if torchrun started this process, else yield a single rank.

    Errors raised on every rank are reported by rank 0; the other ranks exit with status 2.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    store, rank, number = next(rendezvous("env://", timeout=_TIMEOUT))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=number, timeout=_TIMEOUT)
    ranks = Ranks.here()
    try:
        yield ranks
    except UserError as error:
        # The group is left as it is: other ranks may be waiting in a sum, and only torchrun can end them.
        if ranks.first:
            store.set(_ERROR, str(error))
        elif _reported_by_first(store, str(error)):
            sys.exit(2)
        raise
    dist.destroy_process_group()


def _reported_by_first(store: Any, text: str) -> bool:
    deadline = time.monotonic() + _HEARING
    while time.monotonic() < deadline:
        if store.check([_ERROR]):
            time.sleep(1.0)  # torchrun ends all ranks when one has ended: rank 0 needs a moment to report
            return bool(store.get(_ERROR).decode() == text)
        time.sleep(0.05)
    return False


@contextmanager
def _other_ranks_may_fail() -> Iterator[None]:
    """A broken connection is no bug of ours: the rank at its other end has failed and reported why."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise TrainingError(
            f"another process of this run has ended or cannot be reached ({str(error).strip().splitlines()[0]})",
            where=f"process {dist.get_rank()} of {dist.get_world_size()}",
            hint="see what it said; `hessgnn train --resume RUN` goes on from the last checkpoint",
        ) from error
