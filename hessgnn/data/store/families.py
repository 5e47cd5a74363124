"""Families: what must not be divided between splits (molecules with their reactions and complexes), and drawing splits.

The same geometry is found again, however it is turned, mirrored or its atoms ordered, without comparing all pairs.
Each molecule is summed up in four numbers that no rotation, reflection or exchange of like atoms changes. Mirror images
count as the same on purpose: their energies are equal, and no potential of this package tells them apart. Different
geometries that agree in all four would be a coincidence of more than twenty digits.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase.symbols import Symbols
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hessgnn.data.store.splits import (
    DRAWN,
    TRAIN,
    VALIDATION,
    VALIDATION_STATIONARY,
    Relation,
    is_drawn,
    is_held_out,
    require_no_leak,
    split_groups,
    split_of,
)
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import FRAMES, MINIMUM, PRODUCT, REACTANT, STATIONARY, Structure
from hessgnn.errors import DataError
from hessgnn.molecules.geometry import fragments, invariants
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


def molecules(structures: Iterable[Structure]) -> list[frozenset[str]]:
    """The molecules that each structure consists of: fingerprints of the connected parts of its bonded graph.

    A complex has several. A frame away from a stationary point, whose bonds may be torn, has none of its own: it counts
    as what it was made from. The parts of anything else but a minimum or an end of a reaction may be torn off, such as
    the hydrogen atom on its way in a saddle point: they count only where they are molecules elsewhere.
    """
    parts: list[list[str]] = []
    torn: list[int] = []
    whole: set[str] = set()
    for place, structure in enumerate(structures):
        found: list[str] = []
        if not _follows(structure):
            found = fragments(structure.numbers, structure.positions, structure.cell, structure.pbc, structure.name)
        parts.append(found)
        if len(found) > 1 and structure.kind not in (MINIMUM, REACTANT, PRODUCT):
            torn.append(place)
        else:
            whole.update(found)
    for place in torn:
        parts[place] = [part for part in parts[place] if part in whole]
    return [frozenset(found) for found in parts]


def relations(structures: Iterable[Structure], by: Relation) -> list[list[Hashable]]:
    """What each structure has in common with others beyond groups and parents, for :func:`families`.

    ``by`` is ``molecule``: the molecules that it consists of, see :func:`molecules`, so that a complex belongs to each
    of its parts; ``composition``: the formula; ``reaction`` or ``structure``: nothing more. In all of them the same
    geometry twice is one.
    """
    duplicates = Duplicates()
    formulas: list[Hashable] = []

    def seen() -> Iterator[Structure]:
        for structure in structures:
            duplicates.add(structure)
            formulas.append(str(Symbols(structure.numbers).get_chemical_formula()))
            yield structure

    found: list[list[Hashable]]
    if by == "molecule":
        found = [[*sorted(parts)] for parts in molecules(seen())]
    else:
        found = [[] for _ in seen()]
        if by == "composition":
            found = [[formula] for formula in formulas]
    for number, places in enumerate(duplicates.classes()):
        for place in places.tolist():
            found[place].append(number)
    return found


def _follows(structure: Structure) -> bool:
    related = structure.parent or structure.group != structure.name
    return bool(related) and structure.kind in (*FRAMES, "path")


def familiar(store: Store) -> dict[str, tuple[int, int]]:
    """Count the structures whose molecule, or a part of whose complex, is in ``train`` or a split of validation.

    A frame counts as what it was made from; a saddle point also consists of what its ends consist of.

    Returns
    -------
    dict
        Split -> (structures, those that are familiar), for the splits that
        :func:`~hessgnn.data.store.splits.is_held_out` names. A split by molecules has none; a split over structures
        has many.
    """
    names, parents, kinds, splits = store.names, store.parents, store.kinds, store.structure_splits

    def seen() -> Iterator[Structure]:
        cells, pbc = store.columns.array("cell"), store.columns.array("pbc")
        for i, name in enumerate(tracked(names, f"molecules of {store.path.name}")):
            numbers, positions = store.per_atom("numbers", i), store.per_atom("positions", i)
            yield Structure(
                numbers=numbers,
                positions=positions,
                cell=cells[i],
                pbc=pbc[i],
                name=name,
                group=store.groups[i],
                kind=kinds[i],
                parent=parents[i],
            )

    parts = molecules(seen())
    place = {name: i for i, name in enumerate(names)}
    whole = [set(found) for found in parts]
    for i, parent in enumerate(parents):
        if kinds[i] in (REACTANT, PRODUCT) and parent in place:
            whole[place[parent]] |= parts[i]

    def of(i: int) -> set[str]:
        met = {i}  # a frame of a frame leads to a stationary point in a few steps
        while kinds[i] not in STATIONARY and place.get(parents[i], i) not in met:
            i = place[parents[i]]
            met.add(i)
        return whole[i]

    of_each = [of(i) for i in range(len(names))]
    used = (TRAIN, VALIDATION, VALIDATION_STATIONARY)
    met: set[str] = set().union(*(found for found, split in zip(of_each, splits, strict=True) if split in used))
    known = Counter(split for found, split in zip(of_each, splits, strict=True) if not met.isdisjoint(found))
    return {split: (total, known[split]) for split, total in store.splits.items() if is_held_out(split)}


@dataclass(frozen=True)
class Division:
    """How structures are divided: the family and the split of each, in their order, and the number of families."""

    families: list[str]
    splits: list[str]
    drawn: int


def divide(
    structures: Iterable[Structure],
    *,
    by: Relation,
    fractions: Mapping[str, float],
    seed: int,
    together: bool = False,
) -> Division:
    """Draw splits at random: whole families, or with ``by="structure"`` single structures.

    Parameters
    ----------
    structures
        Each is read once. Those of a split that is not drawn (:func:`~hessgnn.data.store.splits.is_drawn`) keep it.
    by
        What stays together, see :func:`relations`. ``structure``: nothing but copies of one geometry. Frames are then
        not drawn but stay in the splits of their kinds, and families are those of ``molecule``.
    fractions
        Share of the structures that each split gets; frames are not counted unless there is nothing else.
    seed
        Equal data and seeds give equal splits.
    together
        Whether frames stay with their families instead of in splits of their kinds. Not with ``structure``.
    """
    rows: list[tuple[str, str, str, str, str]] = []

    def seen() -> Iterator[Structure]:
        for one in structures:
            rows.append((one.name, one.group, one.parent, one.kind, one.split))
            yield one

    single = by == "structure"
    alike = relations(seen(), "molecule" if single else by)
    names, groups, parents, kinds, old = (list(column) for column in zip(*rows, strict=True))
    of_family = units = families(names, groups, parents, alike)
    if single:
        copies = [[item for item in items if isinstance(item, int)] for items in alike]
        units = families(names, names, [""] * len(names), copies)
    moving = [is_drawn(split) and not (single and kind in FRAMES) for split, kind in zip(old, kinds, strict=True)]
    drawn = [i for i, moves in enumerate(moving) if moves]
    sizes = dict.fromkeys((units[i] for i in drawn), 0)
    only_frames = all(kinds[i] in FRAMES for i in drawn)
    for i in drawn:
        sizes[units[i]] += only_frames or kinds[i] not in FRAMES
    split_of_unit = split_groups(sizes, fractions, seed)
    frames = any(kinds[i] in FRAMES and split_of_unit[units[i]] == VALIDATION for i in drawn)
    splits = []
    for i, split in enumerate(old):
        if moving[i]:
            split = split_of(kinds[i], split_of_unit[units[i]], frames=frames, together=together)
        elif single and is_drawn(split):
            split = kinds[i]
        splits.append(split)
    return Division(of_family, splits, len(sizes))


def resplit(
    store: Store, output: Path, *, by: Relation, fractions: Mapping[str, float], seed: int, together: bool = False
) -> Store:
    """Write a store with other splits, see :func:`divide`; its groups become the families.

    How the splits were drawn is the last line of the provenance.

    Parameters
    ----------
    store
        The data; each structure is read twice, one at a time.
    by, fractions, seed, together
        As for :func:`divide`.

    Raises
    ------
    DataError
        When a split would be empty, or a family divided.
    """
    reading = (store[i] for i in tracked(range(len(store)), f"reading {store.path.name}"))
    made = divide(reading, by=by, fractions=fractions, seed=seed, together=together)
    empty = sorted(name for name, share in fractions.items() if share > 0 and name not in made.splits)
    if empty:
        raise DataError(
            f"{made.drawn} families are too few: none is left for {', '.join(empty)}",
            where=store.path,
            hint="give other --fractions, or hold less together (--by, or groups when importing)",
        )
    if by != "structure":
        require_no_leak(made.families, made.splits, where=store.path)
    shares = ", ".join(f"{name} {share:g}" for name, share in fractions.items())
    shares += "; frames together" if together else ""
    attributes = store.attributes
    origin = [line for line in attributes.provenance.rstrip().splitlines() if not line.startswith(DRAWN)]
    write_store(
        output,
        (
            replace(store[i], group=made.families[i], split=made.splits[i])
            for i in tracked(range(len(store)), f"writing {output.name}")
        ),
        level_of_theory=attributes.level_of_theory,
        provenance="\n".join([*origin, f"{DRAWN} {by}: {shares}; seed {seed}\n"]),
        versions=attributes.versions,
        hessian_dtype=attributes.hessian_dtype,
        split_by=by,
    )
    return Store.open(output)
