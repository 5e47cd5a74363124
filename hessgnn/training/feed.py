"""What a step is computed from: parts of its batch with their targets, on the device when they are asked for.

On a CPU they are made when they are asked for. A GPU would idle meanwhile, so for it a thread makes those of the next
steps on the host, neighbours, probes and products of the reference Hessians included, and one copy each brings them to
the device while it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from hessgnn.training.part import Part
from hessgnn.training.transfer import Shipment

AHEAD = 2
"""Steps that are made ahead for a GPU."""


@dataclass(frozen=True)
class Given:
    """What one process knows of a step's batch.

    Attributes
    ----------
    index
        ``(n_structures,)`` int64, on the host: the structures of the batch.
    joint
        The batch of all processes, on the host, see :meth:`hessgnn.training.loss.Loss.divide`.
    parts, own
        Parts that this process computes, on the host and on its device.
    """

    index: Tensor
    joint: Part
    parts: Sequence[Part]
    own: Sequence[Part]


Make = Callable[[int], tuple[Tensor, Part, Sequence[Part]]]
"""From the number of a step to the structures, the joint batch and the own parts, on the host."""


class Feed:
    """Gives each step what it is computed from.

    Parameters
    ----------
    make
        Makes a step on the host, the same whenever it is called. Another thread calls it if ``ahead`` is not 0.
    device
        Where steps are computed.
    ahead
        Steps that are made ahead; by default :data:`AHEAD` for a CUDA device and none else.
    """

    def __init__(self, make: Make, device: torch.device, ahead: int | None = None) -> None:
        self._make, self.device = make, device
        self.ahead = (AHEAD if device.type == "cuda" else 0) if ahead is None else ahead
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread: ThreadPoolExecutor | None = None
        self._next: dict[int, Future[_Made]] = {}

    def __call__(self, number: int) -> Given:
        """What a step is computed from. Steps are made ahead in the order of their numbers, from this one on."""
        if number in self._next:
            made = self._next.pop(number).result()
        else:  # the first one: what a store reads once is read before there is a second thread
            self.close()
            made = self._made(number)
        made.shipment.send(self._stream)
        given = Given(made.index, made.joint, made.parts, made.shipment.arrived())
        if self.ahead:
            self._thread = self._thread or ThreadPoolExecutor(1, "hessgnn-feed", self._enter)
            for later in range(number + 1, number + 1 + self.ahead):
                if later not in self._next:
                    self._next[later] = self._thread.submit(self._made, later)
            following = self._next[number + 1]
            if following.done() and following.exception() is None:
                following.result().shipment.send(self._stream)
        return given

    def close(self) -> None:
        """Forget what was made ahead, and end the thread."""
        for future in self._next.values():
            future.cancel()
        self._next.clear()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _enter(self) -> None:
        """Begin the thread: page-locked memory belongs to the current device, which each thread has for itself."""
        if self._stream is not None:
            torch.cuda.set_device(self._stream.device)

    def _made(self, number: int) -> _Made:
        index, joint, parts = self._make(number)
        return _Made(index, joint, parts, Shipment(parts, self.device))


@dataclass(frozen=True)
class _Made:
    index: Tensor
    joint: Part
    parts: Sequence[Part]
    shipment: Shipment
