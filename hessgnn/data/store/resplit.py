"""Splitting a data set again: whole reactions, molecules or compositions are drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hessgnn.data.kinds import FRAMES
from hessgnn.data.store.families import families, relations
from hessgnn.data.store.splits import DISJOINT, Relation, require_no_leak, split_groups, split_of
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import DataError
from hessgnn.runtime.terminal import tracked


def resplit(store: Store, output: Path, *, by: Relation, fractions: Mapping[str, float], seed: int) -> Store:
    """Write a store with other splits.

    Parameters
    ----------
    store
        The data; each structure is read twice, one at a time.
    output
        The HDF5 file.
    by
        What stays together, see :func:`~hessgnn.data.store.families.relations`.
    fractions
        Share of the families that each split gets.
    seed
        Equal data and seeds give equal splits.

    Returns
    -------
    Store
        The new one. Structures whose split is none of train, validation, test and the kinds of extrapolation stay
        where they were; how the others were drawn is the last line of the provenance.

    Raises
    ------
    DataError
        When a split would be empty, or a family divided.
    """
    reading = (store[i] for i in tracked(range(len(store)), f"reading {store.path.name}"))
    of_family = families(store.names, store.groups, store.parents, relations(reading, by))
    moves = [split in (*DISJOINT, *FRAMES) for split in store.structure_splits]
    drawn = {family for family, moving in zip(of_family, moves, strict=True) if moving}
    split_of_family = split_groups(drawn, fractions, seed)
    empty = sorted(name for name, share in fractions.items() if share > 0 and name not in split_of_family.values())
    if empty:
        raise DataError(
            f"{len(drawn)} families are too few: none is left for {', '.join(empty)}",
            where=store.path,
            hint="give other --fractions, or hold less together (--by, or groups when importing)",
        )
    splits = [
        split_of(kind, split_of_family[family]) if moving else split
        for kind, family, moving, split in zip(store.kinds, of_family, moves, store.structure_splits, strict=True)
    ]
    require_no_leak(of_family, splits, where=store.path)
    shares = ", ".join(f"{name} {share:g}" for name, share in fractions.items())
    attributes = store.attributes
    write_store(
        output,
        (replace(store[i], split=splits[i]) for i in tracked(range(len(store)), f"writing {output.name}")),
        level_of_theory=attributes.level_of_theory,
        provenance=f"{attributes.provenance.rstrip()}\n# split by {by}: {shares}; seed {seed}\n".lstrip(),
        versions=attributes.versions,
        hessian_dtype=attributes.hessian_dtype,
    )
    return Store.open(output)
