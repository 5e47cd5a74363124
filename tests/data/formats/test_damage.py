"""Whatever happens to a source, there is one line with file and reason: no traceback, no endless loop, no crash."""

import random

import numpy as np
import pytest
import test_format_gaussian as gaussian
import test_format_orca as orca
from ase import Atoms
from ase.vibrations import VibrationsData
from labelled import labelled

from hessgnn.data.formats import registry
from hessgnn.data.formats.transfer import ImportOptions, import_data
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError


def exported(name, suffix):
    def make(folder):
        target = folder / f"source{suffix}"
        registry.WRITERS[name](labelled(3), target, "GFN2-xTB")
        return target

    return make


def of_text(suffix, content):
    def make(folder):
        (folder / f"source{suffix}").write_text(content())
        return folder / f"source{suffix}"

    return make


def hess():
    values = np.random.default_rng(0).normal(size=(9, 9)).round(6)
    return orca.hess(values + values.T)


def vibrations(folder):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7]])
    VibrationsData.from_2d(atoms, np.eye(6)).write(str(folder / "source.json"))
    return folder / "source.json"


def arrow(folder):
    pytest.importorskip("pyarrow", reason="the extra 'formats' is not installed")
    import test_format_hessian_qm9 as qm9

    qm9.by_hand(folder / "vacuum")
    return folder / "vacuum" / "data-00000-of-00002.arrow"


def lmdb(folder):
    pytest.importorskip("lmdb", reason="the extra 'formats' is not installed")
    import test_format_horm as horm

    return horm.write(folder / "source.lmdb", [horm.Data(**horm.fields()) for _ in range(20)])


def hdf5(fill):
    def make(folder):
        import h5py

        with h5py.File(folder / "source.h5", "w") as file:
            fill(file)
        return folder / "source.h5"

    return make


def fill_openreact(file):
    file["water/coordinates"], file["water/species"] = np.eye(3), np.array([b"O", b"H", b"H"])
    file["water/energies"], file["water/forces"] = -76.0, np.zeros((3, 3))


def fill_ani1x(file):
    file["H2O/atomic_numbers"], file["H2O/coordinates"] = np.array([8, 1, 1]), np.ones((4, 3, 3))
    file["H2O/wb97x_dz.energy"] = np.full(4, -76.0)


def fill_transition1x(file):
    file["train/H2/rxn/atomic_numbers"], file["train/H2/rxn/positions"] = np.array([1, 1]), np.ones((4, 2, 3))
    file["train/H2/rxn/wB97x_6-31G(d).energy"] = np.full(4, -31.0)


def deepmd(part):
    def make(folder):
        registry.WRITERS["deepmd"](labelled(3), folder / "system", "GFN2-xTB")
        return next(iter(sorted((folder / "system").rglob(part))))

    return make


SOURCES = {
    "ani1x": ("ani1x", hdf5(fill_ani1x)),
    "ase-db": ("ase-db", exported("ase-db", ".db")),
    "ase-db as JSON": ("ase-db", exported("ase-db", ".json")),
    "deepmd": ("deepmd", deepmd("hessian.npy")),
    "deepmd, frames": ("deepmd", deepmd("frames.json")),
    "deepmd, types": ("deepmd", deepmd("type.raw")),
    "extxyz": ("extxyz", exported("extxyz", ".xyz")),
    "fchk": ("gaussian", of_text(".fchk", gaussian.fchk)),
    "gaussian": ("gaussian", of_text(".log", gaussian.log)),
    "hessian-qm9": ("hessian-qm9", arrow),
    "hip": ("hip", exported("hip", ".h5")),
    "horm": ("horm", lmdb),
    "openreact": ("openreact", hdf5(fill_openreact)),
    "orca": ("orca", of_text(".hess", hess)),
    "transition1x": ("transition1x", hdf5(fill_transition1x)),
    "vibrations": ("vibrations", vibrations),
}


def root_of(name, damaged, folder):
    """What the reader is given: the file, or the folder that it belongs to."""
    return {"deepmd": folder / "system", "hessian-qm9": folder / "vacuum"}.get(name, damaged)


def read_all(name, source):
    """Everything that can still be read; all else must be a :class:`DataError` of one line."""
    found, errors = [], []
    try:
        for entry in registry.entries(name, source):
            try:
                found.append(entry.read().structure)
            except DataError as error:
                errors.append(error)
    except DataError as error:
        errors.append(error)
    assert all(error.where is not None and "\n" not in str(error) for error in errors)
    return found


@pytest.mark.parametrize("case", SOURCES)
def test_sources_can_be_read(tmp_path, case):
    name, make = SOURCES[case]
    assert read_all(name, root_of(name, make(tmp_path), tmp_path))


@pytest.mark.parametrize("case", SOURCES)
def test_truncated(tmp_path, case):
    name, make = SOURCES[case]
    path = make(tmp_path)
    content = path.read_bytes()
    whole = len(read_all(name, root_of(name, path, tmp_path)))
    for share in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        path.write_bytes(content[: int(share * len(content))])
        assert len(read_all(name, root_of(name, path, tmp_path))) <= whole
    path.write_bytes(content[: len(content) // 3])
    if name not in ("extxyz", "deepmd"):  # of text and of several files, some can be sound
        with pytest.raises(DataError):
            import_data(name, root_of(name, path, tmp_path), tmp_path / "out.h5", ImportOptions(level="x"))
        assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("case", SOURCES)
def test_foreign(tmp_path, case):
    name, make = SOURCES[case]
    path = make(tmp_path)
    for content in (
        b"\x00" * 3000,
        b"no\n" * 1000,
        b"\x89HDF\r\n\x1a\n" + b"\xff" * 2000,
        b'{"a": [1, 2]}',
        "é".encode(),
    ):
        path.write_bytes(content)
        assert read_all(name, root_of(name, path, tmp_path)) == [] or case == "deepmd, types"


@pytest.mark.parametrize("case", [case for case in SOURCES if case != "horm"])  # LMDB trusts its own pages
def test_flipped_bytes(tmp_path, case):
    name, make = SOURCES[case]
    path = make(tmp_path)
    content = path.read_bytes()
    draw = random.Random(0)
    for _ in range(20):
        spoilt = bytearray(content)
        for _ in range(draw.choice([1, 10, 100])):
            spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
        path.write_bytes(bytes(spoilt))
        assert all(isinstance(structure, Structure) for structure in read_all(name, root_of(name, path, tmp_path)))
