import numpy as np
import pytest
from ase.data import covalent_radii

from hessgnn.errors import ConfigError
from hessgnn.factory.reaction import Inversion, Reaction, Rotation, Torsion, bonds, parse_pair
from hessgnn.factory.smiles import conformers, halfway, reaction_ends

pytest.importorskip("rdkit")

ENOLISATION = Reaction("h/enol", "hydrogen-shift", "[CH2:1]([H:4])[CH:2]=[O:3]", "[CH2:1]=[CH:2][O:3][H:4]")
DIELS_ALDER = Reaction(
    "c/da",
    "cycloaddition",
    "[CH2:1]=[CH:2][CH:3]=[CH2:4].[CH2:5]=[CH2:6]",
    "[CH2:1]1[CH:2]=[CH:3][CH2:4][CH2:5][CH2:6]1",
)
TAUTOMERISM = Reaction(
    "h/pyridone",
    "hydrogen-shift",
    "[O:1]=[C:2]1[CH:3]=[CH:4][CH:5]=[CH:6][N:7]1[H:8]",
    "[O:1]([C:2]1=[N:7][CH:6]=[CH:5][CH:4]=[CH:3]1)[H:8]",
)
ALL = (ENOLISATION, DIELS_ALDER, TAUTOMERISM)


def bonded(atoms):
    radii = covalent_radii[atoms.numbers]
    near = np.triu(atoms.get_all_distances() < 1.3 * (radii[:, None] + radii), 1)
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(near), strict=True)}


def test_conformers_are_distinct_but_for_reflection_and_sorted():
    found = conformers("CCCC", number=20, seed=0)
    torsions = [min(angle, 360 - angle) for angle in (atoms.get_dihedral(0, 1, 2, 3) for atoms in found)]
    assert torsions == pytest.approx([180, 65], abs=3)


def test_conformers_depend_on_the_seed_only():
    one, other = (conformers("OCC=O", number=3, seed=1)[0].positions for _ in range(2))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(ConfigError, match=r"C\[CH2\]: is a radical"):
        conformers("C[CH2]", number=1, seed=0)


@pytest.mark.parametrize("reaction", ALL, ids=lambda reaction: reaction.name)
def test_ends_have_the_bonds_of_their_side_in_one_order(reaction):
    ends = reaction_ends(reaction, seed=0)
    sides = parse_pair(reaction.reactant, reaction.product)
    for atoms, molecule in zip(ends, sides, strict=True):
        assert bonded(atoms) == bonds(molecule)
        assert list(atoms.numbers) == [atom.GetAtomicNum() for atom in molecule.GetAtoms()]


@pytest.mark.parametrize("reaction", ALL, ids=lambda reaction: reaction.name)
def test_ends_are_close_and_superposed(reaction):
    before, after = reaction_ends(reaction, seed=0)
    motion = np.linalg.norm(before.positions - after.positions, axis=1)
    assert np.sqrt(np.mean(motion**2)) < 0.9
    np.testing.assert_allclose(before.positions.mean(axis=0), after.positions.mean(axis=0), atol=1e-8)


@pytest.mark.parametrize("reaction", ALL, ids=lambda reaction: reaction.name)
def test_changing_bonds_are_stretched_halfway(reaction):
    before, after = (bonds(side) for side in parse_pair(reaction.reactant, reaction.product))
    ends = reaction_ends(reaction, seed=0)
    for atoms in halfway(reaction, seed=0):
        for broken, end in ((before - after, ends[0]), (after - before, ends[1])):
            for pair in broken:
                assert 1.1 < atoms.get_distance(*pair) / end.get_distance(*pair) < 1.5


def test_a_larger_stretch_gives_longer_bonds():
    short, long = (np.mean([a.get_distance(0, 5) for a in halfway(DIELS_ALDER, seed=0, stretch=s)]) for s in (1.2, 1.6))
    assert long > short + 0.4


def test_marked_centres_keep_their_configuration():
    enol = "[CH2:1]=[C:2]([O:3][H:4])[C@@H:5]([CH3:6])[NH2:7]"
    ketone = "[CH2:1]([H:4])[C:2](=[O:3])[C@@H:5]([CH3:6])[NH2:7]"
    kept = Reaction("a", "hydrogen-shift", ketone, enol)
    before, after = reaction_ends(kept, seed=0)
    volumes = [np.linalg.det(atoms.positions[[1, 5, 6]] - atoms.positions[4]) for atoms in (before, after)]
    assert volumes[0] * volumes[1] > 0
    with pytest.raises(ConfigError, match="stereochemistry of both sides"):
        reaction_ends(Reaction("b", "hydrogen-shift", ketone, enol.replace("@@", "@")), seed=0)


def test_torsions_stand_where_they_were_asked_to():
    butane = "[CH3:1][CH2:2][CH2:3][CH3:4]"
    reaction = Reaction("r", "rotation", butane, butane, Rotation((Torsion((1, 2, 3, 4), 180, 60),)))
    before, after = reaction_ends(reaction, seed=0)
    assert before.get_dihedral(0, 1, 2, 3) == pytest.approx(180, abs=2)
    assert after.get_dihedral(0, 1, 2, 3) == pytest.approx(60, abs=2)
    assert halfway(reaction, seed=0)[0].get_dihedral(0, 1, 2, 3) == pytest.approx(120, abs=2)


def test_torsions_of_a_ring_turn_too():
    ring = "[CH2:1]1[CH2:2][CH2:3][CH:4]=[CH:5][CH2:6]1"
    turn = Rotation((Torsion((6, 1, 2, 3), -60, 60),))
    before, after = reaction_ends(Reaction("r", "rotation", ring, ring, turn), seed=0)
    assert before.get_dihedral(5, 0, 1, 2) - 360 == pytest.approx(-60, abs=3)
    assert after.get_dihedral(5, 0, 1, 2) == pytest.approx(60, abs=3)


def test_an_atom_goes_through_the_plane_of_its_partners():
    amine = "[CH3:1][NH:2][CH3:3]"
    reaction = Reaction("i", "inversion", amine, amine, Inversion(2))
    before, after = reaction_ends(reaction, seed=0)
    hydrogen = next(pair[1] for pair in bonds(parse_pair(amine, amine)[0]) if pair[0] == 1 and pair[1] > 2)
    volumes = [np.linalg.det(atoms.positions[[0, 2, hydrogen]] - atoms.positions[1]) for atoms in (before, after)]
    assert volumes[0] * volumes[1] < 0
    assert bonded(after) == bonded(before)
    middle = halfway(reaction, seed=0)[0]
    assert abs(np.linalg.det(middle.positions[[0, 2, hydrogen]] - middle.positions[1])) < 0.3 * abs(volumes[0])
