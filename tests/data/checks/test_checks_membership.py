"""Leaks, missing labels and unseen elements."""

from dataclasses import replace

import numpy as np

from hessgnn.data.checks import check, examine
from hessgnn.data.checks.membership import molecules
from hessgnn.data.store.store import Store, write_store


def test_leak(judge, sound):
    frame = next(s for s in sound if s.kind == "nms" and s.group == "H2O")
    home = next(s.split for s in sound if s.name == "H2O")
    other = "test" if home != "test" else "train"
    found = judge([*(s for s in sound if s.name != frame.name), replace(frame, split=other)])
    assert list(found) == [("error", "leakage")]
    assert found["error", "leakage"].startswith("1 group stands in several splits, e.g. 'H2O' in test and train")


def test_leak_along_what_was_made_from_what(judge, sound):
    """Two groups, but one is made from the other."""
    train, other = (s for s in sound if s.name in ("H2O", "CO2"))
    train, tested = replace(train, split="train"), [replace(other, parent=train.name, split="test")]
    found = judge([train, *tested])
    assert train.name in found["error", "leakage"] or tested[0].name in found["error", "leakage"]


def test_missing_labels(judge, sound):
    found = judge([replace(sound[0], hessian=None, forces=None), *sound[1:]])
    assert found == {
        ("note", "missing"): f"1 of {len(sound)} structures have no hessian label",
        ("warning", "missing"): f"no forces label (0 {sound[0].name!r})",
    }
    assert judge([replace(s, hessian=None) for s in sound]) == {}
    found = judge([replace(sound[0], energy=None, hessian=None), *sound[1:]])
    assert found["error", "missing"] == f"no energy label (0 {sound[0].name!r})"


def test_a_structure_with_curvature_needs_no_energy(write, sound):
    """As what ``data directions --at midpoint`` makes; nothing is listed, but --json has it."""
    curved = [replace(s, energy=None, forces=None) for s in sound[:7]]
    report = examine(write([*curved, *sound[7:]]))
    assert {(found.level, found.code) for found in report.findings} == {("note", "missing")}
    what = f"7 of {len(sound)} structures have no"
    assert [found.message for found in report.findings] == [f"{what} energy label", f"{what} forces label"]
    assert report.findings[0].indices == tuple(range(7))


def test_elements_without_training(judge, sound):
    carbon_free = [s for s in sound if 6 not in s.numbers]
    methanol = next(s for s in sound if s.name == "CH3OH")
    bulk = [replace(s, split="train") for s in carbon_free]
    for split, level in (("validation", "error"), ("test", "warning"), ("elsewhere", "warning")):
        found = judge([*bulk, replace(methanol, split=split)])
        what = f"C in {split}, but not in train: the model cannot learn this element ({len(bulk)} 'CH3OH')"
        assert found == {(level, "unseen-element"): what}


def test_a_leak_is_wanted_in_a_split_over_structures(tmp_path, sound):
    """It is told, but does not forbid training."""
    structures = [replace(s, split="test" if s.name == "H2O/nms-0" else "train") for s in sound]
    write_store(tmp_path / "set.h5", structures, level_of_theory="none", split_by="structure")
    (found,) = check(Store.open(tmp_path / "set.h5"))
    assert (found.level, found.code) == ("warning", "leakage")
    assert "split over structures, as intended: 1 group stands in several splits, e.g. 'H2O'" in found.message


def test_copies_within_validation_are_no_leak(judge, sound):
    """Its stationary points and its frames are two splits of the same families."""
    water = next(s for s in sound if s.name == "H2O")
    pair = [replace(water, split="validation-stationary"), replace(water, name="again", split="validation")]
    assert set(judge([*(s for s in sound if s.group != "H2O"), *pair])) == {("warning", "duplicate")}


def test_groups_are_drawn_by_seed_and_size():
    store = Store.open("rtp-mini")
    everything = np.arange(len(store))
    drawn = molecules(store, everything, most=100, seed=1)
    assert 90 < sum(map(len, drawn)) <= 100
    assert all(len({store.groups[i] for i in members}) == 1 < len(members) for members in drawn)
    assert all(len({tuple(sorted(store[int(i)].numbers)) for i in members}) == 1 for members in drawn)
    again = molecules(store, everything, most=100, seed=1)
    assert [members.tolist() for members in drawn] == [members.tolist() for members in again]
    other = molecules(store, everything, most=100, seed=2)
    assert [members.tolist() for members in drawn] != [members.tolist() for members in other]
