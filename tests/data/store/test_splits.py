from collections import Counter

import pytest

from hessgnn.data.store.splits import leaking_groups, require_no_leak, split_groups, split_hash, split_of
from hessgnn.data.structure import FRAMES
from hessgnn.errors import ConfigError, DataError

FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}


def test_counts_follow_the_fractions_and_every_group_is_placed():
    groups = [f"m{i % 60}" for i in range(300)]
    found = split_groups(groups, FRACTIONS, seed=1)
    assert set(found) == set(groups)
    assert Counter(found.values()) == {"train": 42, "validation": 9, "test": 9}


def test_depends_on_the_seed_but_not_on_order_or_repetition():
    groups = [f"m{i}" for i in range(40)]
    reference = split_groups(groups, FRACTIONS, seed=1)
    assert split_groups(groups[::-1] + groups, FRACTIONS, seed=1) == reference
    assert split_groups(groups, FRACTIONS, seed=2) != reference


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"train": 1.2, "test": -0.2}])
def test_fractions_that_are_none(fractions):
    with pytest.raises(ConfigError, match="add up to 1"):
        split_groups(["a"], fractions, seed=0)


def test_leaks_are_found_and_named():
    groups, splits = ["a", "a", "b", "b"], ["train", "test", "train", "train"]
    assert leaking_groups(groups, splits) == {"a": {"train", "test"}}
    with pytest.raises(DataError, match=r"set\.h5: group 'a' is in test and train"):
        require_no_leak(groups, splits, where="set.h5")


def test_displaced_frames_may_share_their_molecule():
    require_no_leak(["a", "a"], ["train", "nms"], where="set.h5")


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_follow_their_group_into_validation_only(kind):
    assert split_of(kind, "validation") == "validation"
    assert split_of(kind, "train") == split_of(kind, "test") == kind


@pytest.mark.parametrize("kind", ["minimum", "transition-state", "unknown"])
def test_others_follow_their_group_everywhere(kind):
    assert [split_of(kind, split) for split in FRACTIONS] == list(FRACTIONS)


def test_hash_knows_membership_not_order():
    reference = split_hash(["a", "b"], ["train", "test"])
    assert split_hash(["b", "a"], ["test", "train"]) == reference
    assert split_hash(["a", "b"], ["test", "train"]) != reference
