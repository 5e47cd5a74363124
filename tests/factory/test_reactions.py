from collections import Counter

import pytest
import yaml

from hessgnn.errors import ConfigError
from hessgnn.factory.reaction import FAMILIES, Reaction, Rotation, Torsion, reaction_key
from hessgnn.factory.reactions import BUNDLED, ReactionSettings, reactions, read_reactions

pytest.importorskip("rdkit")

ENOL = {
    "name": "enol",
    "family": "hydrogen-shift",
    "reactant": "[CH2:1]([H:4])[CH:2]=[O:3]",
    "product": "[CH2:1]=[CH:2][O:3][H:4]",
}
BUTANE = {
    "name": "butane",
    "family": "rotation",
    "molecule": "[CH3:1][CH2:2][CH2:3][CH3:4]",
    "rotate": [{"atoms": [1, 2, 3, 4], "start": 180, "end": 60}],
}


@pytest.fixture
def written(tmp_path):
    def write(*entries):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"reactions": list(entries)}))
        return path

    return write


def test_the_bundled_reactions_cover_all_families_and_none_stands_twice():
    found = read_reactions(BUNDLED)
    counts = Counter(reaction.family for reaction in found)
    assert set(counts) == set(FAMILIES)
    assert min(counts.values()) >= 8
    keys = Counter(map(reaction_key, (reaction for reaction in found if reaction.move is None)))
    assert [key for key, count in keys.items() if count > 1] == []


def test_entries_become_reactions(written):
    enol, butane = read_reactions(written(ENOL, BUTANE))
    assert enol == Reaction("hydrogen-shift/enol", "hydrogen-shift", ENOL["reactant"], ENOL["product"])
    assert butane.reactant == butane.product == BUTANE["molecule"]
    assert butane.move == Rotation((Torsion((1, 2, 3, 4), 180, 60),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "rotations"}, r"mine.yaml, enol: the family is not known. Hint: did you mean 'rotation'"),
        ({"reactannt": "C"}, "did you mean 'reactant'"),
        ({"name": "a/b"}, "pattern"),
        ({"product": "[CH2:1]=[CH:2][OH:3]"}, "mine.yaml, enol, .*only one side holds atom 4.*map the same atoms"),
        ({"product": ""}, "needs both sides and no move"),
        ({"product": ENOL["reactant"]}, "no bond changes"),
        ({"molecule": "[CH4:1]"}, "needs one move"),
    ],
)
def test_mistakes_are_told_with_file_entry_and_hint(written, change, message):
    with pytest.raises(ConfigError, match=message):
        read_reactions(written({**ENOL, **change}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotate": [{"atoms": [1, 2, 3, 9], "start": 180, "end": 60}]}, "the move names atom 9"),
        ({"rotate": [{"atoms": [1, 2, 3, 3], "start": 180, "end": 60}]}, "names an atom twice"),
        ({"rotate": [{"atoms": [1, 2, 3, 4], "start": -180, "end": 180}]}, "does not turn"),
        ({"invert": 1}, "needs one move"),
        ({"rotate": [], "invert": 1}, "atom 1 has 4 partners"),
    ],
)
def test_wrong_moves_are_told(written, change, message):
    with pytest.raises(ConfigError, match=message):
        read_reactions(written({**BUTANE, **change}))


def test_names_are_not_to_be_given_twice(written):
    with pytest.raises(ConfigError, match="enol: stands twice"):
        read_reactions(written(ENOL, ENOL))


def test_a_file_without_reactions_is_told(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("reaction: []\n")
    with pytest.raises(ConfigError, match="write one under the key `reactions`"):
        read_reactions(path)


def test_choosing_by_family_size_name_and_number(written):
    path = written(ENOL, BUTANE)
    mine = {"bundled": False, "files": [path]}
    assert [r.name for r in reactions(ReactionSettings(**mine))] == ["hydrogen-shift/enol", "rotation/butane"]
    assert [r.name for r in reactions(ReactionSettings(**mine, families=["rotation"]))] == ["rotation/butane"]
    assert [r.name for r in reactions(ReactionSettings(**mine, max_heavy_atoms=3))] == ["hydrogen-shift/enol"]
    assert [r.name for r in reactions(ReactionSettings(**mine, names=["rotation/butane"]))] == ["rotation/butane"]
    assert max(Counter(r.family for r in reactions(ReactionSettings(limit=2))).values()) == 2
    with pytest.raises(ConfigError, match="did you mean 'rotation/butane'"):
        reactions(ReactionSettings(**mine, names=["rotation/butan"]))


def test_rules_do_not_repeat_what_is_written(written, tmp_path):
    molecules = tmp_path / "molecules.yaml"
    molecules.write_text("molecules: {carbonyls: CC=O CC(C)=O}\n")
    settings = ReactionSettings(bundled=False, files=[written(ENOL)], rules=["hydrogen-shift/1-3"], molecules=molecules)
    assert [r.name for r in reactions(settings)] == ["hydrogen-shift/enol", "hydrogen-shift/1-3-C3H6O-1"]


def test_unknown_families_and_rules_get_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'rotation'"):
        ReactionSettings(families=["rotations"])
    with pytest.raises(ValueError, match="did you mean 'hydrogen-shift/1-3'"):
        ReactionSettings(rules=["hydrogen-shift/1_3"])
