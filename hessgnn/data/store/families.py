"""What must not be divided between splits: structures of one reaction, one molecule or one composition."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from ase.symbols import Symbols
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hessgnn.data.kinds import FRAMES, TRANSITION_STATE
from hessgnn.data.store.duplicates import Duplicates
from hessgnn.data.store.splits import Relation
from hessgnn.data.structure import Structure
from hessgnn.molecules.geometry import connectivity


def families(
    names: Sequence[str],
    groups: Sequence[str],
    parents: Sequence[str],
    alike: Sequence[Sequence[Hashable]] | None = None,
) -> list[str]:
    """Connect structures by their groups, by what they were made from, and by whatever else they have in common.

    Parameters
    ----------
    names, groups, parents
        Of each structure; a parent is the name of another or empty.
    alike
        More that connects: structures that share an item belong together.

    Returns
    -------
    list of str
        Family of each structure: the first of its groups in alphabetical order.
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
    """What structures have in common beyond groups and parents, for :func:`families`.

    Parameters
    ----------
    structures
        Read once, one at a time.
    by
        ``reaction``: nothing more; ``composition``: the formula; ``molecule``: the bonded graph. A frame away from a
        stationary point, whose bonds may be torn, counts as the molecule that it was made from. In all three the same
        geometry twice is one.

    Returns
    -------
    list of list
        Of each structure.
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
