import signal
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
import yaml
from labelled import assert_same, labelled, reasons

from hessgnn.data.formats import registry, transfer
from hessgnn.data.formats.transfer import ImportOptions, export_data, import_data
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import ConfigError, DataError

LEVEL = ImportOptions(level="GFN2-xTB", hessian_dtype="float64")


def write(path, structures, level=""):
    registry.WRITERS["hip"](structures, path, level)
    return path


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "source.h5", labelled(11), "GFN2-xTB")


def test_import_keeps_everything(source, tmp_path, capsys):
    output = tmp_path / "new" / "out.h5"
    report = import_data("hip", source, output, ImportOptions(hessian_dtype="float64"))
    assert (report.entries, report.structures, report.level, report.unreadable) == (11, 11, "GFN2-xTB", {})
    store = Store.open(output)
    assert_same(list(store), labelled(11))
    assert store.attributes.level_of_theory == "GFN2-xTB"
    assert store.attributes.hessian_dtype == "float64"
    assert yaml.safe_load(store.attributes.provenance)["import"]["format"] == "hip"
    assert [path.name for path in output.parent.iterdir()] == ["out.h5"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[import source.h5] ")]
    assert lines[0].endswith("2/11 entries read")  # the first to reach a tenth
    assert (len(lines), lines[-1]) == (10, "[import source.h5] 11/11 entries read")


def test_import_of_an_export_of_an_import(source, tmp_path):
    import_data("hip", source, tmp_path / "a.h5", LEVEL)
    store = Store.open(tmp_path / "a.h5")
    for name, target in (("ase-db", "b.db"), ("deepmd", "b")):
        assert export_data(store, name, tmp_path / target) == 11
        import_data(name, tmp_path / target, tmp_path / f"{name}.h5", LEVEL)
        again = sorted(Store.open(tmp_path / f"{name}.h5"), key=lambda s: int(s.name.split()[-1]))
        assert_same(again, labelled(11))
    assert export_data(store, "extxyz", tmp_path / "b.xyz", split="test") == 3
    with pytest.raises(DataError, match=r"b\.xyz: exists already"):
        export_data(store, "extxyz", tmp_path / "b.xyz")
    with pytest.raises(ConfigError, match="horm: no such format to export"):
        export_data(store, "horm", tmp_path / "c")


def test_options(source, tmp_path):
    import_data("hip", source, tmp_path / "a.h5", ImportOptions(split="pool", group="composition"), limit=4)
    store = Store.open(tmp_path / "a.h5")
    assert store.splits == {"pool": 4}
    assert store.groups == ["H2O", "C6H6", "H2O", "CH4O"]
    assert store.attributes.hessian_dtype == "float32"
    import_data("hip", source, tmp_path / "b.h5", ImportOptions(group="name"), limit=4)
    assert Store.open(tmp_path / "b.h5").groups == Store.open(tmp_path / "b.h5").names


class Killed(BaseException):
    """What no handler of ours may catch."""


@pytest.mark.parametrize("killed_at", [1, 5, 10])
def test_a_killed_import_goes_on_and_ends_in_the_same_file(source, tmp_path, monkeypatch, killed_at):
    spoilt = [
        replace(s, hessian=np.full_like(s.hessian, np.nan)) if i in (1, 3) else s for i, s in enumerate(labelled(11))
    ]
    spoilt[6] = replace(spoilt[6], name=spoilt[0].name)
    write(tmp_path / "spoilt.h5", spoilt, "GFN2-xTB")
    monkeypatch.setattr(transfer, "PART", 2)
    expected = import_data("hip", tmp_path / "spoilt.h5", tmp_path / "whole.h5")
    load = registry.Entry.read
    loaded = []

    def read(entry):
        if len(loaded) == killed_at:
            raise Killed
        loaded.append(entry.where)
        return load(entry)

    monkeypatch.setattr(registry.Entry, "read", read)
    with pytest.raises(Killed):
        import_data("hip", tmp_path / "spoilt.h5", tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
    first = list(loaded)
    killed_at = None
    report = import_data("hip", tmp_path / "spoilt.h5", tmp_path / "out.h5")
    repeated = [where for where in loaded if loaded.count(where) == 2]
    assert len(set(first) & set(repeated)) * 2 == len(repeated) <= 2 * 4  # no more than what one part spans
    assert replace(report, path=expected.path) == expected
    assert report.renamed == 1
    assert len(report.unreadable) == 2
    whole, resumed = (Store.open(tmp_path / name).attributes for name in ("whole.h5", "out.h5"))
    assert (whole.content_hash, whole.split_hash) == (resumed.content_hash, resumed.split_hash)
    assert not (tmp_path / "out.h5.parts").exists()


@pytest.mark.slow
def test_an_import_killed_by_the_system(source, tmp_path):
    script = f"""
import os, signal
from pathlib import Path
from hessgnn.data.formats import registry, transfer
transfer.PART = 2
load, count = registry.Entry.read, []
def read(entry):
    count.append(1)
    if len(count) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return load(entry)
registry.Entry.read = read
transfer.import_data("hip", Path({str(source)!r}), Path({str(tmp_path / "out.h5")!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(list((tmp_path / "out.h5.parts").glob("part-*.h5"))) == 3
    report = import_data("hip", source, tmp_path / "out.h5")
    assert report.structures == 11
    assert Store.open(tmp_path / "out.h5").names == [s.name for s in labelled(11)]
    assert not (tmp_path / "out.h5.parts").exists()


@pytest.mark.parametrize(("options", "limit"), [(ImportOptions(split="pool"), 4), (ImportOptions(), 3)])
def test_parts_belong_to_one_way_to_take_a_source(source, tmp_path, monkeypatch, options, limit):
    monkeypatch.setattr(transfer, "PART", 2)

    def write_parts_only(path, *arguments, **keywords):
        if not path.name.startswith("part"):
            raise Killed
        write_store(path, *arguments, **keywords)

    with monkeypatch.context() as killing:
        killing.setattr(transfer, "write_store", write_parts_only)
        with pytest.raises(Killed):
            import_data("hip", source, tmp_path / "out.h5")
    assert len(list((tmp_path / "out.h5.parts").iterdir())) == 6
    (tmp_path / "out.h5.parts" / ".part-x-000006.h5.abc.tmp").touch()  # of a write that was killed
    import_data("hip", source, tmp_path / "out.h5", options, limit=limit)  # other, or fewer than the parts hold
    store = Store.open(tmp_path / "out.h5")
    assert len(store) == limit
    assert ("pool" in store.splits) == bool(options.split)
    assert not (tmp_path / "out.h5.parts").exists()


def test_what_is_wrong_is_listed_and_the_rest_taken(tmp_path):
    made = labelled(5)
    made[0] = replace(made[0], forces=np.full((3, 3), np.inf))
    made[2] = replace(made[2], hessian=np.triu(np.ones((9, 9))))
    made[3] = replace(made[3], energy=None, forces=None, hessian=None)
    source = write(tmp_path / "a.h5", made)
    with h5py.File(source, "r+") as file:
        del file["config_batch_0/config_4/positions"]
    report = import_data("hip", source, tmp_path / "out.h5", LEVEL)
    assert Store.open(tmp_path / "out.h5").names == [made[1].name]
    places = [f"{source}, config_batch_0/config_{i}" for i in (0, 2, 3, 4)]
    assert list(report.unreadable) == places
    found = list(report.unreadable.values())
    assert found[0] == "forces holds NaN or infinity"
    assert "the Hessian is not symmetric" in found[1]
    assert found[2] == "has no energy, forces, Hessian or directions"
    assert "cannot be read" in found[3]
    assert yaml.safe_load(Store.open(tmp_path / "out.h5").attributes.provenance)["unreadable"] == report.unreadable


def test_taken_names_get_a_number(tmp_path):
    made = [replace(s, name="water", group="water") for s in labelled(3)]
    made[1] = replace(made[1], name="water#2", group="other")
    report = import_data("hip", write(tmp_path / "a.h5", made), tmp_path / "out.h5", LEVEL)
    store = Store.open(tmp_path / "out.h5")
    assert store.names == ["water", "water#2", "water#3"]
    assert (report.renamed, store.groups) == (1, ["water", "other", "water"])


def test_nothing_is_written_when_nothing_can_be_read(tmp_path, monkeypatch):
    bare = [replace(s, energy=None, forces=None, hessian=None) for s in labelled(4)]
    source = write(tmp_path / "a.h5", bare)
    with pytest.raises(DataError, match=r"none of its 4 entries can be read; the first: .*config_0: has no energy"):
        import_data("hip", source, tmp_path / "out.h5", LEVEL)
    monkeypatch.setattr(transfer, "HOPELESS", 2)
    with pytest.raises(DataError, match="none of the first 2 entries can be read"):
        import_data("hip", source, tmp_path / "out.h5", LEVEL)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_group("config_batch_0")
    with pytest.raises(DataError, match="holds nothing that hip could read"):
        import_data("hip", tmp_path / "b.h5", tmp_path / "out.h5", LEVEL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_levels_of_theory(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    write(folder / "a.h5", labelled(1), "GFN2-xTB")
    write(folder / "b.h5", labelled(1), "GFN1-xTB")
    with pytest.raises(DataError, match=r"b\.h5.*is at GFN1-xTB, what came before at GFN2-xTB"):
        import_data("hip", folder, tmp_path / "out.h5")
    report = import_data("hip", folder, tmp_path / "out.h5", ImportOptions(level="xTB"))
    assert Store.open(report.path).attributes.level_of_theory == "xTB"
    write(tmp_path / "c.h5", labelled(1))
    with pytest.raises(DataError, match=r"level of theory is not in the source.*--level"):
        import_data("hip", tmp_path / "c.h5", tmp_path / "new.h5")


def test_nothing_is_overwritten(source, tmp_path):
    (tmp_path / "out.h5").write_text("mine")
    with pytest.raises(DataError, match=r"out\.h5: exists already"):
        import_data("hip", source, tmp_path / "out.h5")
    assert (tmp_path / "out.h5").read_text() == "mine"


def test_unknown_formats_and_sources(source, tmp_path):
    with pytest.raises(ConfigError, match=r"extxys: no such format to import.*'extxyz'"):
        import_data("extxys", source, tmp_path / "out.h5")
    with pytest.raises(DataError, match="absent: no such file or folder"):
        import_data("hip", tmp_path / "absent", tmp_path / "out.h5")


def test_one_file_is_one_format(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.READERS, "_found", dict(registry.READERS))

    @registry.reader("mine")
    def read(source):
        for i, structure in enumerate(labelled(3)):
            yield registry.Entry(f"{source}, {i}", lambda s=structure: (s, "made up"))

    (tmp_path / "x").touch()
    assert_same(list(registry.structures("mine", tmp_path / "x")), labelled(3))
    assert import_data("mine", tmp_path / "x", tmp_path / "out.h5").level == "made up"


def of_states(*states):
    """A format whose structures have these charges and multiplicities."""

    def read(source):
        for structure, state in zip(labelled(len(states)), states, strict=True):
            yield registry.Entry(structure.name, lambda s=structure, state=state: registry.Record(s, "DFT", state))

    return read


def test_charged_and_neutral_ones_are_not_mixed_unnoticed(tmp_path, monkeypatch):
    (tmp_path / "x").touch()
    monkeypatch.setattr(
        registry.READERS, "_found", {"mixed": of_states("", "charge -1", ""), "ions": of_states(*["charge +1"] * 2)}
    )
    with pytest.raises(DataError, match="is at DFT, charge -1, what came before at DFT: a set has one level of theory"):
        import_data("mixed", tmp_path / "x", tmp_path / "a.h5")
    report = import_data("mixed", tmp_path / "x", tmp_path / "b.h5", ImportOptions(level="any charge"))
    assert report.states == {"usual": 2, "charge -1": 1}
    assert yaml.safe_load(Store.open(tmp_path / "b.h5").attributes.provenance)["states"] == report.states
    assert import_data("ions", tmp_path / "x", tmp_path / "c.h5").level == "DFT, charge +1"


def test_parts_of_large_structures_are_small(source, tmp_path, monkeypatch):
    """What is in memory together does not grow with the structures."""
    monkeypatch.setattr(transfer, "PART_NUMBERS", 1000)
    sizes = []

    def counted(path, structures, **keywords):
        structures = list(structures)
        if path.name.startswith("part"):
            sizes.append(sum(9 * len(s) ** 2 for s in structures[:-1]))
        write_store(path, structures, **keywords)

    monkeypatch.setattr(transfer, "write_store", counted)
    assert import_data("hip", source, tmp_path / "out.h5").structures == 11
    assert len(sizes) > 2
    assert max(sizes) <= 1000


def test_a_source_that_cannot_even_be_listed(tmp_path, monkeypatch):
    def read(source):
        yield registry.Entry("first", lambda: (labelled(1)[0], "x"))
        raise KeyError("no such group")

    monkeypatch.setattr(registry.READERS, "_found", {"broken": read})
    (tmp_path / "x").touch()
    with pytest.raises(DataError, match=r"x: cannot be read \(KeyError: 'no such group'\). Hint: check the format"):
        import_data("broken", tmp_path / "x", tmp_path / "out.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_sizes_that_a_file_only_claims(tmp_path):
    """HDF5 hands out as many zeros as it is asked for."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("H2")
        group["atomic_numbers"] = [1, 1]
        group.create_dataset("coordinates", (2, 10**6, 10**6), "f8", chunks=(1, 1000, 1000))
    found = reasons("ani1x", tmp_path / "a.h5")
    assert set(found.values()) == {"/H2/coordinates claims 1000000000000 numbers for one structure"}
