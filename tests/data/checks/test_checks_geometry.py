"""Atoms at one place, in molecules and crystals, and the same geometry twice."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk, fcc111
from scipy.spatial.transform import Rotation

from hessgnn.data.structure import Structure


def crystal(atoms, name, **fields):
    return Structure(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        energy=-1.0 * len(atoms),
        name=name,
        **fields,
    )


def test_coincident_atoms(judge, sound):
    for shift in (0.01, 0.0):
        positions = sound[0].positions.copy()
        positions[1] = positions[0] + shift
        found = judge([replace(sound[0], positions=positions, forces=None, hessian=None), *sound[1:]])
        assert f"(0 {sound[0].name!r})" in found["error", "coincident"]


@pytest.mark.parametrize("gap", [0.1, 0.0])
def test_coincident_through_the_wall_of_a_cell(judge, gap):
    """Far apart in the file, at one place in the crystal."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    assert judge([crystal(atoms, "salt")]) == {}
    atoms.positions[1] = atoms.positions[0] + atoms.cell[0] * 3 - [gap, 0, 0]
    assert set(judge([crystal(atoms, "salt")])) == {("error", "coincident")}


def test_slabs_and_skewed_cells_are_no_fault(judge):
    slab = fcc111("Al", (2, 2, 3), vacuum=None)
    skewed = bulk("Cu")
    skewed.set_cell(np.array([[1, 0, 0], [5, 1, 0], [0, 0, 1]]) @ skewed.cell.array)
    assert judge([crystal(slab, "slab"), crystal(skewed, "skewed")]) == {}


def test_a_cell_without_volume(judge):
    atoms = bulk("Cu")
    atoms.cell[2] = atoms.cell[1]
    assert set(judge([crystal(atoms, "flat")])) == {("error", "cell")}


def test_noble_gases_do_not_tell_the_unit_of_lengths(judge):
    assert judge([crystal(bulk("Ar", a=5.3), "argon")]) == {}


def again(structure, **fields):
    return replace(structure, name="again", **fields)


def test_duplicates_that_leak_are_errors(judge, sound):
    minimum = next(s for s in sound if s.kind == "minimum" and s.split == "train")
    places = f"2 structures: {sound.index(minimum)} {minimum.name!r}, {len(sound)} 'again'"
    within = judge([*sound, again(minimum)])
    assert list(within) == [("warning", "duplicate")]
    assert places in within["warning", "duplicate"]
    across = judge([*sound, again(minimum, split="other")])
    assert list(across) == [("error", "duplicate")]
    assert f"{minimum.name!r} (train) and 'again' (other) are the same" in across["error", "duplicate"]
    frame = next(s for s in sound if s.split == "nms")
    assert list(judge([*sound, again(frame, split="other")])) == [("warning", "duplicate")]  # nobody learns from either


@pytest.mark.parametrize("mirror", [1, -1])
def test_copies_turned_reordered_or_mirrored(judge, sound, mirror):
    original = next(s for s in sound if s.kind == "nms" and s.group == "CH3OH")
    rng = np.random.default_rng(0)
    turn = mirror * Rotation.random(random_state=0).as_matrix()
    order = rng.permutation(len(original))
    copy = again(
        original,
        numbers=original.numbers[order],
        positions=(original.positions @ turn.T + [1, 2, 3])[order],
        forces=None,
        hessian=None,
        group="another",
        split="test",
    )
    train = [replace(s, split="train") for s in sound]
    assert ("error", "duplicate") in judge([*train, copy])
    moved = copy.positions + rng.normal(scale=1e-3, size=copy.positions.shape)
    assert ("error", "duplicate") not in judge([*train, replace(copy, positions=moved)])


def test_crystals_in_other_cells_are_others(judge):
    small, large = bulk("Cu", a=3.6), bulk("Cu", a=3.7)
    assert judge([crystal(small, "a"), crystal(large, "b")]) == {}
    assert set(judge([crystal(small, "a"), crystal(small, "b")])) == {("warning", "duplicate")}


def test_one_geometry_with_two_energies(judge, sound):
    copy = again(sound[0], energy=sound[0].energy + 0.7, forces=None, hessian=None)
    found = judge([*sound, copy])
    assert "energies 0.7 eV apart: two levels of theory, charges or spins" in found["error", "contradiction"]
