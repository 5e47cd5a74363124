import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write

from hessgnn.errors import ConfigError
from hessgnn.factory.reaction import Inversion, Reaction, Rotation, Torsion
from hessgnn.factory.targets import PairSettings, PairTarget, WrittenTarget, bonds
from hessgnn.molecules.geometry import rmsd

pytest.importorskip("rdkit", reason="the extra hessgnn[factory] is not installed")

HCN = WrittenTarget(Reaction("hcn", "isomerisation", "[C:1]([H:3])#[N:2]", "[C-:1]#[N+:2][H:3]"))


def line(hydrogen):
    return Atoms("CNH", [[0, 0, 0], [0, 0, 1.16], [0, 0, hydrogen]])


def test_bonds_are_by_distance():
    assert bonds(molecule("H2O")) == {(0, 1), (0, 2)}
    assert bonds(Atoms("H2", [[0, 0, 0], [0, 0, 1.5]])) == set()


def test_distance_knows_rotations_and_mirror_images():
    ammonia = molecule("NH3")
    turned = ammonia.copy()
    turned.rotate(40, (1, 2, 3))
    turned.positions += 5
    mirrored = ammonia.copy()
    mirrored.positions[:, 2] *= -1
    assert rmsd(ammonia.positions, turned.positions) < 1e-6
    assert rmsd(ammonia.positions, mirrored.positions) > 0.1


def test_a_bond_that_moves():
    assert HCN.changing_bonds() == [(0, 2), (1, 2)]
    assert HCN.side(line(-1.07)) == "reactant"
    assert HCN.side(line(2.16)) == "product"
    assert HCN.side(line(4.0)) is None


def test_an_inversion_is_told_by_the_face():
    target = WrittenTarget(Reaction("nh3", "inversion", "[NH3:1]", "[NH3:1]", Inversion(1)))
    up = molecule("NH3")
    down = up.copy()
    down.positions[:, 2] *= -1
    assert {target.side(up), target.side(down)} == {"reactant", "product"}
    assert target.changing_bonds() == []


def test_a_rotation_is_told_by_the_nearer_angle():
    written = "[H:3][O:1][O:2][H:4]"
    target = WrittenTarget(Reaction("hooh", "rotation", written, written, Rotation((Torsion((3, 1, 2, 4), 115, 245),))))
    atoms = Atoms("OOHH", [[0, 0, 0], [0, 0, 1.4], [0.97, 0, 0], [0.97, 0, 1.4]])
    for angle, side in ((100, "reactant"), (170, "reactant"), (200, "product"), (270, "product")):
        atoms.set_dihedral(2, 0, 1, 3, angle, indices=[3])
        assert target.side(atoms) == side
    atoms.positions[3] += 3
    assert target.side(atoms) is None


def pair(tmp_path, before, after):
    for name, atoms in (("a", before), ("b", after)):
        write(tmp_path / f"{name}.xyz", atoms)
    return PairTarget.read(PairSettings(name="x", reactant=tmp_path / "a.xyz", product=tmp_path / "b.xyz"))


def test_two_files_are_a_target(tmp_path):
    target = pair(tmp_path, line(-1.07), line(2.16))
    assert target.name == "pair/x"
    assert target.changing_bonds() == [(0, 2), (1, 2)]
    assert target.side(line(2.2)) == "product"
    up = molecule("NH3")
    down = up.copy()
    down.positions[:, 2] *= -1
    inversion = pair(tmp_path, up, down)
    assert inversion.side(down) == "product"
    assert inversion.side(line(1.0)) is None
    np.testing.assert_allclose(inversion.ends(0)[0].positions, up.positions, atol=1e-7)


def test_files_that_are_no_pair_are_told(tmp_path):
    with pytest.raises(ConfigError, match="differ in their atoms"):
        pair(tmp_path, molecule("H2O"), molecule("NH3"))
    with pytest.raises(ConfigError, match="odd number of electrons"):
        pair(tmp_path, molecule("CH3"), molecule("CH3"))
    (tmp_path / "a.xyz").write_text("nothing\n")
    with pytest.raises(ConfigError, match=r"a\.xyz: cannot be read"):
        PairTarget.read(PairSettings(name="x", reactant=tmp_path / "a.xyz", product=tmp_path / "b.xyz"))
