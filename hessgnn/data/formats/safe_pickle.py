"""Reading pickled records of torch-geometric without running what a pickle may ask for.

A pickle is a program: it names functions and has them called. Here only the names below are known, each of them a
stand-in that keeps data; any other name is refused before anything is called. The stand-ins are made anew for each
pickle, so that none can change them for the next.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from hessgnn.errors import DataError

if TYPE_CHECKING:
    import torch

_RECORDS = frozenset(
    {
        ("torch_geometric.data", "Data"),
        ("torch_geometric.data.data", "Data"),
        ("torch_geometric.data.data", "DataEdgeAttr"),
        ("torch_geometric.data.data", "DataTensorAttr"),
        ("torch_geometric.data.storage", "BaseStorage"),
        ("torch_geometric.data.storage", "GlobalStorage"),
    }
)


def loads(data: bytes) -> Any:
    """Read a pickle of numbers, texts, tensors, plain containers and records of torch-geometric.

    Parameters
    ----------
    data
        The pickle.

    Returns
    -------
    object
        Records become dictionaries, of the old layout (attributes) as of the new one (``_store``).

    Raises
    ------
    DataError
        When it names anything else, or is damaged.
    """
    try:
        found = _Unpickler(data).load()
    except DataError:
        raise
    except Exception as error:  # whatever damaged or hostile bytes make the machine stumble over
        raise DataError(f"is not a readable pickle ({type(error).__name__}: {error})") from error
    return _plain(found)


class _Record:
    """Stand-in for a record: keeps its state."""

    def __setstate__(self, state: Any) -> None:
        self.state = state[0] if isinstance(state, tuple) else state


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.admitted: dict[tuple[str, str], Any] = {key: type("Record", (_Record,), {}) for key in _RECORDS}
        self.admitted |= {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch.storage", "_load_from_bytes"): lambda content: _storage(content),
            ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _tensor(*arguments),
        }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.admitted[module, name]
        except KeyError:
            raise DataError(
                f"its pickle asks for {module}.{name}: only tensors and plain containers are admitted",
                remedy="get the data from a source you trust, or write them again as HDF5",
            ) from None

    def persistent_load(self, _: Any) -> Any:
        raise DataError("its pickle refers to objects outside it, which is refused")


def _storage(content: Any) -> torch.TypedStorage:
    """Numbers of a tensor, in the format of ``torch.save``, which holds a pickle of its own."""
    import torch  # not with the module: listing the formats need not wait for it

    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.TypedStorage):
        raise DataError("its pickle holds something else where the numbers of a tensor belong")
    return storage


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    import torch

    numbers = [offset, *size, *stride]
    if not isinstance(storage, torch.TypedStorage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise DataError("its pickle holds a tensor that is none")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else -1
    numbers_stored = storage._untyped_storage.nbytes() // storage.dtype.itemsize  # what is public here, warns
    if last >= numbers_stored:
        raise DataError("its pickle holds a tensor larger than its numbers")
    empty = torch.empty(0, dtype=storage.dtype)
    return empty.set_(storage._untyped_storage, offset, tuple(size), tuple(stride))


def _plain(found: Any) -> Any:
    """A record's fields, wherever its version of torch-geometric keeps them."""
    if not isinstance(found, _Record):
        return found
    state = getattr(found, "state", None)
    if isinstance(state, dict) and isinstance(state.get("_store"), _Record):
        state = getattr(state["_store"], "state", None)
    if isinstance(state, dict) and isinstance(state.get("_mapping"), dict):
        state = state["_mapping"]
    if not isinstance(state, dict):
        raise DataError("its pickle holds a record without fields")
    return state
