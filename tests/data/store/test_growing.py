"""Stores that grow: nothing lost, nothing doubled, whatever happens to the writer."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import endless_writer
import h5py
import numpy as np
import pytest
import yaml
from endless_writer import LEVEL, structure

import hessgnn
from hessgnn.data.store import writer as writer_module
from hessgnn.data.store.growing import StoreWriter, merge_stores
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import DataError, UserError

ENVIRONMENT = os.environ | {"PYTHONPATH": f"{Path(endless_writer.__file__).parent}:{Path(hessgnn.__file__).parents[1]}"}


def written(path: Path, numbers: range, level: str = LEVEL, **options: str) -> Path:
    write_store(path, [structure(n) for n in numbers], level_of_theory=level, **options)  # type: ignore[arg-type]
    return path


def content(path: Path) -> str:
    store = Store.open(path)
    store.verify()
    return store.attributes.content_hash


def killed(path: Path, total: int, seconds: float) -> tuple[int, bool]:
    """Let a writer run, kill it, and tell what it said it had committed and whether it was at its end."""
    script = [sys.executable, endless_writer.__file__, str(path), str(total)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline()]  # it has begun
        time.sleep(seconds)
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.readlines()
    return max(int(line) for line in told if line.endswith("\n")), writer.returncode == 0


def loses_nothing(path: Path, kills: int, longest: float, seed: int) -> None:
    """Kill a writer again and again, look at what it leaves each time, and let the last one end."""
    rng, counts = random.Random(seed), [0]
    for _ in range(kills):
        promised, ended = killed(path, 10**6, rng.uniform(0, longest))
        assert not ended
        if path.exists():
            store = Store.open(path)
            store.verify()
            assert store.names == [f"structure {n}" for n in range(len(store))]
            counts.append(len(store))
        assert counts[-1] >= max(promised, *counts)
    assert counts[-1] > 0
    endless_writer.main(path, counts[-1] + 20)
    written(path.with_name("whole.h5"), range(counts[-1] + 20))
    assert content(path) == content(path.with_name("whole.h5"))
    assert sorted(each.name for each in path.parent.iterdir()) == sorted([path.name, "whole.h5"])


def test_a_killed_writer_loses_and_doubles_nothing(tmp_path: Path) -> None:
    loses_nothing(tmp_path / "set.h5", kills=5, longest=0.4, seed=0)


@pytest.mark.slow
def test_a_writer_killed_a_hundred_times_loses_and_doubles_nothing(tmp_path: Path) -> None:
    loses_nothing(tmp_path / "set.h5", kills=100, longest=1.0, seed=1)


def test_a_writer_commits_by_itself_when_the_file_has_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hessgnn.data.store.growing.FIRST_COMMIT", 4)
    committed = []
    with StoreWriter(tmp_path / "set.h5", level_of_theory=LEVEL) as writer:
        for number in range(20):
            writer.append(structure(number))
            committed.append(writer.committed)
    assert sorted(set(committed)) == [0, 4, 8, 16]
    assert len(Store.open(tmp_path / "set.h5")) == 20
    assert content(tmp_path / "set.h5") == content(written(tmp_path / "whole.h5", range(20)))


@pytest.mark.parametrize("contiguous", [-1, 1 << 30])
def test_commits_give_what_is_written_at_once(tmp_path: Path, contiguous: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough Hessians for several chunks, in three commits."""
    monkeypatch.setattr(writer_module, "CONTIGUOUS", contiguous)
    for stop in (150, 151, 400):
        with StoreWriter(tmp_path / "set.h5", level_of_theory=LEVEL, provenance="first") as writer:
            for number in range(len(writer), stop):
                writer.append(structure(number))
    with h5py.File(tmp_path / "set.h5") as file:
        assert contiguous < 0 or len(file["hessian"]) > 3 * file["hessian"].chunks[0]
        assert (file["hessian"].chunks is None) == (contiguous < 0)
    assert content(tmp_path / "set.h5") == content(written(tmp_path / "whole.h5", range(400)))
    assert Store.open(tmp_path / "set.h5").attributes.provenance == "first"


