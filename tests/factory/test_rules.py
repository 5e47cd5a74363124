import re
from collections import Counter

import pytest

from hessgnn.errors import ConfigError
from hessgnn.factory.geometries import read_molecules
from hessgnn.factory.reaction import Inversion, Rotation, bonds, parse_pair, reaction_key
from hessgnn.factory.rules import RULE_NAMES, enumerate_reactions

pytest.importorskip("rdkit")


@pytest.fixture(scope="module")
def some():
    return enumerate_reactions(RULE_NAMES, read_molecules(), max_heavy_atoms=6, limit=3)


def test_every_rule_makes_reactions(some):
    made = Counter(reaction.name.rsplit("-", 2)[0] for reaction in some)
    assert set(made) == set(RULE_NAMES)


def test_names_are_unique_and_safe_and_nothing_stands_twice(some):
    names = [reaction.name for reaction in some]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z-]+/[A-Za-z0-9-]+", name) for name in names)
    assert len(set(map(reaction_key, some))) == len(some)


def test_they_are_whole(some):
    for reaction in some:
        before, after = map(bonds, parse_pair(reaction.reactant, reaction.product))
        assert (before == after) == (reaction.move is not None), reaction.name


def test_enolisation_of_acetone_is_found_once():
    reaction, other = enumerate_reactions(["hydrogen-shift/1-3"], ["CC(C)=O", "CC(O)=C"], max_heavy_atoms=4)
    assert other.product.count("=") == 1  # between the two carbons of the enol
    assert reaction.name == "hydrogen-shift/1-3-C3H6O-1"
    before, after = parse_pair(reaction.reactant, reaction.product)
    assert bonds(before) ^ bonds(after) == {(0, 4), (3, 4)}


def test_pairs_of_molecules_react_with_each_other_only():
    rule = ["cycloaddition/diels-alder"]
    (reaction,) = enumerate_reactions(rule, ["C=CC=C", "C=C"], max_heavy_atoms=6)
    assert reaction.reactant.count(".") == 1
    assert "." not in reaction.product
    assert enumerate_reactions(rule, ["C=CC=C", "C=C"], max_heavy_atoms=5) == []


def test_equivalent_bonds_turn_once():
    (reaction,) = enumerate_reactions(["rotation/anti-gauche"], ["CCCC"], max_heavy_atoms=4)
    assert isinstance(reaction.move, Rotation)
    (torsion,) = reaction.move.torsions
    assert (torsion.start, torsion.end) == (180, 60)
    (reaction,) = enumerate_reactions(["inversion/amine"], ["CN", "CC(N)=O"], max_heavy_atoms=4)
    assert reaction.move == Inversion(2)


def test_strained_and_charged_products_are_left_out():
    """An alkyne in a small ring, a nitronic acid."""
    assert enumerate_reactions(["hydrogen-shift/1-3-ketene"], ["C=C=O"], max_heavy_atoms=3) != []
    assert enumerate_reactions(["hydrogen-shift/1-3-ketene"], ["C1=C=NCCC1"], max_heavy_atoms=6) == []
    assert enumerate_reactions(["hydrogen-shift/1-3"], ["C[N+](=O)[O-]"], max_heavy_atoms=4) == []


def test_the_bundled_molecules_are_distinct_and_of_the_promised_kind():
    from rdkit import Chem

    found = [Chem.MolFromSmiles(smiles) for smiles in read_molecules()]
    assert len({Chem.MolToSmiles(molecule) for molecule in found}) == len(found) > 300
    assert max(molecule.GetNumHeavyAtoms() for molecule in found) <= 9
    assert {atom.GetSymbol() for molecule in found for atom in molecule.GetAtoms()} <= {"C", "H", "N", "O"}


def test_a_file_without_molecules_is_told(tmp_path):
    path = tmp_path / "molecules.yaml"
    path.write_text("molecules: [C, CC]\n")
    with pytest.raises(ConfigError, match="holds no molecules"):
        read_molecules(path)
    path.write_text("molecules: {a: C CC C}\n")
    with pytest.raises(ConfigError, match="C: stands twice"):
        read_molecules(path)
