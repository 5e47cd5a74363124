import pytest
from ase import Atoms
from ase.build import molecule

from hessgnn.data.factory.reaction import Inversion, Reaction, Rotation, Torsion
from hessgnn.data.factory.sides import bonds, changing_bonds, side_of

pytest.importorskip("rdkit", reason="the extra hessgnn[factory] is not installed")

HCN = Reaction("hcn", "isomerisation", "[C:1]([H:3])#[N:2]", "[C-:1]#[N+:2][H:3]")


def line(hydrogen):
    return Atoms("CNH", [[0, 0, 0], [0, 0, 1.16], [0, 0, hydrogen]])


def test_bonds_are_by_distance():
    assert bonds(molecule("H2O")) == {(0, 1), (0, 2)}
    assert bonds(Atoms("H2", [[0, 0, 0], [0, 0, 1.5]])) == set()


def test_a_bond_that_moves():
    assert changing_bonds(HCN) == [(0, 2), (1, 2)]
    assert side_of(HCN, line(-1.07)) == "reactant"
    assert side_of(HCN, line(2.16)) == "product"
    assert side_of(HCN, line(4.0)) is None


def test_an_inversion_is_told_by_the_face():
    reaction = Reaction("nh3", "inversion", "[NH3:1]", "[NH3:1]", Inversion(1))
    up = molecule("NH3")
    down = up.copy()
    down.positions[:, 2] *= -1
    assert {side_of(reaction, up), side_of(reaction, down)} == {"reactant", "product"}
    assert changing_bonds(reaction) == []


def test_a_rotation_is_told_by_the_nearer_angle():
    written = "[H:3][O:1][O:2][H:4]"
    reaction = Reaction("hooh", "rotation", written, written, Rotation((Torsion((3, 1, 2, 4), 115, 245),)))
    atoms = Atoms("OOHH", [[0, 0, 0], [0, 0, 1.4], [0.97, 0, 0], [0.97, 0, 1.4]])
    for angle, side in ((100, "reactant"), (170, "reactant"), (200, "product"), (270, "product")):
        atoms.set_dihedral(2, 0, 1, 3, angle, indices=[3])
        assert side_of(reaction, atoms) == side
    atoms.positions[3] += 3
    assert side_of(reaction, atoms) is None
