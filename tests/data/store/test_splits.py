from collections import Counter

import pytest

from hessgnn.data.store.splits import (
    is_drawn,
    is_held_out,
    leaking_groups,
    require_no_leak,
    split_groups,
    split_hash,
    split_of,
)
from hessgnn.data.structure import FRAMES
from hessgnn.errors import ConfigError, DataError

FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}


def test_counts_follow_the_fractions_and_every_group_is_placed():
    sizes = {f"m{i}": 5 for i in range(60)}
    found = split_groups(sizes, FRACTIONS, seed=1)
    assert set(found) == set(sizes)
    assert Counter(found.values()) == {"train": 42, "validation": 9, "test": 9}


def test_shares_are_of_structures_and_large_groups_are_trained_on():
    sizes = {"giant": 400} | {f"m{i}": 1 + i % 3 for i in range(300)}
    for seed in range(20):
        found = split_groups(sizes, FRACTIONS, seed=seed)
        counts = {split: sum(sizes[group] for group in found if found[group] == split) for split in FRACTIONS}
        assert found["giant"] == "train"
        assert counts == pytest.approx({"train": 700, "validation": 150, "test": 150}, abs=2)


def test_no_split_stays_empty_while_there_are_groups():
    for seed in range(20):
        assert set(split_groups({"a": 9, "b": 5, "c": 7}, FRACTIONS, seed=seed).values()) == set(FRACTIONS)
    assert set(split_groups({"a": 9, "b": 5}, FRACTIONS, seed=0).values()) < set(FRACTIONS)


def test_depends_on_the_seed_but_not_on_order():
    sizes = {f"m{i}": 1 + i % 4 for i in range(40)}
    reference = split_groups(sizes, FRACTIONS, seed=1)
    assert split_groups(dict(reversed(sizes.items())), FRACTIONS, seed=1) == reference
    assert split_groups(sizes, FRACTIONS, seed=2) != reference


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"train": 1.2, "test": -0.2}])
def test_fractions_that_are_none(fractions):
    with pytest.raises(ConfigError, match="add up to 1"):
        split_groups({"a": 1}, fractions, seed=0)


def test_leaks_are_found_and_named():
    groups, splits = ["a", "a", "b", "b"], ["train", "test", "train", "train"]
    assert leaking_groups(groups, splits) == {"a": {"train", "test"}}
    with pytest.raises(DataError, match=r"set\.h5: group 'a' is in test and train"):
        require_no_leak(groups, splits, where="set.h5")


def test_displaced_frames_may_share_their_molecule():
    require_no_leak(["a", "a"], ["train", "nms"], where="set.h5")


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_validate_or_test_extrapolation(kind):
    assert [split_of(kind, split) for split in FRACTIONS] == [f"{kind}-known", "validation", kind]


@pytest.mark.parametrize("kind", [*FRAMES, "minimum"])
def test_frames_may_stay_with_their_group(kind):
    assert [split_of(kind, split, together=True) for split in FRACTIONS] == list(FRACTIONS)


@pytest.mark.parametrize("kind", ["minimum", "transition-state", "unknown"])
def test_others_follow_their_group(kind):
    """Validation is on frames where there are any: every force of a stationary point is zero."""
    assert [split_of(kind, split, frames=False) for split in FRACTIONS] == list(FRACTIONS)
    apart = "validation" if kind == "unknown" else "validation-stationary"
    assert [split_of(kind, split) for split in FRACTIONS] == ["train", apart, "test"]


def test_the_stationary_points_of_validation_are_validation():
    assert leaking_groups(["a", "a"], ["validation", "validation-stationary"]) == {}
    assert leaking_groups(["a", "a"], ["train", "validation-stationary"]) == {"a": {"train", "validation"}}


def test_which_splits_are_of_new_molecules():
    splits = ["train", "validation", "validation-stationary", "test", "irc", "irc-known", "nms-known", "pool"]
    assert [split for split in splits if is_held_out(split)] == ["test", "irc", "pool"]
    assert [split for split in splits if not is_drawn(split)] == ["pool"]


def test_hash_knows_membership_not_order():
    reference = split_hash(["a", "b"], ["train", "test"])
    assert split_hash(["b", "a"], ["test", "train"]) == reference
    assert split_hash(["a", "b"], ["test", "train"]) != reference
