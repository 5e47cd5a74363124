"""Reading pickled records of torch-geometric without running what a pickle may ask for.

A pickle is a program: it names functions and has them called. Here it runs on a machine of its own, that knows the
instructions for numbers, texts, tuples, lists and dictionaries, and the names in the tables below. Each of these names
a step of this module; nothing is ever imported or called because a pickle says so. Neither torch nor
:class:`pickle.Unpickler` takes part: the latter allocates what a pickle claims, and hashes nested tuples for as long
as one likes.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessgnn.errors import DataError

MAX_INSTRUCTIONS = 100_000
"""Longer programs are refused; a record of HORM has some 200 instructions, whatever its size."""

_RECORDS = frozenset(
    {
        "torch_geometric.data Data",
        "torch_geometric.data.data Data",
        "torch_geometric.data.data DataEdgeAttr",
        "torch_geometric.data.data DataTensorAttr",
        "torch_geometric.data.storage BaseStorage",
        "torch_geometric.data.storage GlobalStorage",
    }
)
_STORAGES: dict[str, np.dtype[Any]] = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("<i1"),
    "torch ByteStorage": np.dtype("<u1"),
    "torch BoolStorage": np.dtype("?"),
}
_LITERALS = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    }
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

# What torch.save writes in front of the numbers of a storage.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def loads(data: bytes) -> Any:
    """Read a pickle of numbers, texts, tensors, plain containers and records of torch-geometric.

    Tensors become arrays; records become dictionaries, of the old layout (attributes) as of the new one (``_store``).
    Raises :class:`DataError` when the pickle names anything else, or is damaged.
    """
    try:
        return _fields(_Machine(_FUNCTIONS).run(io.BytesIO(data)))
    except DataError:
        raise
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
        what = " ".join(str(error).split())[:100]
        raise DataError(f"is not a readable pickle ({type(error).__name__}: {what})") from error


class _Name:
    """A name that a pickle put on the stack, and what the machine does when it is called."""

    def __init__(self, name: str, function: Callable[..., Any] | None = None) -> None:
        self.name, self.function = name, function


class _Record:
    """What is kept of an object: the state that the pickle gives it."""

    state: Any = None


class _Machine:
    """Runs pickles of admitted instructions and names.

    ``functions`` maps the names that may be called; ``persistent`` says what objects outside the pickle are, which are
    refused without it.
    """

    def __init__(
        self, functions: dict[str, Callable[..., Any]], persistent: Callable[[Any], Any] | None = None
    ) -> None:
        self._functions, self._persistent = functions, persistent
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, stream: io.BytesIO) -> Any:
        """Run the pickle at the position of a stream, which is left behind its end."""
        self._stack, self._marked, self._memo = [], [], {}
        for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_INSTRUCTIONS:
                raise DataError(f"its pickle has more than {MAX_INSTRUCTIONS} instructions")
            if instruction.name == "STOP":
                return self._stack.pop()
            self._step(instruction.name, argument)
        raise ValueError("it does not end")

    def _step(self, instruction: str, argument: Any) -> None:
        stack = self._stack
        if instruction in _LITERALS:
            stack.append(argument)
        elif instruction in _CONSTANTS:
            stack.append(_CONSTANTS[instruction]())
        elif instruction in _TUPLES:
            size = _TUPLES[instruction]
            stack[-size:] = [tuple(stack[-size:])]
        elif instruction in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif instruction == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif instruction in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif instruction == "MARK":
            self._marked.append(stack)
            self._stack = []
        elif instruction in ("TUPLE", "APPENDS", "SETITEMS", "POP_MARK"):
            self._stack = self._marked.pop()
            self._gather(instruction, stack)
        elif instruction == "APPEND":
            value = stack.pop()
            _expect(stack[-1], list).append(value)
        elif instruction == "SETITEM":
            pair = [stack.pop(), stack.pop()][::-1]
            self._gather("SETITEMS", pair)
        elif instruction == "POP":
            stack.pop()
        elif instruction in ("GLOBAL", "STACK_GLOBAL"):
            if instruction == "STACK_GLOBAL":
                name, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
                argument = f"{module} {name}"
            stack.append(self._named(argument))
        elif instruction in ("REDUCE", "NEWOBJ"):
            arguments = _expect(stack.pop(), tuple)
            stack.append(_call(stack.pop(), arguments))
        elif instruction == "BUILD":
            state = stack.pop()
            _expect(stack[-1], _Record).state = state[0] if isinstance(state, tuple) and state else state
        elif instruction == "BINPERSID" and self._persistent is not None:
            stack.append(self._persistent(stack.pop()))
        elif instruction in ("PERSID", "BINPERSID"):
            raise DataError("its pickle refers to objects outside it, which is refused")
        elif instruction not in ("PROTO", "FRAME"):
            raise DataError(f"is not a readable pickle (instruction {instruction} is not admitted)")

    def _gather(self, instruction: str, values: list[Any]) -> None:
        if instruction == "TUPLE":
            self._stack.append(tuple(values))
        elif instruction == "APPENDS":
            _expect(self._stack[-1], list).extend(values)
        elif instruction == "SETITEMS":
            target = _expect(self._stack[-1], dict)
            for key, value in zip(values[::2], values[1::2], strict=True):
                if type(key) not in (str, int):  # the hash of a nested tuple can take for ever
                    raise DataError("its pickle holds a dictionary whose keys are neither texts nor integers")
                target[key] = value

    def _named(self, name: str) -> _Name:
        if name in _RECORDS:
            return _Name(name, _record)
        if name in self._functions:
            return _Name(name, self._functions[name])
        if name in _STORAGES and self._persistent is not None:
            return _Name(name)
        dotted = ".".join(name.split(" "))[:80]
        raise DataError(
            f"its pickle asks for {dotted}: only tensors and plain containers are admitted",
            hint="get the data from a source you trust, or write them again as HDF5",
        )


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"found {type(value).__name__} where {kind.__name__} belongs")
    return value


def _call(name: Any, arguments: tuple) -> Any:
    function = _expect(name, _Name).function
    if function is None:
        raise DataError(f"its pickle calls {name.name.replace(' ', '.')}")
    return function(*arguments)


def _record(*_: Any) -> _Record:
    return _Record()


def _empty(*arguments: Any) -> dict:
    if arguments:
        raise DataError("its pickle makes a dictionary in a way that is not admitted")
    return {}


def _storage(content: Any) -> NDArray:
    """Numbers of a tensor, in the format of ``torch.save``: five pickles, their count, their bytes."""
    stream = io.BytesIO(_expect(content, bytes))
    machine = _Machine({}, persistent=lambda identity: identity)
    magic, protocol, system, identity, keys = (machine.run(stream) for _ in range(5))
    if (magic, protocol) != (_MAGIC, _PROTOCOL) or type(identity) is not tuple or len(identity) < 5:
        raise DataError("its pickle holds something else where the numbers of a tensor belong")
    if type(system) is not dict or system.get("little_endian") is not True or keys != [identity[2]]:
        raise DataError("its pickle holds numbers of a tensor in a form that is not read")
    if any(part is not None for part in identity[5:]):
        raise DataError("its pickle holds a part of the numbers of a tensor, which is not read")
    dtype: np.dtype[Any] = _STORAGES[_expect(identity[1], _Name).name]
    count = int.from_bytes(stream.read(8), "little", signed=True)
    numbers = stream.read()
    if count != identity[4] or len(numbers) != count * dtype.itemsize:
        raise DataError("its pickle holds fewer numbers of a tensor than it says")
    return np.frombuffer(numbers, dtype)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> NDArray:
    shape = [*_expect(size, tuple), *_expect(stride, tuple)]
    if type(storage) is not np.ndarray or not all(type(n) is int and n >= 0 for n in (offset, *shape)):
        raise DataError("its pickle holds a tensor that is none")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else -1
    # The second: with strides of zero a single number can stand for any number of elements.
    if last >= len(storage) or prod(size) > len(storage):
        raise DataError("its pickle holds a tensor larger than its numbers")
    if not all(size):
        return np.zeros(size, storage.dtype)
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _empty,
    "torch.storage _load_from_bytes": _storage,
    "torch._utils _rebuild_tensor_v2": _tensor,
}


def _fields(found: Any) -> Any:
    """A record's fields, wherever its version of torch-geometric keeps them."""
    if not isinstance(found, _Record):
        return found
    state = found.state
    if isinstance(state, dict) and isinstance(state.get("_store"), _Record):
        state = state["_store"].state
    if isinstance(state, dict) and isinstance(state.get("_mapping"), dict):
        state = state["_mapping"]
    if not isinstance(state, dict):
        raise DataError("its pickle holds a record without fields")
    return state
