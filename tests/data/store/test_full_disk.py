"""A full disk and a forbidden folder: one line, exit status 2, the target untouched and nothing beside it."""

import resource
from contextlib import contextmanager

import h5py
import numpy as np
import pytest

from hessgnn.cli import main
from hessgnn.data.formats import registry
from hessgnn.data.store.hdf5 import HDF5Output
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import UserError

VERBS = {
    "split": ("split", "rtp-mini", "-o", "TARGET"),
    "import": ("import", "hip", "SOURCE", "-o", "TARGET", "--level", "x"),
    **{
        name: ("export", "rtp-mini", name, "TARGET", "--split", "validation")
        for name in registry.WRITERS
        if name != "phonopy"  # of crystals only
    },
}


@contextmanager
def largest_file(size):
    """The system refuses to let files grow further, as on a full disk; Python ignores the signal that says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run(verb, target, source=""):
    arguments = [{"TARGET": str(target), "SOURCE": str(source)}.get(word, word) for word in VERBS[verb]]
    with pytest.raises(SystemExit) as exit_:
        main(arguments=["data", *arguments])
    return exit_.value.code


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "source.h5"
    store = Store.open("rtp-mini")
    registry.WRITERS["hip"]((store[int(i)] for i in store.indices("validation")), path, "GFN2-xTB")
    return path


@pytest.mark.parametrize("size", [2_000, 60_000])
@pytest.mark.parametrize("verb", VERBS)
def test_full_disk(verb, size, source, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "full"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if verb == "deepmd":
        size = min(size, 3_000)  # many small files
    with largest_file(size):
        assert run(verb, folder / "target", source) == 2
    printed = capfd.readouterr().err
    (line,) = [line for line in printed.splitlines() if line.strip()]
    assert line.startswith("error: ")
    assert "writing failed" in line
    assert "Hint: free some disk space" in line
    left = [path.name for path in folder.rglob("*") if path.is_file()]
    assert left == [], left


@pytest.mark.parametrize("verb", VERBS)
def test_folder_that_cannot_be_written_to(verb, source, tmp_path, capfd):
    (tmp_path / "file").write_text("mine")
    assert run(verb, tmp_path / "file" / "target", source) == 2
    printed = capfd.readouterr().err
    assert printed.count("error:") == 1
    assert "Hint: " in printed
    assert printed.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_there_is_kept(tmp_path):
    """A store may be written again, and stays if that fails."""
    few = [Store.open("rtp-mini")[i] for i in range(30)]
    write_store(tmp_path / "a.h5", few, level_of_theory="x")
    before = (tmp_path / "a.h5").read_bytes()
    with largest_file(20_000), pytest.raises(UserError, match="writing failed"):
        write_store(tmp_path / "a.h5", [Store.open("rtp-mini")[i] for i in range(300)], level_of_theory="x")
    assert (tmp_path / "a.h5").read_bytes() == before


def test_an_hdf5_file_that_can_be_written(tmp_path):
    values = np.random.default_rng(0).normal(size=100_000)
    with HDF5Output(tmp_path / "a.h5") as file:
        dataset = file.create_dataset("x", (0,), "f8", maxshape=(None,), chunks=(5_000,), compression="gzip")
        for start in range(0, len(values), 10_000):
            dataset.resize(start + 10_000, axis=0)
            dataset[start:] = values[start : start + 10_000]
            file.require_written()
        file.attrs["text"] = "é"
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["x"][()], values)
        assert file.attrs["text"] == "é"


def test_an_error_in_the_block_goes_before_the_disk(tmp_path, capfd):
    def write():
        with HDF5Output(tmp_path / "a.h5") as file:
            file["x"] = np.zeros(10_000)
            _ = 1 / 0

    with largest_file(5_000), pytest.raises(ZeroDivisionError):
        write()
    assert capfd.readouterr().err == ""


def test_the_loop_learns_of_a_full_disk(tmp_path, capfd):
    written = []

    def write():
        with HDF5Output(tmp_path / "a.h5") as file:
            for i in range(10_000):
                file[f"{i}"] = np.zeros(1_000)
                file.require_written()
                written.append(i)

    with largest_file(50_000), pytest.raises(OSError, match="File too large"):
        write()
    assert 0 < len(written) < 100
    assert capfd.readouterr().err == ""
