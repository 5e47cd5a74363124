"""Each check finds the fault that it is for, planted in real data, and is silent on the data as they are."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from hessgnn import units
from hessgnn.data.checks import check, require_sound
from hessgnn.data.store import Store, write_store
from hessgnn.errors import DataError

MOLECULES = ("C2H4", "CH3OH", "H2O", "HCN", "NH3", "CH3NO2", "C2H6NH", "CO2")


@pytest.fixture(scope="module")
def sound():
    return [structure for structure in Store.open("rtp-mini") if structure.group in MOLECULES]


@pytest.fixture
def judge(tmp_path):
    def write_and_check(structures):
        write_store(tmp_path / "set.h5", structures, level_of_theory="none")
        return check(Store.open(tmp_path / "set.h5"))

    return write_and_check


def errors(findings):
    return {finding.code: finding.message for finding in findings if finding.level == "error"}


def test_bundled_set_is_sound():
    store = Store.open("rtp-mini")
    assert check(store) == []
    require_sound(store, store.indices("train"))


@pytest.mark.parametrize("molecule", MOLECULES)
def test_a_small_part_is_no_fault(judge, sound, molecule):
    assert errors(judge([structure for structure in sound if structure.group == molecule])) == {}


def test_hessian_of_the_wrong_sign(judge, sound):
    found = errors(judge([replace(s, hessian=-s.hessian) for s in sound]))
    assert "looks like −H" in found["hessian-sign"]
    assert "hessian-forces-sign" in found


def test_one_hessian_of_the_wrong_sign_is_named(judge, sound):
    spoilt = [replace(s, hessian=-s.hessian) if s.name == "NH3" else s for s in sound]
    assert "'NH3'" in errors(judge(spoilt))["hessian-sign"]


@pytest.mark.parametrize(
    ("unit", "factor", "by_magnitude"),
    [
        ("Hartree/Bohr²", units.HARTREE_PER_BOHR2, True),
        ("Hartree/Å²", units.HARTREE, True),
        ("kcal/mol/Å²", units.KCAL_PER_MOL, True),
        ("mdyn/Å", 6.2415, False),
        ("eV/Bohr²", 1 / units.BOHR**2, False),
    ],
)
def test_hessian_in_another_unit(judge, sound, unit, factor, by_magnitude):
    found = errors(judge([replace(s, hessian=s.hessian / factor) for s in sound]))
    assert f"look like {unit}" in found["hessian-forces-unit"]
    if by_magnitude:
        assert f"looks like {unit}" in found["hessian-unit"]


def test_unit_is_told_by_magnitude_without_frames_to_compare(judge, sound):
    minima = [replace(s, hessian=s.hessian / units.HARTREE_PER_BOHR2) for s in sound if s.kind == "minimum"]
    assert set(errors(judge(minima))) == {"hessian-unit"}


def test_forces_of_the_wrong_sign(judge, sound):
    found = errors(judge([replace(s, forces=-s.forces) for s in sound]))
    assert {"forces-sign", "hessian-forces-sign"} == set(found)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("Hartree/Bohr", units.HARTREE_PER_BOHR),
        ("Hartree/Å", units.HARTREE),
        ("kcal/mol/Å", units.KCAL_PER_MOL),
        ("eV/Bohr", 1 / units.BOHR),
    ],
)
def test_forces_in_another_unit(judge, sound, unit, factor):
    assert f"look like {unit} " in errors(judge([replace(s, forces=s.forces / factor) for s in sound]))["forces-unit"]


def test_energies_in_hartree(judge, sound):
    assert "forces-unit" in errors(judge([replace(s, energy=s.energy / units.HARTREE) for s in sound]))


def test_coincident_atoms(judge, sound):
    positions = sound[0].positions.copy()
    positions[1] = positions[0] + 0.01
    assert "coincident" in errors(judge([replace(sound[0], positions=positions, hessian=None), *sound[1:]]))


def test_broken_sum_rule(judge, sound):
    hessian = sound[0].hessian + np.eye(len(sound[0].hessian))
    assert sound[0].name in errors(judge([replace(sound[0], hessian=hessian), *sound[1:]]))["sum-rule"]


def test_recorded_asymmetry(judge, sound):
    assert "asymmetry" in errors(judge([replace(sound[0], hessian_asymmetry=5.0), *sound[1:]]))


def test_leak(judge, sound):
    frame = next(s for s in sound if s.kind == "nms" and s.group == "H2O")
    home = next(s.split for s in sound if s.name == "H2O")
    other = "test" if home != "test" else "train"
    found = errors(judge([*(s for s in sound if s.name != frame.name), replace(frame, split=other)]))
    assert "'H2O'" in found["leakage"]


def test_duplicates_are_errors_only_across_splits(judge, sound):
    frame = next(s for s in sound if s.kind == "nms")
    within = judge([*sound, replace(frame, name="again")])
    assert [(finding.level, finding.code) for finding in within] == [("warning", "duplicate")]
    across = judge([*sound, replace(frame, name="again", split="other")])
    assert [(finding.level, finding.code) for finding in across] == [("error", "duplicate")]
    assert across[0].structures == (frame.name, "again")


def test_missing_labels(judge, sound):
    partly = judge([replace(sound[0], hessian=None, forces=None), *sound[1:]])
    assert [(finding.level, finding.code) for finding in partly] == [("warning", "missing")] * 2
    assert judge([replace(s, hessian=None) for s in sound]) == []
    assert "no energy" in errors(judge([replace(sound[0], energy=None), *sound[1:]]))["missing"]


def test_nan_that_another_program_wrote(tmp_path, sound):
    write_store(tmp_path / "set.h5", sound, level_of_theory="none")
    with h5py.File(tmp_path / "set.h5", "r+") as file:
        file["forces"][0, 0] = np.nan
    store = Store.open(tmp_path / "set.h5")
    assert errors(check(store)) == {"not-finite": f"forces hold NaN or infinity ('{sound[0].name}')"}
    assert check(store, range(1, len(store))) == []


def test_unsound_data_are_refused_in_one_line(tmp_path, sound):
    write_store(tmp_path / "set.h5", [replace(s, hessian=-s.hessian) for s in sound], level_of_theory="none")
    store = Store.open(tmp_path / "set.h5")
    with pytest.raises(DataError, match=r"set\.h5: negative trace.*and 1 more") as caught:
        require_sound(store, range(len(store)))
    assert "\n" not in str(caught.value)
