"""The formats that ASE reads and writes: extended XYZ, its database, VibrationsData."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write as ase_write
from ase.vibrations import VibrationsData
from labelled import assert_same, labelled, levels, read, reasons

from hessgnn.data.formats import registry
from hessgnn.data.store.store import Store
from hessgnn.errors import DataError

ODD_NAMES = ["7", "1e5", "T", "", "C2H6/frame 1", "molécule", "1 2 3", "[1]", "a=b", "a'b"]
ESCAPED = [r"N/C=C\C=N", "\\", r"a\\é", "a\nb", 'a"b', r"_JSON \x", r"1\2", "a\tb", r"\"", r"C/C=C/C=C\C"]
"""SMILES of stereoisomers have backslashes."""


def varied():
    made = labelled(10)
    made[1] = replace(made[1], forces=None, hessian=None)
    made[2] = replace(made[2], cell=np.diag([9.0, 8.0, 7.0]), pbc=[True, True, False])
    made[3] = replace(made[3], energy=None, forces=None)
    pairs = [pair for names in (ODD_NAMES, ESCAPED) for pair in zip(made, names, strict=True)]
    return [*made, *(replace(s, group=name, kind=name, name=name or "x") for s, name in pairs)]


@pytest.mark.parametrize(
    ("name", "file", "atol"), [("extxyz", "a.xyz", 6e-9), ("ase-db", "a.db", 0.0), ("ase-db", "a.json", 0.0)]
)
def test_round_trip(tmp_path, name, file, atol):
    made = varied()
    registry.WRITERS[name](made, tmp_path / file, "GFN2-xTB")
    found = read(name, tmp_path / file)
    assert_same(found, made, atol=atol)
    assert [s.energy for s in found] == [s.energy for s in made]
    assert levels(name, tmp_path / file) == {"GFN2-xTB"}
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_names_of_the_bundled_set_are_written(tmp_path):
    store = Store.open("rtp-mini")
    chosen = [i for i, name in enumerate(store.names) if "\\" in name][:3]
    registry.WRITERS["extxyz"]([store[i] for i in chosen], tmp_path / "a.xyz", "")
    assert [s.name for s in read("extxyz", tmp_path / "a.xyz")] == [store.names[i] for i in chosen] != []


def test_frames_that_others_wrote(tmp_path):
    benzene = molecule("C6H6")
    benzene.calc = SinglePointCalculator(benzene, energy=-7.5, forces=np.full((12, 3), 0.25))
    water = molecule("H2O")
    water.info |= {"hessian": np.arange(81.0).reshape(9, 9), "group": 12}
    ase_write(tmp_path / "a.extxyz", [benzene, water, benzene])
    first, second, third = read("extxyz", tmp_path / "a.extxyz")
    assert (first.energy, first.forces[3, 1], first.name, first.group) == (-7.5, 0.25, "a/0", "C6H6")
    assert (second.energy, second.group, second.hessian[0, 1]) == (None, "12", 1.0)
    assert (third.name, len(third)) == ("a/2", 12)


def test_labels_under_other_names_do_not_pass_for_none(tmp_path):
    atoms = molecule("H2O")
    atoms.info["REF_energy"] = -7.5
    ase_write(tmp_path / "a.xyz", atoms)
    assert "only REF_energy" in reasons("extxyz", tmp_path / "a.xyz")[f"{tmp_path / 'a.xyz'}, frame 0"]
    with connect(tmp_path / "a.db") as database:
        database.write(molecule("H2O"), REF_energy=-7.5)
    assert "only REF_energy" in reasons("ase-db", tmp_path / "a.db")[f"{tmp_path / 'a.db'}, row 1"]


def test_bad_frames(tmp_path):
    path = tmp_path / "a.xyz"
    good = "1\nProperties=species:S:1:pos:R:3 energy=-1.0\nH 0 0 0\n"
    path.write_text(good + "1\nProperties=species:S:1:pos:R:3 energy=-1.0\nH 0 zero 0\n" + good)
    assert list(reasons("extxyz", path)) == [f"{path}, frame 1"]
    path.write_text(good + "2\nenergy=1\nH 0 0 0\n")
    with pytest.raises(DataError, match="ends within the frame that begins at line 4"):
        read("extxyz", path)
    path.write_text("water\n" + good)
    with pytest.raises(DataError, match="line 1 is not a number of atoms: 'water'"):
        read("extxyz", path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a text file"):
        read("extxyz", path)


def test_files_that_are_no_database(tmp_path):
    for name in ("a.db", "a.json"):
        (tmp_path / name).write_text("no database")
        with pytest.raises(DataError, match=r"is not a database of ASE"):
            read("ase-db", tmp_path / name)


def test_vibrations(tmp_path):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-7.5, forces=np.full((3, 3), 0.25))
    hessian = np.arange(81.0).reshape(9, 9)
    hessian = hessian + hessian.T
    VibrationsData.from_2d(atoms, hessian).write(str(tmp_path / "water.json"))
    (found,) = read("vibrations", tmp_path)
    np.testing.assert_array_equal(found.hessian, hessian)
    np.testing.assert_array_equal(found.positions, atoms.positions)
    assert (found.name, found.group) == ("water", "H2O")
    assert levels("vibrations", tmp_path) == {""}


def test_bad_vibrations(tmp_path):
    path = tmp_path / "water.json"
    VibrationsData.from_2d(molecule("H2O"), np.eye(3), indices=[0]).write(str(path))
    assert reasons("vibrations", path) == {str(path): "holds the Hessian of some of its atoms only"}
    path.write_text("{")
    assert "cannot be read" in reasons("vibrations", path)[str(path)]
    path.write_text("[1, 2]")
    assert "not VibrationsData" in reasons("vibrations", path)[str(path)]


def test_atoms_without_structure(tmp_path):
    empty = Atoms()
    empty.info["energy"] = 1.0
    ase_write(tmp_path / "a.xyz", empty, format="extxyz")
    assert len(reasons("extxyz", tmp_path / "a.xyz")) == 1
