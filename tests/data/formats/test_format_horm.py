import copyreg
import pickle

import numpy as np
import pytest
import torch
from labelled import levels, read, reasons
from torch_geometric.data import Data

from hessgnn.data.formats import registry
from hessgnn.errors import DataError

lmdb = pytest.importorskip("lmdb", reason="the extra 'formats' is not installed")


def fields(hessian=None, **changes):
    made = {
        "pos": torch.arange(9.0).reshape(3, 3),
        "charges": torch.tensor([8, 1, 1]),
        "one_hot": torch.eye(5)[:3],
        "energy": torch.tensor(-2079.75, dtype=torch.float32),
        "ae": torch.tensor(-0.0809, dtype=torch.float64),
        "forces": torch.full((3, 3), 0.5),
        "hessian": torch.arange(81.0) if hessian is None else hessian,
        "natoms": 3,
        "rxn": "rxn_17",
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


class Old:
    """Pickles as the records of torch-geometric before 2.0 did: attributes, no store."""

    __class__ = property(lambda self: Data)  # the pickler asks

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return copyreg.__newobj__, (Data,), self.state


def write(path, records, length=None):
    with (
        lmdb.open(str(path), subdir=False, map_size=2**24) as environment,
        environment.begin(write=True) as transaction,
    ):
        for i, record in enumerate(records):
            content = record if isinstance(record, bytes) else pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL)
            transaction.put(str(i).encode(), content)
        transaction.put(b"length", pickle.dumps(len(records) if length is None else length))
    return path


@pytest.mark.parametrize("layout", [lambda state: Data(**state), Old, dict], ids=["new", "old", "plain"])
def test_numbers(tmp_path, layout):
    source = write(tmp_path / "ts1x-val.lmdb", [layout(fields()), layout(fields(rxn=torch.tensor(4)))])
    first, second = read("horm", source)
    np.testing.assert_array_equal(first.numbers, [8, 1, 1])
    np.testing.assert_array_equal(first.positions, np.arange(9.0).reshape(3, 3))
    np.testing.assert_array_equal(first.forces, 0.5)
    np.testing.assert_array_equal(first.hessian, np.arange(81.0).reshape(9, 9))
    assert first.energy == pytest.approx(-2046.2425 - 2 * 16.7132 - 0.0809, abs=1e-9)  # not the float32
    assert (first.name, first.group, second.group) == ("ts1x-val/0", "rxn-rxn_17", "rxn-4")
    assert levels("horm", source) == {"wB97X/6-31G(d)"}


def test_energy_without_ae_and_contradicting_ae(tmp_path):
    records = [Data(**fields(ae=None, rxn=None)), Data(**fields(energy=torch.tensor(-2000.0)))]
    source = write(tmp_path / "a.lmdb", records)
    assert reasons("horm", source) == {f"{source}, 1": "energy = -2000.000 eV and ae = -0.081 eV contradict each other"}
    first = next(registry.structures("horm", source))
    assert (first.energy, first.group) == (-2079.75, "H2O")


def test_a_folder_of_shards(tmp_path):
    write(tmp_path / "b.lmdb", [Data(**fields())])
    write(tmp_path / "a.lmdb", [Data(**fields())])
    assert [s.name for s in read("horm", tmp_path)] == ["a/0", "b/0"]


def test_bad_records_are_named(tmp_path):
    records = [Data(**fields(charges=None)), Data(**fields(hessian=torch.zeros(80))), b"\x80\x04nonsense", [1, 2]]
    source = write(tmp_path / "a.lmdb", records, length=5)
    found = reasons("horm", source)
    assert list(found) == [f"{source}, {i}" for i in range(5)]
    assert "no charges" in found[f"{source}, 0"]
    assert "hessian has shape (80,)" in found[f"{source}, 1"]
    assert "not a readable pickle" in found[f"{source}, 2"]
    assert found[f"{source}, 3"] == "is not a record"
    assert found[f"{source}, 4"] == "there is no such key"


def test_a_file_that_is_no_lmdb(tmp_path):
    (tmp_path / "a.lmdb").write_text("no" * 5000)
    with pytest.raises(DataError, match=r"a\.lmdb: is not an LMDB"):
        read("horm", tmp_path / "a.lmdb")


def test_a_hostile_length_is_refused(tmp_path):
    source = write(tmp_path / "a.lmdb", [Data(**fields())], length="many")
    with pytest.raises(DataError, match="says that it holds many records, but has 2 keys"):
        read("horm", source)
    source = write(tmp_path / "b.lmdb", [Data(**fields())], length=10**18)
    with pytest.raises(DataError, match=r"b\.lmdb: says that it holds 1000000000000000000 records, but has 2 keys"):
        read("horm", source)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_truncated_file_does_not_kill_the_process(tmp_path, share):
    source = write(tmp_path / "a.lmdb", [Data(**fields()) for _ in range(50)])
    source.write_bytes(source.read_bytes()[: int(share * source.stat().st_size)])
    with pytest.raises(DataError, match=r"a\.lmdb: is truncated"):
        read("horm", source)


def test_lists_that_hold_themselves_many_times_over(tmp_path):
    """As an array this would have 10^12 elements."""
    bomb = [0.0] * 10
    for _ in range(11):
        bomb = [bomb] * 10
    source = write(tmp_path / "a.lmdb", [Data(**fields(forces=bomb)), Data(**fields(rxn=bomb)), bomb])
    found = list(reasons("horm", source).values())
    assert found == ["holds a list where a tensor belongs"] * 2 + ["is not a record"]
