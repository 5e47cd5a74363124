"""Leaks, missing labels and unseen elements."""

from dataclasses import replace

import numpy as np

from hessgnn.data.checks.membership import molecules
from hessgnn.data.store.store import Store


def test_leak(judge, sound):
    frame = next(s for s in sound if s.kind == "nms" and s.group == "H2O")
    home = next(s.split for s in sound if s.name == "H2O")
    other = "test" if home != "test" else "train"
    found = judge([*(s for s in sound if s.name != frame.name), replace(frame, split=other)])
    assert list(found) == [("error", "leakage")]
    assert found["error", "leakage"].startswith("1 group stands in several splits, e.g. 'H2O' in test and train")


def test_leak_along_what_was_made_from_what(judge, sound):
    """Two groups, but one is made from the other."""
    train = next(s for s in sound if s.split == "train")
    tested = [replace(s, parent=train.name) for s in sound if s.split == "test"][:1]
    found = judge([train, *tested])
    assert train.name in found["error", "leakage"] or tested[0].name in found["error", "leakage"]


def test_missing_labels(judge, sound):
    assert set(judge([replace(sound[0], hessian=None, forces=None), *sound[1:]])) == {("warning", "missing")}
    assert judge([replace(s, hessian=None) for s in sound]) == {}
    found = judge([replace(sound[0], energy=None), *sound[1:]])
    assert found == {("error", "missing"): f"no energy label (0 {sound[0].name!r})"}


def test_elements_without_training(judge, sound):
    carbon_free = [s for s in sound if 6 not in s.numbers]
    methanol = next(s for s in sound if s.name == "CH3OH")
    bulk = [replace(s, split="train") for s in carbon_free]
    for split, level in (("validation", "error"), ("test", "warning"), ("elsewhere", "warning")):
        found = judge([*bulk, replace(methanol, split=split)])
        assert found == {
            (level, "unseen-element"): f"C in {split}, but not in train: nothing is learnt of it ({len(bulk)} 'CH3OH')"
        }


def test_groups_are_drawn_by_seed_and_size():
    store = Store.open("rtp-mini")
    everything = np.arange(len(store))
    drawn = molecules(store, everything, most=100, seed=1)
    assert 90 < sum(map(len, drawn)) <= 100
    assert all(len({store.groups[i] for i in members}) == 1 < len(members) for members in drawn)
    again = molecules(store, everything, most=100, seed=1)
    assert [members.tolist() for members in drawn] == [members.tolist() for members in again]
    other = molecules(store, everything, most=100, seed=2)
    assert [members.tolist() for members in drawn] != [members.tolist() for members in other]
