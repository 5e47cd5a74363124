import pytest

from hessgnn.errors import ConfigError
from hessgnn.factory.reaction import bonds, change_graph, parse, parse_mapped, parse_pair, write_mapped

pytest.importorskip("rdkit")

ALDEHYDE = "[CH2:1]([H:4])[CH:2]=[O:3]"
ENOL = "[CH2:1]=[CH:2][O:3][H:4]"


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("C1CC", "cannot be read as SMILES"),
        ("C(C)(C)(C)(C)C", "check valences"),
        ("", "cannot be read"),
        ("[OH-]", r"has charge -1"),
        ("[CH3]", "is a radical"),
    ],
)
def test_unfit_molecules_are_told(smiles, message):
    with pytest.raises(ConfigError, match=message):
        parse(smiles)


@pytest.mark.parametrize("smiles", ["[CH2]", "[C-]#[O+]", "C[N+](=O)[O-]", "C=[N+]=[N-]", "C.O"])
def test_carbenes_zwitterions_and_pairs_are_fit(smiles):
    assert parse(smiles).GetNumAtoms() > 1


def test_atoms_come_by_number_then_the_free_hydrogens_of_each():
    molecule = parse_mapped("[O:3]([H:4])[CH:2]=[CH2:1]")
    assert [atom.GetSymbol() for atom in molecule.GetAtoms()] == ["C", "C", "O", "H", "H", "H", "H"]
    assert bonds(molecule) == {(0, 1), (1, 2), (2, 3), (0, 4), (0, 5), (1, 6)}


def test_both_sides_share_an_order():
    before, after = parse_pair(ALDEHYDE, ENOL)
    assert [a.GetAtomicNum() for a in before.GetAtoms()] == [a.GetAtomicNum() for a in after.GetAtoms()]
    assert bonds(before) - bonds(after) == {(0, 3)}
    assert bonds(after) - bonds(before) == {(2, 3)}


@pytest.mark.parametrize(
    ("reactant", "product", "message"),
    [
        ("[CH3:1][OH:1]", ENOL, "maps 1 twice"),
        ("C[OH:1]", ENOL, "leaves C without a number"),
        (ALDEHYDE, "[CH2:1]=[CH:2][OH:3]", "only one side holds atom 4"),
        (ALDEHYDE, "[CH2:1]=[O:2].[CH3:3][H:4]", "atom 2 is C before and O after"),
        ("[CH3:1][CH:2]=[O:3]", "[CH2:1]=[CH:2][OH:3]", "atom 1 has 3 unmapped hydrogens before and 2 after"),
    ],
)
def test_wrong_maps_are_told(reactant, product, message):
    with pytest.raises(ConfigError, match=message):
        parse_pair(reactant, product)


@pytest.mark.parametrize("smiles", [ALDEHYDE, "[C-:1]#[O+:2].[H:3][H:4]", "[CH:1]1=[CH:2][O:3][CH:4]=[CH:5]1"])
def test_written_molecules_are_read_back(smiles):
    molecule = parse_mapped(smiles)
    again = parse_mapped(write_mapped(molecule))
    assert bonds(again) == bonds(molecule)
    assert write_mapped(again) == write_mapped(molecule)


def test_the_change_of_bonds_does_not_depend_on_numbers():
    renumbered = "[CH2:3]([H:1])[CH:4]=[O:2]", "[CH2:3]=[CH:4][O:2][H:1]"
    assert change_graph(*parse_pair(*renumbered)) == change_graph(*parse_pair(ALDEHYDE, ENOL))
    assert change_graph(*parse_pair(ENOL, ALDEHYDE)) != change_graph(*parse_pair(ALDEHYDE, ENOL))
