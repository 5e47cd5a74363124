"""Flat arrays of a store: small ones in memory, large ones mapped from the file or, unpacked, from a scratch file."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from hessgnn.data.loader import Loader
from hessgnn.data.store import columns, writer
from hessgnn.data.store.columns import Columns, ragged
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import DataError, UserError

KEYS = ("numbers", "positions", "forces", "hessian", "cell", "name")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch folder; every array is large."""
    monkeypatch.setenv(columns.SCRATCH, str(tmp_path / "cache"))
    monkeypatch.setattr(columns, "IN_MEMORY", 0)
    monkeypatch.setattr(columns, "_BLOCK", 1000)  # several blocks
    return tmp_path / "cache" / "stores"


def files(scratch: Path) -> list[Path]:
    return sorted(scratch.glob("*/*.npy"))


def test_runs_of_a_flat_array() -> None:
    np.testing.assert_array_equal(ragged(np.array([7, 0, 3]), np.array([2, 0, 3])), [7, 8, 3, 4, 5])
    assert ragged(np.zeros(0, np.int64), np.zeros(0, np.int64)).size == 0


def test_mapped_arrays_are_those_in_memory(scratch: Path) -> None:
    store = Store.open("rtp-mini")
    in_memory = Columns(store.path, store.attributes.content_hash)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "IN_MEMORY", 10**9)
        expected = {key: in_memory.array(key) for key in KEYS}
    assert files(scratch) == []
    for key in KEYS:
        found = store.columns.array(key)
        assert not found.flags.writeable
        assert found.dtype == expected[key].dtype
        np.testing.assert_array_equal(found, expected[key])
    assert {path.stem for path in files(scratch)} == set(KEYS)


def test_a_share_makes_no_scratch_file(scratch: Path) -> None:
    store = Store.open("rtp-mini")
    assert store[3].hessian is not None
    assert files(scratch) == []


def test_a_scratch_file_is_made_once_and_used_by_copies(scratch: Path) -> None:
    store = Store.open("rtp-mini")
    expected = store.columns.array("forces")
    (path,) = files(scratch)
    before = path.stat().st_mtime_ns
    for other in (Store.open("rtp-mini"), pickle.loads(pickle.dumps(store))):
        np.testing.assert_array_equal(other.columns.array("forces"), expected)
    assert path.stat().st_mtime_ns == before
    assert files(scratch) == [path]


def test_a_changed_store_does_not_get_the_scratch_file_of_the_old(scratch: Path, tmp_path: Path) -> None:
    path, bundled = tmp_path / "set.h5", Store.open("rtp-mini")
    write_store(path, [bundled[0]], level_of_theory="none")
    np.testing.assert_array_equal(Store.open(path).columns.array("positions"), bundled[0].positions)
    write_store(path, [bundled[1]], level_of_theory="none")
    np.testing.assert_array_equal(Store.open(path).columns.array("positions"), bundled[1].positions)


def test_what_nobody_used_for_long_is_removed(scratch: Path) -> None:
    old, recent = scratch / "old", scratch / "recent"
    for folder, days in ((old, columns.KEPT_DAYS + 1), (recent, 1)):
        folder.mkdir(parents=True)
        (folder / "forces.npy").touch()
        os.utime(folder, (0, time.time() - days * 86400))
    Store.open("rtp-mini").columns.array("forces")
    assert not old.exists()
    assert recent.exists()


