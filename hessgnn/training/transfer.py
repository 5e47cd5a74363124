"""Between host and device without waiting: parts of a batch on their way there, and small results on their way back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hessgnn.data.batch import Batch, element_counts_of
from hessgnn.training.part import Part

_ALIGNMENT = 64  # bytes; kernels that load several numbers at a time want 16


class Parcel:
    """Tensors of the host side by side in one buffer, so that one copy takes all of them.

    Parameters
    ----------
    tensors
        By name.
    pinned
        Whether the buffer is page-locked, as a copy that nobody waits for needs it.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, pinned: bool) -> None:
        self._places: dict[str, tuple[int, torch.dtype, tuple[int, ...]]] = {}
        size = 0
        for name, tensor in tensors.items():
            self._places[name] = size, tensor.dtype, tuple(tensor.shape)
            size += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        self.buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        for name, own in self.unpacked(self.buffer).items():
            own.copy_(tensors[name])

    def unpacked(self, buffer: Tensor) -> dict[str, Tensor]:
        """The tensors in a copy of the buffer."""
        return {
            name: buffer[start : start + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
            for name, (start, dtype, shape) in self._places.items()
        }


class Shipment:
    """Parts of a batch for a device.

    It is made from parts on the host, by any thread; what has to do with the device is left to the thread that calls
    :meth:`send` and :meth:`arrived`. On the CPU nothing is copied.

    Parameters
    ----------
    parts
        On the host.
    device
        Where they are wanted.
    """

    def __init__(self, parts: Sequence[Part], device: torch.device) -> None:
        self.parts, self.device = list(parts), device
        self._parcel: Parcel | None = None
        self._sent: Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        if device.type == "cpu" or not parts:
            return
        tensors = {f"{k} {name}": value for k, part in enumerate(parts) for name, value in _tensors(part).items()}
        self._parcel = Parcel(tensors, pinned=device.type == "cuda")
        self._counts = [element_counts_of(part.batch.numbers.numpy()) for part in parts]

    def send(self, stream: torch.cuda.Stream | None = None) -> None:
        """Start the copy, on a CUDA device in a stream of its own; nothing if it was started already."""
        if self._parcel is None or self._sent is not None:
            return
        with torch.cuda.stream(stream):  # no stream changes nothing
            self._sent = self._parcel.buffer.to(self.device, non_blocking=True)
            if stream is not None:
                self._copied = stream.record_event()

    def arrived(self) -> list[Part]:
        """The parts on the device. Work that is given to it from now on waits there for the copy; the host does not."""
        if self._parcel is None:
            return self.parts
        assert self._sent is not None, "nothing was sent"
        if self._copied is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(self._copied)
            self._sent.record_stream(current)  # the memory is not given away before what is launched there has run
        tensors: list[dict[str, Tensor]] = [{} for _ in self.parts]
        for key, value in self._parcel.unpacked(self._sent).items():
            k, name = key.split(" ")
            tensors[int(k)][name] = value
        each = zip(self.parts, tensors, self._counts, strict=True)
        return [_with_tensors(part, own, counts) for part, own, counts in each]


class Reading:
    """Small tensors of a device on their way to the host."""

    def __init__(self, tensors: Mapping[str, Tensor], to: torch.device) -> None:
        self._tensors = {name: tensor.to(to, non_blocking=True) for name, tensor in tensors.items()}
        sent = next((tensor for tensor in tensors.values() if tensor.is_cuda and to.type == "cpu"), None)
        self._event = None
        if sent is not None:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(sent.device))

    def tensors(self) -> dict[str, Tensor]:
        """Wait until they are there."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
            self._tensors = {name: tensor.clone() for name, tensor in self._tensors.items()}  # not page-locked
        return self._tensors


_OF_BATCH = ("numbers", "positions", "batch", "n_atoms", "edge_index", "edge_shift", "triplets", "pairs")


def _tensors(part: Part) -> dict[str, Tensor]:
    fields = {name: getattr(part.batch, name) for name in _OF_BATCH} | part.tensors()
    return {name: value for name, value in fields.items() if value is not None}


def _with_tensors(part: Part, tensors: Mapping[str, Tensor], counts: Mapping[int, int]) -> Part:
    fields: dict[str, Any] = {name: tensors[name] for name in _OF_BATCH if name in tensors}
    batch = Batch(**fields, derivatives=part.batch.derivatives, element_counts=counts)
    return Part(batch, **{name: value for name, value in tensors.items() if name not in _OF_BATCH})
