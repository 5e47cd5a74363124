"""Pickles that would run something if they were simply loaded. Each would leave a file behind."""

import builtins
import copyreg
import functools
import importlib
import io
import os
import pickle
import struct
import subprocess
import time
import tracemalloc
from collections import OrderedDict
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.data.storage import GlobalStorage

from hessgnn.data.formats.safe_pickle import loads
from hessgnn.errors import DataError


class Calls:
    """Pickles as a call of anything with anything."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


class Claims:
    """Pickles as an object of another class with any state."""

    __class__ = property(lambda self: self.parts[1][0])  # the pickler asks

    def __init__(self, cls, state):
        self.parts = copyreg.__newobj__, (cls,), state

    def __reduce__(self):
        return self.parts


class DataThatCalls(Data):
    """A record that is none."""

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def saved(content):
    """What ``torch.storage._load_from_bytes`` is given, with a pickle of one's own inside."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def typed(tensor):
    """What a tensor's pickle holds of its numbers."""
    return torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True)


def attacks(marker):
    touch = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    system = Calls(os.system, touch)
    tensor = torch.arange(3.0)
    storage = typed(tensor)
    rebuild = torch._utils._rebuild_tensor_v2
    return {
        "os.system": system,
        "eval": Calls(builtins.eval, code),
        "exec": Calls(builtins.exec, code),
        "getattr": Calls(getattr, Calls(importlib.import_module, "os"), "system"),
        "import": Calls(importlib.import_module, "os"),
        "subprocess": Calls(subprocess.getoutput, touch),
        "partial": Calls(functools.partial, os.system, touch),
        "torch.load": Calls(torch.load, str(marker)),
        "numbers of a tensor": Calls(torch.storage._load_from_bytes, saved(system)),
        "plain pickle as numbers": Calls(torch.storage._load_from_bytes, pickle.dumps(system)),
        "tensor with hooks": Calls(rebuild, storage, 0, (3,), (1,), False, system),
        "tensor of a call": Calls(rebuild, system, 0, (3,), (1,), False, OrderedDict()),
        "parameter": Calls(torch._utils._rebuild_parameter, tensor, False, system),
        "subclass": Data(x=tensor, hidden=system),
        "record in a record": Data(x=Data(y=[{"deep": (system,)}])),
        "state of a record": Claims(Data, {"_store": system}),
        "state of a storage": Claims(GlobalStorage, {"_mapping": OrderedDict(a=system)}),
        "reconstructor": Calls(copyreg._reconstructor, Calls, object, None),
        "key of a dictionary": {Calls(os.system, touch): 1},
    }


NAMES = sorted(attacks("x"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", [2, 5])
def test_nothing_runs(tmp_path, name, protocol):
    marker = tmp_path / "ran"
    content = pickle.dumps(attacks(marker)[name], protocol=protocol)
    with pytest.raises(DataError):
        loads(content)
    assert not marker.exists()


def test_the_attacks_are_real(tmp_path):
    marker = tmp_path / "ran"
    for name in ("os.system", "numbers of a tensor", "record in a record", "state of a record"):
        content = pickle.dumps(attacks(marker)[name])
        with suppress(AttributeError, TypeError, RuntimeError):  # it fails after it ran
            pickle.loads(content)
        assert marker.exists(), name
        marker.unlink()


def test_a_subclass_of_a_record(tmp_path):
    record = DataThatCalls(x=torch.zeros(1))
    record.marker = str(tmp_path / "ran")
    with pytest.raises(DataError, match=r"asks for posix\.system|asks for nt\.system"):
        loads(pickle.dumps(record))
    assert not (tmp_path / "ran").exists()


def named(module, name):
    """The opcodes that put a global on the stack."""
    return text(module) + text(name) + b"\x93"


def text(value):
    return b"\x8c" + struct.pack("B", len(value)) + value.encode()


def test_dotted_names_lead_nowhere():
    for module, name in (
        ("torch_geometric.data.data", "Data.__init__.__globals__"),
        ("torch._utils", "torch.os.system"),
        ("collections", "OrderedDict.__init__"),
        ("collections", "_sys.modules"),
    ):
        with pytest.raises(DataError, match="only tensors and plain containers"):
            loads(b"\x80\x04" + named(module, name) + b".")


def test_extensions_and_persistent_objects():
    with pytest.raises(DataError, match="not a readable pickle"):
        loads(b"\x80\x02\x82\x01.")
    with pytest.raises(DataError, match="objects outside"):
        loads(b"\x80\x02X\x01\x00\x00\x00aQ.")


def test_tensors_larger_than_their_numbers():
    storage = typed(torch.zeros(3))
    for offset, size, stride in (
        (0, (4,), (1,)),
        (3, (1,), (1,)),
        (0, (2, 2), (2, 1)),
        (-1, (1,), (1,)),
        (0, (10**12,), (1,)),
    ):
        call = Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())
        with pytest.raises(DataError, match="tensor"):
            loads(pickle.dumps(call))


@pytest.mark.parametrize(
    "name",
    [("torch.storage", "_load_from_bytes"), ("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")],
)
def test_one_pickle_cannot_change_the_next(name):
    """The second half of a state sets attributes of whatever it is given to: here, of a function or a class."""
    state = b"N}" + text("__defaults__") + b"K\x01\x85s\x86"  # (None, {"__defaults__": (1,)})
    with pytest.raises(DataError):
        loads(b"\x80\x04" + named(*name) + state + b"b.")
    assert loads(pickle.dumps(Data(x=torch.arange(3))))["x"].tolist() == [0, 1, 2]


def bombs():
    """Short pickles that cost a plain unpickler gigabytes or for ever, and what refuses them."""
    doubled = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(200))  # t = (t, t), 200 times
    claims = b"\xff\xff\xff\xff\x00\x00\x00\x00"
    return {
        "key that takes 2^200 steps to hash": (b"\x80\x04}K\x01" + doubled + b"K\x01s.", "keys are neither"),
        "the same as an ordered dictionary": (
            b"\x80\x04" + named("collections", "OrderedDict") + b"]K\x01" + doubled + b"K\x01\x86a\x85R.",
            "a dictionary in a way that is not admitted",
        ),
        "set of such keys": (b"\x80\x04\x8f(K\x01" + doubled + b"\x90.", "EMPTY_SET is not admitted"),
        "frozen set": (b"\x80\x04(K\x01" + doubled + b"\x91.", "FROZENSET is not admitted"),
        "table of two thousand million objects": (b"\x80\x02K\x01r\xff\xff\xff\x7fK\x01.", None),
        "bytes that are not there": (b"\x80\x04\x8e" + claims + b"a.", "not a readable pickle"),
        "text that is not there": (b"\x80\x04\x8d" + claims + b"a.", "not a readable pickle"),
        "byte array": (b"\x80\x05\x96" + claims + b"a.", "not a readable pickle"),
        "frame that is not there": (b"\x80\x04\x95" + claims + b"K\x01.", None),
        "number of many digits": (b"\x80\x04\x8b\xff\xff\xff\x7f\x01.", "not a readable pickle"),
        "endless program": (b"\x80\x04" + b"]0" * 60_000 + b".", "more than 100000 instructions"),
        "no end": (b"\x80\x04" + b"]0" * 100, "not a readable pickle"),
        "end without a value": (b"\x80\x04.", "not a readable pickle"),
        "marks without end": (b"\x80\x04" + b"(" * 1000 + b".", "not a readable pickle"),
        "out of band": (b"\x80\x05\x97.", "NEXT_BUFFER is not admitted"),
        "instance": (b"(S'touch'\nios\nsystem\n.", "not admitted"),
        "instance, newer": (b"(" + named("os", "system") + b"o.", r"asks for os\.system"),
        "call of a text": (b"\x80\x04" + text("x") + b")R.", "found str where _Name belongs"),
        "object of a function": (
            b"\x80\x04" + named("torch.storage", "_load_from_bytes") + b")\x81.",
            "not a readable",
        ),
        "long name": (b"\x80\x04X\xff\xff\x00\x00" + b"a" * 65535 + text("b") + b"\x93.", "asks for a{80}:"),
    }