def test_too_little_space_is_told(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(DataError, match=r"rtp-mini\.h5: unpacking forces takes .* GB free\. Hint: .*HESSGNN_CACHE"):
        Store.open("rtp-mini").columns.array("forces")
    assert files(scratch) == []


def test_a_damaged_dataset_is_told(scratch: Path, tmp_path: Path) -> None:
    path, bundled = tmp_path / "set.h5", Store.open("rtp-mini")
    write_store(path, [bundled[i] for i in range(60)], level_of_theory="none")
    content = bytearray(path.read_bytes())
    with Store.open(path) as store:
        info = store.columns._file["hessian"].id.get_chunk_info(0)
    for k in range(info.byte_offset + 100, info.byte_offset + 200):
        content[k] ^= 0xFF
    path.write_bytes(content)
    store = Store.open(path)
    assert store.names[0]
    for ask in (lambda: store[0], lambda: store.columns.array("hessian"), store.verify):
        with pytest.raises(DataError, match=r"set\.h5: is damaged: .* cannot be read"):
            ask()
    assert files(scratch) == []


@pytest.fixture
def contiguous(scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store all of whose numbers are written contiguous, in several blocks that do not fit into memory."""
    monkeypatch.setattr(writer, "CONTIGUOUS", -1)
    monkeypatch.setattr(writer, "_WAITING", 5000)
    monkeypatch.setattr(writer, "_BLOCK", 1000)
    bundled = Store.open("rtp-mini")
    chosen = [replace(bundled[i], forces=None if i % 3 else bundled[i].forces) for i in range(60)]
    write_store(tmp_path / "set.h5", chosen, level_of_theory="none")
    assert [path.name for path in tmp_path.iterdir()] == ["set.h5"]
    return tmp_path / "set.h5"


def test_contiguous_arrays_are_those_of_a_compressed_file(
    contiguous: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(contiguous)
    store.verify()
    monkeypatch.setattr(writer, "CONTIGUOUS", 10**9)
    write_store(tmp_path / "compressed.h5", store, level_of_theory="none")
    compressed = Store.open(tmp_path / "compressed.h5")
    assert compressed.attributes.content_hash == store.attributes.content_hash
    assert compressed.path.stat().st_size < store.path.stat().st_size
    for key in KEYS:
        found = store.columns.array(key)
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, compressed.columns._read(key))
        np.testing.assert_array_equal(store.columns.rows(key, 3, 11), found[3:11])
    store.close()
    np.testing.assert_array_equal(store[7].positions, compressed[7].positions)
    assert {path.stem for path in files(scratch)} <= {"name"}


def test_a_contiguous_file_is_shared_and_stays_readable_when_it_is_replaced(contiguous: Path) -> None:
    store = Store.open(contiguous)
    positions, before = store.columns.array("positions"), Store.open("rtp-mini")[5].positions
    region = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("set.h5")]
    assert any(" r--s " in line for line in region)  # shared with other processes, and read only
    write_store(contiguous, [Store.open("rtp-mini")[70]], level_of_theory="none")
    np.testing.assert_array_equal(store.per_atom("positions", 5), before)
    assert len(positions) == store.n_atoms.sum()
    sent = pickle.loads(pickle.dumps(store.columns))
    for columns_ in (sent, Columns(contiguous, "another")):
        with pytest.raises(DataError, match=r"set\.h5: was replaced by other data\. Hint: start again"):
            columns_.array("positions")
    contiguous.unlink()
    with pytest.raises(DataError, match=r"set\.h5: can no longer be opened"):
        sent.array("positions")


def test_a_truncated_contiguous_file_is_refused(contiguous: Path) -> None:
    contiguous.write_bytes(contiguous.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"set\.h5: is truncated"):
        Store.open(contiguous)


def test_the_folder_of_scratch_files_may_be_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(columns.SCRATCH, "~/c")
    assert columns.scratch("stores") == tmp_path / "c" / "stores"
    monkeypatch.setenv(columns.SCRATCH, "~nobody-of-this-name/c")
    with pytest.raises(UserError, match=columns.SCRATCH):
        columns.scratch("stores")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"A" * 1000)
    os.utime(path)  # clocks of file systems are coarse


def truncate(path: Path) -> None:
    os.truncate(path, 4096)


@pytest.mark.parametrize("change", [overwrite, truncate])
def test_a_store_that_is_changed_while_it_is_read(
    contiguous: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader(Store.open(contiguous), range(8), 4.0, 4, torch.float64)
    arrays = loader.collator.arrays(loader.indices[:4])
    assert loader.batch(0).labels is not None
    change(contiguous)
    for function in (loader.batch, lambda _: loader.collator.arrays(loader.indices[:4])):
        with pytest.raises(DataError, match=r"was changed while it was read\. Hint: .*mv"):
            function(1)
    monkeypatch.setattr(loader.collator, "arrays", lambda _: arrays)  # made by a worker
    with pytest.raises(DataError, match="was changed"):
        loader.batch(0)


def test_a_dataset_of_a_changed_store_is_not_mapped(contiguous: Path) -> None:
    store = Store.open(contiguous)
    assert store[0].name
    truncate(contiguous)
    store.columns._arrays.clear()  # as another dataset that has not been asked for
    with pytest.raises(DataError, match="was changed"):
        store.hessian(0)


def test_a_store_that_is_replaced_or_removed_stays_readable(contiguous: Path, tmp_path: Path) -> None:
    loader = Loader(Store.open(contiguous), range(8), 4.0, 4, torch.float64)
    before = loader.batch(1).positions
    other = tmp_path / "other.h5"
    other.write_bytes(b"other")
    other.replace(contiguous)
    assert torch.equal(loader.batch(1).positions, before)
    contiguous.unlink()
    assert torch.equal(loader.batch(1).positions, before)


@pytest.mark.parametrize("way", ["external storage", "virtual", "external link", "soft link", "external group"])
def test_a_store_that_reads_other_files_is_refused(contiguous: Path, tmp_path: Path, way: str) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"secret" * 10**6)
    with h5py.File(contiguous, "r+") as file:
        data = file["hessian"][:]
        del file["hessian"]
        if way == "external storage":
            file.create_dataset("hessian", shape=data.shape, dtype="f4", external=[(str(foreign), 0, data.nbytes)])
        elif way == "virtual":
            layout = h5py.VirtualLayout(shape=data.shape, dtype="f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "hessian", shape=data.shape)
            file.create_virtual_dataset("hessian", layout)
        elif way == "external link":
            file["hessian"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "hessian")
        else:
            file["hessian"] = h5py.SoftLink("/other/hessian" if way == "external group" else "/positions")
            if way == "external group":
                file["other"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["hessian"] = data
    with pytest.raises(DataError, match="outside of itself"):
        Store.open(contiguous)
    columns_ = Columns(contiguous, Store.open("rtp-mini").attributes.content_hash)
    with pytest.raises(DataError, match=r"outside of itself|other data"):
        columns_.array("hessian")
