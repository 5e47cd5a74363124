"""Signs and units of labels: each mistake is planted, and named."""

import re
from dataclasses import replace

import numpy as np
import pytest

from hessgnn import units
from hessgnn.data.checks.labels import (
    ENERGY_UNITS,
    FORCE_UNITS,
    HESSIAN_UNITS,
    LENGTH_UNITS,
    likely_unit,
    misreading,
)


def bare(structures, *labels):
    return [replace(s, **dict.fromkeys(labels)) for s in structures]


def test_hessian_of_the_wrong_sign(judge, sound):
    found = judge([replace(s, hessian=-s.hessian) for s in sound])
    assert set(found) == {("error", "hessian-sign"), ("error", "hessian-forces-sign")}
    assert "looks like −H" in found["error", "hessian-sign"]


def test_one_hessian_of_the_wrong_sign_is_named(judge, sound):
    spoilt = [replace(s, hessian=-s.hessian) if s.name == "NH3" else s for s in sound]
    index = [s.name for s in sound].index("NH3")
    assert judge(spoilt)["error", "hessian-sign"] == f"negative trace: looks like −H ({index} 'NH3')"


@pytest.mark.parametrize("unit", HESSIAN_UNITS)
def test_hessian_in_another_unit(judge, sound, unit):
    factor = HESSIAN_UNITS[unit]
    found = judge([replace(s, hessian=s.hessian / factor) for s in sound])
    size = f"{factor:.3g} times too small" if factor > 1 else f"{1 / factor:.3g} times too large"
    assert f"{size}: {unit} read as eV/Å²?" in found["error", "hessian-forces-unit"]
    if unit in ("Hartree/Bohr²", "Hartree/Å²", "kcal/mol/Å²"):  # the others hide within the spread of molecules
        assert f"{size}: {unit} read as eV/Å²?" in found["error", "hessian-unit"]
    assert {code for _, code in found} <= {"hessian-forces-unit", "hessian-unit", "outlier"}


def test_hessian_converted_twice(judge, sound):
    found = judge([replace(s, hessian=s.hessian * units.HARTREE_PER_BOHR2) for s in sound])
    assert "97.2 times too large: eV/Å² read as Hartree/Bohr²?" in found["error", "hessian-forces-unit"]
    assert "97.2 times too large: eV/Å² read as Hartree/Bohr²?" in found["error", "hessian-unit"]


def test_unit_is_told_by_magnitude_where_nothing_else_can_tell(judge, sound):
    minima = [s for s in sound if s.kind == "minimum"]
    found = judge([replace(s, hessian=s.hessian / units.HARTREE_PER_BOHR2) for s in minima])
    assert set(found) == {("error", "hessian-unit")}
    assert "97.2 times too small: Hartree/Bohr² read as eV/Å²?" in found["error", "hessian-unit"]


def test_turns_tell_the_unit_of_lone_structures(judge, sound):
    """No two frames of one molecule: forces and Hessian of each are compared by turning it."""
    frames = {s.group: s for s in sound if s.kind == "nms"}.values()
    found = judge([replace(s, split="train", hessian=s.hessian / HESSIAN_UNITS["eV/Bohr²"]) for s in frames])
    assert "3.57 times too small: eV/Bohr² read" in found["error", "hessian-forces-unit"]
    assert judge([replace(s, split="train") for s in frames]) == {}


def test_forces_of_the_wrong_sign(judge, sound):
    found = judge([replace(s, forces=-s.forces) for s in sound])
    assert set(found) == {("error", "forces-sign")}
    assert "wrong sign, or hold gradients" in found["error", "forces-sign"]


@pytest.mark.parametrize("unit", FORCE_UNITS)
def test_forces_in_another_unit(judge, sound, unit):
    spoilt = [replace(s, forces=s.forces / FORCE_UNITS[unit]) for s in sound]
    found = judge(spoilt)
    assert f": {unit} read as eV/Å?" in found["error", "forces-unit"]
    assert {code for _, code in found} <= {"forces-unit", "outlier"}
    found = judge(bare(spoilt, "hessian"))
    assert f": {unit} read as eV/Å? Or energies" in found["error", "forces-unit"]


@pytest.mark.parametrize("unit", ["Hartree", "kcal/mol", "kJ/mol"])
def test_energies_in_another_unit(judge, sound, unit):
    """Forces and Hessians agree, so it is the energies."""
    found = judge([replace(s, energy=s.energy / ENERGY_UNITS[unit]) for s in sound])
    assert f": {unit} read as eV?" in found["error", "energy-unit"]
    assert {level for level, _ in found} == {"error"}


def test_energies_of_the_wrong_sign(judge, sound):
    assert set(judge([replace(s, energy=-s.energy) for s in sound])) == {("error", "energy-sign")}


def test_forces_and_hessians_wrong_in_different_ways(judge, sound):
    found = judge([replace(s, forces=-s.forces, hessian=s.hessian / units.HARTREE_PER_BOHR2) for s in sound])
    assert {"forces-sign", "hessian-forces-unit"} <= {code for _, code in found}
    assert "97.2 times too small" in found["error", "hessian-forces-unit"]


def test_forces_too_large_for_any_molecule(judge, sound):
    lone = {s.group: s for s in sound if s.kind == "nms" and np.abs(s.forces).max() > 3}.values()
    spoilt = [replace(s, split="train", forces=s.forces / units.KCAL_PER_MOL) for s in bare(lone, "hessian")]
    assert "kcal/mol/Å read as eV/Å?" in judge(spoilt)["error", "forces-unit"]


@pytest.mark.parametrize("unit", LENGTH_UNITS)
def test_lengths_in_another_unit(judge, sound, unit):
    found = judge([replace(s, positions=s.positions / LENGTH_UNITS[unit]) for s in bare(sound, "forces", "hessian")])
    assert f": {unit} read as Å?" in found["error", "position-unit"]


def test_the_factor_is_computed():
    assert misreading(1 / units.HARTREE_PER_BOHR2, HESSIAN_UNITS, "eV/Å²") == (
        "97.2 times too small: Hartree/Bohr² read as eV/Å²?"
    )
    assert misreading(1e4, HESSIAN_UNITS, "eV/Å²") == "1e+04 times too large"
    assert likely_unit(1e4, HESSIAN_UNITS) is None


@pytest.mark.parametrize("table", [ENERGY_UNITS, FORCE_UNITS, HESSIAN_UNITS, LENGTH_UNITS])
def test_every_unit_is_recognised(table):
    for unit, factor in table.items():
        for blur in (0.95, 1.05):
            assert re.search(rf": {re.escape(unit)} read as x\?$", misreading(blur / factor, table, "x"))


def test_the_correct_hessian_of_a_soft_crystal_is_no_error(judge, argon, sound):
    """Its magnitude proves nothing; molecules are judged apart."""
    assert set(judge(argon)) == {("warning", "hessian-unit")}
    found = judge([*argon, *sound])["warning", "hessian-unit"]
    assert re.match(r"mean \|H_ii\| is 0\.\d+ eV/Å², expected 2 to 200", found)
    assert "a soft crystal?) (3 structures: 0 'argon-0'" in found
    minima = [replace(s, hessian=s.hessian / units.HARTREE_PER_BOHR2) for s in sound if s.kind == "minimum"]
    assert {("warning", "hessian-unit"), ("error", "hessian-unit")} <= set(judge([*argon, *minima]))
