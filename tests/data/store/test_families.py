from dataclasses import replace

import numpy as np
import pytest
from ase.build import molecule

from hessgnn.data.store.families import families, relations
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
    lone = relations([replace(torn, parent="")], "molecule")
    assert len(lone[0]) == 1  # nothing else says where it belongs


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