@pytest.mark.parametrize("name", bombs())
def test_bombs_do_not_go_off(name):
    content, reason = bombs()[name]
    tracemalloc.start()
    started = time.process_time()
    try:
        if reason is None:  # claims what it does not use: that costs nothing, and may be read
            loads(content)
        else:
            with pytest.raises(DataError, match=reason):
                loads(content)
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 30


def test_one_number_cannot_stand_for_many():
    """Strides of zero: 10^12 elements out of one."""
    ones = torch.ones(1).expand(10**12)
    with pytest.raises(DataError, match="larger than its numbers"):
        loads(pickle.dumps(ones))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"\x8a\x0a\x6c\xfc", b"\x8a\x0a\x6d\xfc", "something else where the numbers"),
        (b"little_endianq\x02\x88", b"little_endianq\x02\x89", "in a form that is not read"),
        (b"FloatStorage", b"BFloat16Storage", "asks for torch.BFloat16Storage"),
        (b"FloatStorage", b"DoubleStorage", "fewer numbers of a tensor than it says"),
        (b"K\x03N", b"K\x04N", "fewer numbers of a tensor than it says"),
        (b"K\x03N", b"K\x03\x88", "a part of the numbers"),
        ((3).to_bytes(8, "little"), (2**40).to_bytes(8, "little"), "fewer numbers of a tensor than it says"),
        (np.float32(2.0).tobytes(), b"", "fewer numbers of a tensor than it says"),
    ],
)
def test_numbers_of_a_tensor_that_are_something_else(old, new, reason):
    content = saved(typed(torch.arange(3.0)))
    assert old in content
    call = Calls(torch.storage._load_from_bytes, content.replace(old, new, 1))
    with pytest.raises(DataError, match=reason):
        loads(pickle.dumps(Calls(torch._utils._rebuild_tensor_v2, call, 0, (3,), (1,), False, OrderedDict())))


def test_honest_records():
    tensors = {
        "strided": torch.arange(12.0).reshape(3, 4)[:, 1:3].T,
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "integers": torch.tensor([1, 2]),
        "halves": torch.tensor([1.5, 2.0], dtype=torch.float16),
        "bytes": torch.tensor([1, 255], dtype=torch.uint8),
        "truth": torch.tensor([True, False]),
        "trained": torch.ones(2, requires_grad=True),
    }
    found = loads(pickle.dumps(Data(**tensors, text="a", nested={"list": [1, (2.0, None)]})))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.detach().numpy(), strict=True)
        assert found[name].flags.owndata
    assert found["nested"] == {"list": [1, (2.0, None)]}
    assert loads(pickle.dumps([1, {"a": 2}])) == [1, {"a": 2}]


def test_damaged_pickles():
    content = pickle.dumps(Data(x=torch.arange(3)))
    for cut in (0, 1, 10, len(content) // 2, len(content) - 1):
        with pytest.raises(DataError):
            loads(content[:cut])
