from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hessgnn.data.structure import Structure
from hessgnn.factory.build import find_copies


@pytest.fixture
def first():
    positions = [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0.1]]
    return Structure(numbers=[8, 1, 1], positions=positions, energy=-5.0, name="a", group="H2O", kind="minimum")


def moved(structure, name, **changes):
    turn = Rotation.from_euler("xyz", [0.3, 1.0, 2.0]).as_matrix()
    order = [0, 2, 1]
    return replace(structure, positions=(structure.positions @ turn + 3.0)[order], name=name, **changes)


def test_a_copy_turned_and_in_another_order(first):
    assert find_copies([first, moved(first, "b")]) == {"b": "a"}


def test_another_conformer_or_another_energy_is_none(first):
    bent = replace(first, positions=first.positions + np.array([[0], [0], [0.2]]), name="b")
    assert find_copies([first, bent, moved(first, "c", energy=-5.01)]) == {}


def test_the_end_of_a_reaction_stays_and_the_minimum_goes(first):
    end = moved(first, "r/reactant", kind="reactant", parent="r/ts")
    other = moved(first, "s/product", kind="product", parent="s/ts")
    assert find_copies([first, end, other]) == {"a": "r/reactant"}


def test_frames_are_not_looked_at(first):
    assert find_copies([first, moved(first, "a/nms-0", kind="nms")]) == {}