def test_an_error_leaves_what_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    with StoreWriter(path, level_of_theory=LEVEL) as writer:
        writer.append(structure(0))
    before = path.read_bytes()

    def fail() -> None:
        with StoreWriter(path, level_of_theory=LEVEL) as writer:
            writer.append(structure(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_refused_structure_is_not_added_and_the_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    with StoreWriter(path, level_of_theory=LEVEL) as writer:
        writer.append(structure(0))
        with pytest.raises(DataError, match="this name occurs twice"):
            writer.append(structure(0))
        with pytest.raises(DataError, match="energy holds NaN"):
            writer.append(replace(structure(1), energy=np.nan))
        writer.append(structure(1))
    assert content(path) == content(written(tmp_path / "whole.h5", range(2)))


def test_a_file_of_another_level_or_damaged_is_not_appended_to(tmp_path: Path) -> None:
    path = written(tmp_path / "set.h5", range(2), level="GFN2-xTB")
    with pytest.raises(DataError, match=r"set\.h5: is at GFN2-xTB, and what is appended at none: a set has one level"):
        StoreWriter(path, level_of_theory=LEVEL)
    with h5py.File(path, "r+") as file:
        file["energy"][0] += 1
    with pytest.raises(DataError, match=r"set\.h5: the content does not match"):
        StoreWriter(path, level_of_theory="GFN2-xTB")
    assert list(tmp_path.iterdir()) == [path]


def test_one_process_at_a_time_writes(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "set.h5", level_of_theory=LEVEL) as writer:
        writer.append(structure(0))
        with pytest.raises(UserError, match=r"set\.h5: another process is writing it"):
            StoreWriter(tmp_path / "set.h5", level_of_theory=LEVEL)
    assert len(Store.open(tmp_path / "set.h5")) == 1


def test_merged_files_hold_what_one_file_would(tmp_path: Path) -> None:
    parts = [
        written(tmp_path / f"{k}.h5", range(100 * k, 100 * k + 100), versions={"code": str(k // 2)}) for k in range(3)
    ]  # type: ignore[arg-type]
    merged = merge_stores(parts, tmp_path / "merged.h5")
    assert content(merged.path) == content(written(tmp_path / "whole.h5", range(300)))
    assert merged.attributes.split_hash == Store.open(tmp_path / "whole.h5").attributes.split_hash
    assert merged.attributes.versions == {"code": "0, 1"}
    origin = yaml.safe_load(merged.attributes.provenance)["merged"]
    assert [(one["file"], one["structures"]) for one in origin] == [("0.h5", 100), ("1.h5", 100), ("2.h5", 100)]
    for found, expected in zip(merged, Store.open(tmp_path / "whole.h5"), strict=True):
        assert (found.name, found.group, found.kind, found.split) == (
            expected.name,
            expected.group,
            expected.kind,
            expected.split,
        )
        np.testing.assert_array_equal(found.positions, expected.positions)
        assert (found.hessian is None) == (expected.hessian is None)
    appended = merge_stores(parts, parts[0])
    assert content(appended.path) == content(merged.path)


def test_the_wider_precision_is_kept(tmp_path: Path) -> None:
    parts = [
        written(tmp_path / f"{dtype}.h5", numbers, hessian_dtype=dtype)
        for dtype, numbers in (("float32", range(3)), ("float64", range(3, 6)))
    ]
    merged = merge_stores(parts, tmp_path / "merged.h5")
    assert merged.attributes.hessian_dtype == "float64"
    np.testing.assert_array_equal(merged[4].hessian, structure(4).hessian)


def as_version_1(path: Path) -> Path:
    """As the first release wrote it: no parents, datasets of a fixed length."""
    with h5py.File(path, "r+") as file:
        for key in list(file):
            values = file[key][()]
            del file[key]
            if key != "parent":
                file.create_dataset(
                    key, data=values, chunks=(min(len(values), 10), *values.shape[1:]), compression="gzip"
                )
        file.attrs["format_version"] = 1
    return path


def test_files_of_an_older_version_and_other_chunks_are_taken(tmp_path: Path) -> None:
    old, new = as_version_1(written(tmp_path / "old.h5", range(30))), written(tmp_path / "new.h5", range(30, 50))
    assert content(merge_stores([old, new], tmp_path / "merged.h5").path) == content(
        written(tmp_path / "whole.h5", range(50))
    )
    with StoreWriter(old, level_of_theory=LEVEL) as writer:
        writer.append(structure(30))
    assert Store.open(old).parents == [""] * 31


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: written(path, range(5, 9), level="DFT"), r"b\.h5: is at DFT, and .*a\.h5 at none"),
        (lambda path: written(path, range(3, 9)), r"b\.h5 and .*a\.h5: the name 'structure 3' is taken"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), r"b\.h5: is (truncated|not an HDF5 file)"),
        (lambda path: path.write_text("not HDF5"), r"b\.h5: is not an HDF5 file"),
        (lambda path: path.unlink(), r"b\.h5: no such data set"),
    ],
)
@pytest.mark.parametrize("in_place", [False, True])
def test_bad_sources_are_told_and_nothing_is_touched(tmp_path: Path, spoil, message: str, in_place: bool) -> None:  # type: ignore[no-untyped-def]
    paths = [written(tmp_path / "a.h5", range(4)), written(tmp_path / "b.h5", range(4, 9))]
    spoil(paths[1])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match=message):
        merge_stores(paths, paths[0] if in_place else tmp_path / "merged.h5")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


FULL_DISK = """
import resource, sys
from endless_writer import LEVEL, structure
from hessgnn.data.store import writer as writer_module
from hessgnn.data.store.growing import StoreWriter
from hessgnn.errors import UserError

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)  # as a full disk: writing more fails
try:
    with StoreWriter(sys.argv[1], level_of_theory=LEVEL) as writer:
        for number in range(len(writer), 400):
            writer.append(structure(number))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [60_000, 200_000])
def test_a_full_disk_is_told_and_the_file_stays(tmp_path: Path, limit: int) -> None:
    path = written(tmp_path / "set.h5", range(3))
    before = path.read_bytes()
    (tmp_path / "full.py").write_text(FULL_DISK)
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "full.py"), str(path), str(limit)],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    )
    assert ended.stdout.count("\n") == 1
    assert "set.h5: writing failed" in ended.stdout
    assert ended.stderr == ""
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["full.py", "set.h5"]


def test_versions_and_units_stay_readable(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "set.h5", level_of_theory=LEVEL, versions={"code": "1"}) as writer:
        writer.append(structure(0))
    with StoreWriter(tmp_path / "set.h5", level_of_theory=LEVEL, versions={"code": "2", "other": "1"}) as writer:
        writer.append(structure(1))
    with h5py.File(tmp_path / "set.h5") as file:
        assert json.loads(file.attrs["versions"]) == {"code": "1, 2", "other": "1"}
        assert json.loads(file.attrs["units"])["hessian"] == "eV/Angstrom^2"
