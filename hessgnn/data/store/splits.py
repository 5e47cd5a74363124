"""Splits of a data set: whole families (what must not be divided) drawn at random, so that none leaks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from hessgnn.data.structure import FRAMES, STATIONARY
from hessgnn.errors import ConfigError, DataError

DISJOINT = ("train", "validation", "test")
"""Splits that must not share a group. Others, such as ``nms-known``, hold frames of the same molecules by design."""
TRAIN, VALIDATION, TEST = DISJOINT
VALIDATION_STATIONARY = "validation-stationary"
"""Stationary points of the validation families, where ``validation`` holds their frames."""
KNOWN = "-known"
"""Ends the name of a split of frames whose families are trained on: ``irc-known``, ``nms-known``."""

DRAWN = "# split by"
"""Begins the line of a store's provenance that tells how its splits were drawn."""

Relation = Literal["molecule", "composition", "reaction", "structure"]
"""What a split keeps together, see :func:`hessgnn.data.store.families.divide`."""


def split_groups(sizes: Mapping[str, int], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign each group to a split at random.

    Every split but ``train`` takes groups in random order until it has its share of the structures; ``train`` gets the
    others. A group larger than the whole share of a split is passed over by that split, so that the largest families
    are always trained on. Where all groups are larger, the split takes one of the smallest.

    Parameters
    ----------
    sizes
        Group -> number of its structures that count.
    fractions
        Split name -> share of these structures. Shares must add up to 1. Without ``train`` the first split gets the
        rest.
    seed
        Equal sizes, fractions and seed give equal splits.

    Returns
    -------
    dict
        Group -> split.

    Raises
    ------
    ConfigError
        When a fraction is negative or they do not add up to 1.
    """
    shares = np.array(list(fractions.values()), dtype=float)
    if not len(shares) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise ConfigError(
            f"fractions {dict(fractions)} do not add up to 1", where="split fractions", hint="give shares such as 0.8"
        )
    unique = sorted(sizes)
    waiting = [unique[i] for i in np.random.default_rng(seed).permutation(len(unique))]
    total = sum(sizes.values())
    rest = TRAIN if fractions.get(TRAIN) else next(name for name, share in fractions.items() if share)
    split_of_group = {}
    for name, share in fractions.items():
        if name == rest or not share:
            continue
        for group in _taken(waiting, sizes, share * total):
            split_of_group[group] = name
        waiting = [group for group in waiting if group not in split_of_group]
    return {group: split_of_group.get(group, rest) for group in unique}


def _taken(waiting: Sequence[str], sizes: Mapping[str, int], target: float) -> list[str]:
    """The first groups whose structures come nearest to a number; at least one, unless only one is left."""
    if len(waiting) < 2:
        return []
    taken, count = [], 0
    for group in (group for group in waiting if sizes[group] <= target + 1e-9):
        if 2 * (target - count) < sizes[group]:  # without it the number is nearer
            break
        taken.append(group)
        count += sizes[group]
    return taken[: len(waiting) - 1] or [min(waiting, key=lambda group: sizes[group])]


def split_of(kind: str, group_split: str, *, frames: bool = True, together: bool = False) -> str:
    """Place a structure of some kind, given the split that :func:`split_groups` drew its group to.

    Frames away from stationary points are kept for testing extrapolation, each kind in a split of its own: ``irc`` for
    those of test families, ``irc-known`` for those of training families. Validation is on the frames of validation
    families, whose stationary points are a split of their own: at a minimum every force is zero, so validated on
    minima the flattest surface would win.

    Parameters
    ----------
    frames
        Whether there are frames of validation families. Without, their stationary points are ``validation``.
    together
        Whether frames stay with their groups instead: for small sets that are trained on frames too.
    """
    if together:
        return group_split
    if group_split == VALIDATION:
        return VALIDATION_STATIONARY if kind in STATIONARY and frames else VALIDATION
    if kind not in FRAMES:
        return group_split
    return kind if group_split == TEST else kind + KNOWN


def is_drawn(split: str) -> bool:
    """Whether a split is one of those that :func:`split_of` makes; others are never drawn anew."""
    return split in (*DISJOINT, VALIDATION_STATIONARY) or split.removesuffix(KNOWN) in FRAMES


def is_held_out(split: str) -> bool:
    """Whether a split is for testing on new molecules: no split of training or validation families."""
    return split not in (TRAIN, VALIDATION, VALIDATION_STATIONARY) and not split.endswith(KNOWN)


def is_for_tests(split: str) -> bool:
    """Whether it is one of the splits that :func:`split_of` makes for tests; of others only their user knows."""
    return is_drawn(split) and is_held_out(split)


def leaking_groups(groups: Sequence[str], splits: Sequence[str]) -> dict[str, set[str]]:
    """Find the groups that stand in two of the splits that must be disjoint, and which of these (:data:`DISJOINT`).

    The stationary points of the validation families count as validation.
    """
    found: dict[str, set[str]] = {}
    for group, split in zip(groups, splits, strict=True):
        name = VALIDATION if split == VALIDATION_STATIONARY else split
        if name in DISJOINT:
            found.setdefault(group, set()).add(name)
    return {group: shared for group, shared in found.items() if len(shared) > 1}


def require_no_leak(groups: Sequence[str], splits: Sequence[str], *, where: object) -> None:
    """Raise :class:`DataError`, which names the first shared group and ``where``, when two splits share a group."""
    leaks = leaking_groups(groups, splits)
    if leaks:
        group, shared = next(iter(sorted(leaks.items())))
        others = f" (and {len(leaks) - 1} more groups)" if len(leaks) > 1 else ""
        raise DataError(
            f"group {group!r} is in {' and '.join(sorted(shared))}{others}",
            where=where,
            hint="split whole groups with `hessgnn data split`",
        )


def split_hash(names: Sequence[str], splits: Sequence[str]) -> str:
    """Fingerprint of who is in which split, whatever the order of the structures: SHA-256 as hexadecimal digits."""
    pairs = sorted(zip(names, splits, strict=True))
    return hashlib.sha256("".join(f"{name}\0{split}\n" for name, split in pairs).encode()).hexdigest()
