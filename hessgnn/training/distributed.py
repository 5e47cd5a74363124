"""One run on several devices: each process computes a part of every batch, and their gradients are summed.

Batches, probes and weights of the joint batch are the same whatever the number of processes, since they follow from the
seed and the step alone; the means over structures are in the weights of the parts (:mod:`hessgnn.training.part`). So
the sum over all processes is the gradient of the joint batch, and the numbers are those of one process up to rounding.

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

from hessgnn.errors import TrainingError, UserError
from hessgnn.training.part import Part

T = TypeVar("T")

_TIMEOUT = timedelta(hours=2)
"""For a process that compiles or validates longer than others; torchrun notices sooner when one has died."""

_HEARING = 5.0
"""Seconds that a process waits for the first one to tell of an error that all have, before it tells of it itself."""

_ERROR = "hessgnn error of the first process"


@dataclass(frozen=True)
class Ranks:
    """The processes that train one potential, seen from one of them. By default there is one alone.

    Attributes
    ----------
    rank
        Of this process, from 0 on.
    number
        Of processes.
    local_rank
        Of this process on its machine.
    """

    rank: int = 0
    number: int = 1
    local_rank: int = 0

    @classmethod
    def here(cls) -> Ranks:
        """Those of torch's process group; one alone where there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", dist.get_rank())))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and tells what is going on."""
        return self.rank == 0

    def own(self, items: Sequence[T]) -> list[T]:
        """What this process computes: every item once in all processes together."""
        return list(items[self.rank :: self.number])

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, the same bits in each of them.

        Parameters
        ----------
        values
            Of the same shape everywhere; overwritten.
        """
        if self.number > 1:
            with _others_may_die():
                dist.all_reduce(values)
        return values

    def joined(
        self, parts: Sequence[Part], errors: Sequence[dict[str, Tensor]], parameters: Sequence[Tensor]
    ) -> list[dict[str, Tensor]]:
        """Sum the gradients of all processes, and learn the errors that the others found.

        Parameters
        ----------
        parts
            All parts of the joint batch.
        errors
            Of this process's :meth:`own` parts: term -> ``(n_structures,)``. What is not finite comes to all.
        parameters
            With the gradients of these parts, which are replaced by those of the joint batch. A parameter that no
            process has a gradient for gets none, as in one process: the optimiser leaves it alone then.

        Returns
        -------
        list of dict
            Errors of all parts.
        """
        if self.number == 1:
            return list(errors)
        device = parameters[0].device
        # One message a step. float64, so that the sum has the digits of the parts; 8 MB at 10⁶ weights.
        places = [(part, name) for part in parts for name in part.weights]
        found = {id(part): error for part, error in zip(self.own(parts), errors, strict=True)}
        pieces = [
            found[id(part)][name].double()
            if id(part) in found
            else torch.zeros(part.batch.n_structures, dtype=torch.float64, device=device)
            for part, name in places
        ]
        known = [p.grad is not None for p in parameters]
        pieces.append(torch.tensor(known, dtype=torch.float64, device=device))
        pieces += [torch.zeros_like(p, dtype=torch.float64) if p.grad is None else p.grad.double() for p in parameters]
        sizes = [piece.numel() for piece in pieces]
        summed = list(self.total(torch.cat([piece.detach().flatten() for piece in pieces])).split(sizes))
        gradients, known = summed[len(places) + 1 :], summed[len(places)].bool().tolist()
        for parameter, there, gradient in zip(parameters, known, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if there else None
        everywhere: dict[int, dict[str, Tensor]] = {id(part): {} for part in parts}
        for (part, name), values in zip(places, summed, strict=False):
            everywhere[id(part)][name] = values
        return list(everywhere.values())

    def from_first(self, function: Callable[[], T]) -> T:
        """What a function gives in the first process, which alone calls it.

        Parameters
        ----------
        function
            Reads or writes files; what it gives is pickled.

        Raises
        ------
        UserError
            In all processes, where the function raises it in the first.
        """
        if self.number == 1:
            return function()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = function()
            except UserError as error:
                answer[1] = error
        with _others_may_die():
            dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
        if answer[1] is not None:
            raise answer[1]
        return answer[0]


@contextmanager
def ranks_of_torchrun() -> Iterator[Ranks]:
    """Join the processes that torchrun started; one alone where it did not start this one.

    An error that all processes have is told by the first; the others end with exit status 2 and say nothing.

    Yields
    ------
    Ranks
        Of this process.
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
        # Not torn down on the way out: the others may be waiting in a sum, and only torchrun can end them.
        if ranks.first:
            store.set(_ERROR, str(error))
        elif _first_says(store, str(error)):
            sys.exit(2)
        raise
    dist.destroy_process_group()


def _first_says(store: Any, text: str) -> bool:
    deadline = time.monotonic() + _HEARING
    while time.monotonic() < deadline:
        if store.check([_ERROR]):
            time.sleep(1.0)  # torchrun ends all when one has ended: the first needs a moment to tell
            return bool(store.get(_ERROR).decode() == text)
        time.sleep(0.05)
    return False


@contextmanager
def _others_may_die() -> Iterator[None]:
    """A broken connection is no bug of ours: the process at its other end has ended, and said why."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise TrainingError(
            f"another process of this run has ended or cannot be reached ({str(error).strip().splitlines()[0]})",
            where=f"process {dist.get_rank()} of {dist.get_world_size()}",
            remedy="see what it said; `hessgnn train --resume RUN` goes on from the last checkpoint",
        ) from error
