"""Families: what must not be divided between splits (one reaction, molecule or composition), and drawing splits anew.

The same geometry is found again, however it is turned, mirrored or its atoms ordered, without comparing all pairs.
Each molecule is summed up in four numbers that no rotation, reflection or exchange of like atoms changes. Mirror images
count as the same on purpose: their energies are equal, and no potential of this package tells them apart. Different
geometries that agree in all four would be a coincidence of more than twenty digits.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase.symbols import Symbols
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hessgnn.data.store.splits import DISJOINT, Relation, require_no_leak, split_groups, split_of
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import FRAMES, TRANSITION_STATE, Structure
from hessgnn.errors import DataError
from hessgnn.molecules.geometry import connectivity, invariants
from hessgnn.runtime.terminal import tracked

TOLERANCE = 1e-6
"""Relative difference of the four numbers within one geometry: some 1e-6 Å, what float32 or eight decimals leave."""

_WINDOW = 8  # candidates compared with each; more do not stand between two copies in the order of the first number


class Duplicates:
    """Sees structures one by one and tells which are the same. Keeps five numbers of each."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, int] = {}
        self._kind = array("q")
        self._invariants = array("d")

    def add(self, structure: Structure) -> None:
        """Take one more."""
        key = np.sort(structure.numbers).tobytes()
        if structure.pbc.any() and structure.cell is not None:  # no images are compared, but other cells are others
            key += b"|" + structure.pbc.tobytes() + np.round(structure.cell, 6).tobytes()
        self._kind.append(self._kinds.setdefault(key, len(self._kinds)))
        self._invariants.extend(invariants(structure.numbers, structure.positions))

    def classes(self) -> list[NDArray[np.int64]]:
        """Structures that are the same, as places in the order of :meth:`add`.

        Each class is sorted and has at least two members; classes come in the order of their first members.
        """
        kind = np.array(self._kind)
        values = np.array(self._invariants).reshape(-1, 4)
        order = np.lexsort((values[:, 0], kind))
        kind, values = kind[order], values[order]
        same: list[NDArray[np.int64]] = []
        for step in range(1, min(_WINDOW, len(order) - 1) + 1):
            near = np.abs(values[step:] - values[:-step]) <= TOLERANCE * np.abs(values[:-step])
            found = np.flatnonzero((kind[step:] == kind[:-step]) & near.all(axis=1))
            same.append(np.stack([order[found], order[found + step]]))
        if not same:
            return []
        first, second = np.concatenate(same, axis=1)
        links = coo_array((np.ones(len(first)), (first, second)), shape=(len(order), len(order)))
        _, label = connected_components(links, directed=False)
        members: dict[int, list[int]] = {}
        for place in np.unique(np.concatenate([first, second])).tolist():
            members.setdefault(int(label[place]), []).append(place)
        return [np.array(places) for places in members.values()]


def families(
    names: Sequence[str],
    groups: Sequence[str],
    parents: Sequence[str],
    alike: Sequence[Sequence[Hashable]] | None = None,
) -> list[str]:
    """Connect structures by their groups, by what they were made from, and by whatever else they have in common.

    A parent is the name of another structure or empty; structures that share an item of ``alike`` belong together.
    Returns the family of each structure: the first of its groups in alphabetical order.
    """
    ids: dict[Hashable, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    for i, (name, group, parent) in enumerate(zip(names, groups, parents, strict=True)):
        shared: list[Hashable] = [("name", name), ("group", group)]
        if parent:
            shared.append(("name", parent))
        if alike is not None:
            shared += [("alike", item) for item in alike[i]]
        for item in shared:
            rows.append(i)
            columns.append(ids.setdefault(item, len(ids)))
    n, m = len(names), len(ids)
    links = coo_array((np.ones(len(rows)), (rows, np.array(columns) + n)), shape=(n + m, n + m))
    _, labels = connected_components(links, directed=False)
    first: dict[int, str] = {}
    for label, group in zip(labels[:n].tolist(), groups, strict=True):
        first[label] = min(first.get(label, group), group)
    return [first[label] for label in labels[:n].tolist()]


def relations(structures: Iterable[Structure], by: Relation) -> list[list[Hashable]]:
    """What each structure has in common with others beyond groups and parents, for :func:`families`.

    ``by`` is ``reaction``: nothing more; ``composition``: the formula; ``molecule``: the bonded graph. A frame away
    from a stationary point, whose bonds may be torn, counts as the molecule that it was made from. In all three the
    same geometry twice is one.
    """
    found: list[list[Hashable]] = []
    duplicates = Duplicates()
    for structure in structures:
        duplicates.add(structure)
        found.append([])
        if by == "composition":
            found[-1].append(str(Symbols(structure.numbers).get_chemical_formula()))
        elif by == "molecule" and not _follows(structure):
            found[-1].append(
                connectivity(structure.numbers, structure.positions, structure.cell, structure.pbc, structure.name)
            )
    for number, places in enumerate(duplicates.classes()):
        for place in places.tolist():
            found[place].append(number)
    return found


def _follows(structure: Structure) -> bool:
    related = structure.parent or structure.group != structure.name
    return bool(related) and structure.kind in (*FRAMES, "path", TRANSITION_STATE)


def resplit(store: Store, output: Path, *, by: Relation, fractions: Mapping[str, float], seed: int) -> Store:
    """Write a store with other splits: whole families are drawn at random.

    Structures whose split is none of train, validation, test and the kinds of extrapolation stay where they were. How
    the others were drawn is the last line of the provenance.

    Parameters
    ----------
    store
        The data; each structure is read twice, one at a time.
    by
        What stays together, see :func:`relations`.
    fractions
        Share of the families that each split gets.
    seed
        Equal data and seeds give equal splits.

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
