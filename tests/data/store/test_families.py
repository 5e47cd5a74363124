from dataclasses import replace

import numpy as np
import pytest
from ase.build import molecule

from hessgnn.data.store.families import divide, familiar, families, molecules, relations
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure


def made(name, formula="CH3OH", shake=0.0, **fields):
    atoms = molecule(formula)
    moved = np.random.default_rng(0).normal(scale=shake, size=atoms.positions.shape)
    return Structure(numbers=atoms.numbers, positions=atoms.positions + moved, name=name, **fields)


def test_groups_and_parents_connect():
    names = ["ts", "left", "right", "frame", "alone", "end"]
    groups = ["rxn", "left", "other", "frame", "alone", "alone"]
    parents = ["", "ts", "ts", "right", "", "gone"]
    assert families(names, groups, parents) == ["frame"] * 4 + ["alone"] * 2


def test_a_parent_outside_the_file_connects_its_children():
    assert families(["a", "b", "c"], ["a", "b", "c"], ["gone", "gone", "elsewhere"]) == ["a", "a", "c"]


def test_whatever_else_they_share():
    assert families(["a", "b", "c"], ["a", "b", "c"], [""] * 3, [["x"], [], ["y", "x"]]) == ["a", "b", "a"]


def test_reactions_share_nothing_but_copies():
    structures = [made("a"), made("b", shake=0.1), made("c")]
    assert [len(items) for items in relations(structures, "reaction")] == [1, 0, 1]


def test_compositions():
    ether, alcohol, water = made("a", "CH3OCH3"), made("b", "CH3CH2OH"), made("c", "H2O")
    items = relations([ether, alcohol, water], "composition")
    assert items[0] == items[1] != items[2]


def test_molecules_and_what_was_displaced_from_them():
    ether, alcohol, again = made("a", "CH3OCH3"), made("b", "CH3CH2OH"), made("c", "CH3OCH3", shake=0.02)
    torn = made("d", "CH3OCH3", shake=0.5, kind="nms", parent="a")
    items = relations([ether, alcohol, again, torn], "molecule")
    assert items[0] == items[2] != items[1]
    assert items[3] == []
    lone = relations([ether, replace(again, kind="nms"), replace(torn, parent="")], "molecule")
    assert lone[1] == lone[0]  # nothing else says where it belongs
    assert lone[2] == []  # and of what was torn off nothing is known


def beside(name, formulas, **fields):
    """Molecules far from each other in one structure."""
    atoms = molecule(formulas[0])
    for k, formula in enumerate(formulas[1:], 1):
        other = molecule(formula)
        other.translate([8.0 * k, 0, 0])
        atoms += other
    return Structure(numbers=atoms.numbers, positions=atoms.positions, name=name, **fields)


def test_a_complex_belongs_to_each_of_its_parts():
    structures = [
        made("water", "H2O"),
        made("methanol"),
        beside("pair", ["H2O", "CH3OH"], kind="minimum"),
        made("ammonia", "NH3"),
        beside("other", ["HCN", "NH3"], kind="product", parent="ts"),
        made("ts", "CH3NO2", kind="transition-state"),
        made("alone", "CO2"),
    ]
    names, parents = [s.name for s in structures], [s.parent for s in structures]
    assert families(names, names, parents, relations(structures, "molecule")) == [
        "methanol", "methanol", "methanol", "ammonia", "ammonia", "ammonia", "alone"
    ]  # fmt: skip
    assert len(set(families(names, names, parents, relations(structures, "composition")))) == 6


def test_what_a_saddle_point_tears_off_is_a_molecule_where_it_is_one_elsewhere():
    torn = beside("ts", ["H2O", "CH3"], kind="transition-state")
    alone, beside_water = molecules([torn]), molecules([torn, made("w", "H2O")])
    assert alone == [frozenset()]
    assert beside_water[0] == beside_water[1] != frozenset()


def test_familiar_molecules_are_counted(tmp_path):
    """A frame counts as what it was made from, a saddle point as its ends, a complex as each of its parts."""
    structures = [
        made("water", "H2O"),
        made("ammonia", "NH3", split="validation-stationary"),
        made("frame", "NH3", shake=0.02, kind="nms", parent="ammonia", split="validation"),
        beside("pair", ["CO2", "H2O"], kind="product", parent="ts", split="test"),
        made("ts", "CH3NO2", kind="transition-state", split="test"),
        made("path", "CH3NO2", shake=0.02, kind="irc", parent="ts", split="irc"),
        made("path-nms", "CH3NO2", shake=0.03, kind="nms", parent="path", split="nms"),
        made("new", "HCN", split="test"),
        made("new-nms", "HCN", shake=0.02, kind="nms", parent="new", split="nms"),
        made("known-nms", "H2O", shake=0.02, kind="nms", parent="water", split="nms-known"),
    ]
    write_store(tmp_path / "set.h5", structures, level_of_theory="none")
    assert familiar(Store.open(tmp_path / "set.h5")) == {"test": (3, 2), "irc": (1, 1), "nms": (2, 1)}


def test_single_structures_are_drawn_but_families_are_kept():
    structures = [made(f"{k}", "CH3OH", shake=0.02 + k / 100, kind="minimum", group=f"{k}") for k in range(20)]
    structures += [replace(structures[3], name="3-again", group="3-again")]
    structures += [made("f", "CH3OH", shake=0.01, kind="nms", parent="3", split="nms-known")]
    found = divide(structures, by="structure", fractions={"train": 0.5, "test": 0.5}, seed=1)
    assert set(found.families) == {"0"}
    assert found.splits.count("test") in (10, 11)
    assert found.splits[3] == found.splits[20]  # one geometry
    assert found.splits[21] == "nms"


@pytest.mark.parametrize("by", ["reaction", "molecule", "composition"])
def test_families_of_a_reaction(by):
    """Two reactions that share their reactant are one family, by whatever relation."""
    reaction = {"kind": "transition-state"}
    structures = [
        made("ts1", shake=0.2, group="r1", **reaction),
        made("start1", "CH3OCH3", group="r1", parent="ts1"),
        made("ts2", shake=0.3, group="r2", **reaction),
        made("start2", "CH3OCH3", group="r2", parent="ts2"),
        made("water", "H2O", group="w"),
    ]
    columns = zip(*((s.name, s.group, s.parent) for s in structures), strict=True)
    assert families(*columns, relations(structures, by)) == ["r1"] * 4 + ["w"]
