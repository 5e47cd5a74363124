"""Splits of a data set: whole groups (molecules, reactions) drawn at random, so that none leaks into another split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from hessgnn.data.structure import FRAMES
from hessgnn.errors import ConfigError, DataError

DISJOINT = ("train", "validation", "test")
"""Splits that must not share a group. Others, such as ``nms``, hold frames of the same molecules by design."""

Relation = Literal["reaction", "composition", "molecule"]
"""What a split keeps together, see :func:`hessgnn.data.store.families.relations`."""


def split_groups(groups: Iterable[str], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign each group to a split at random.

    Parameters
    ----------
    groups
        Group of each structure, in any order and with repetitions.
    fractions
        Split name -> share of the *groups*. Shares must add up to 1; counts are rounded by the largest remainder.
    seed
        Equal groups, fractions and seed give equal splits.

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
    unique = sorted(set(groups))
    exact = shares * len(unique)
    counts = np.floor(exact + 1e-9).astype(int)
    by_remainder = np.argsort(counts - exact, kind="stable")
    counts[by_remainder[: len(unique) - counts.sum()]] += 1
    names = np.repeat(np.array(list(fractions)), counts)
    order = np.random.default_rng(seed).permutation(len(unique))
    return {unique[i]: str(name) for i, name in zip(order, names, strict=True)}


def split_of(kind: str, group_split: str) -> str:
    """Place a structure of some kind, given the split that :func:`split_groups` drew its group to.

    Frames away from stationary points are kept for testing extrapolation, each kind in a split of its own, but those of
    validation groups follow them: at a minimum every force is zero, so validated on minima alone the flattest surface
    would win.
    """
    return kind if kind in FRAMES and group_split != "validation" else group_split


def leaking_groups(groups: Sequence[str], splits: Sequence[str]) -> dict[str, set[str]]:
    """Find the groups that stand in two of the splits that must be disjoint, and which of these (:data:`DISJOINT`)."""
    found: dict[str, set[str]] = {}
    for group, split in zip(groups, splits, strict=True):
        if split in DISJOINT:
            found.setdefault(group, set()).add(split)
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
