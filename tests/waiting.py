"""Finding operations that would wait for a GPU, on tensors of the CPU that stand in for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

WAITING = {
    _aten._local_scalar_dense,
    _aten.is_nonzero,
    _aten.equal,
    _aten.nonzero,
    _aten.masked_select,
    _aten.bincount,
    _aten.unique_dim,
    _aten._unique2,
    _aten.unique_consecutive,
    _aten.histc,
    _aten.lift_fresh,  # torch.tensor([...], device=...): a copy from memory that is not page-locked
}
"""Operations whose result, or its size, is known only when the device has done all that it was given."""


class _OnDevice(TorchFunctionMode):
    """What torch does for CUDA and not for the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.one_hot and len(args) == 2:  # looks at the values on the CPU only
            index, number = args
            return index.new_zeros(*index.shape, number).scatter(-1, index.unsqueeze(-1), 1)
        return func(*args, **(kwargs or {}))


class _Found(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet in WAITING:
            self.waits.append(str(func))
        if packet is _aten.repeat_interleave and kwargs.get("output_size") is None:
            self.waits.append(f"{func} without output_size")
        if packet in (_aten.index, _aten.index_put, _aten.index_put_):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if masks and not (packet is not _aten.index and all(m.ndim for m in masks) and args[2].ndim == 0):
                self.waits.append(f"{func} with a mask")
        return func(*args, **kwargs)


@contextmanager
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of what would wait for a GPU inside the context."""
    found = _Found()

    def counted(name: str) -> Callable[..., Any]:
        plain = getattr(Tensor, name)

        def method(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            found.waits.append(f"Tensor.{name}")
            return plain(tensor, *args, **kwargs)

        return method

    with monkeypatch.context() as patched:
        for name in ("tolist", "numpy", "cpu", "__array__"):  # the CPU needs no operation for these
            patched.setattr(Tensor, name, counted(name))
        with _OnDevice(), found:
            yield found.waits
