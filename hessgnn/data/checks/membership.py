"""Checks of the set as a whole, from what a store keeps in memory: leaks, missing labels, elements never trained on."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hessgnn.data.checks.finding import Finding, Level, Seen, finding
from hessgnn.data.store.families import families
from hessgnn.data.store.splits import DISJOINT, leaking_groups
from hessgnn.data.store.store import Store

TRAIN = DISJOINT[0]


@dataclass(frozen=True)
class Counts:
    """Labels of one split: how many structures and groups there are, and how many have which label.

    ``directions`` counts structures, ``products`` those of them all.
    """

    structures: int
    groups: int
    energy: int
    forces: int
    hessian: int
    directions: int
    products: int


def counts(store: Store, indices: NDArray[np.int64]) -> dict[str, Counts]:
    """Count the labels of each split."""
    members = _by_split(store, indices)
    return {
        split: Counts(
            len(places),
            len({store.groups[i] for i in places}),
            int(store.has_energy[places].sum()),
            int(store.has_forces[places].sum()),
            int(store.has_hessian[places].sum()),
            int((store.n_directions[places] > 0).sum()),
            int(store.n_directions[places].sum()),
        )
        for split, places in members.items()
    }


def leaks(store: Store) -> Iterator[Finding]:
    """Find groups, and reactions connected by what was made from what, that stand in two disjoint splits.

    It is an error, unless the store says that it was split over structures: then only a warning.
    """
    of_family = families(store.names, store.groups, store.parents)
    leaking = leaking_groups(of_family, store.structure_splits)
    if leaking:
        places = [i for i, family in enumerate(of_family) if family in leaking]
        family, shared = min(leaking.items())
        verb = "group stands" if len(leaking) == 1 else "groups stand"
        what = f"{len(leaking)} {verb} in several splits, e.g. {family!r} in {' and '.join(sorted(shared))}"
        wanted = store.attributes.split_by == "structure"
        if wanted:
            what = f"split over structures, as intended: {what}. Test errors are not those of new molecules"
        yield finding("warning" if wanted else "error", "leakage", what, places, [store.names[i] for i in places])


def missing_labels(store: Store, indices: NDArray[np.int64]) -> Iterator[Finding]:
    """Tell which labels are missing; forces or Hessians that nobody has are no fault.

    A structure with a Hessian or directions needs neither energy nor forces: each loss term is a mean over the
    structures that have its label. Sets are mixed on purpose, so these are notes, as missing curvature is.
    """
    curvature = "hessian or directions" if store.n_directions[indices].any() else "hessian"
    curved = store.has_curvature[indices]
    for key, has in (("energy", store.has_energy), ("forces", store.has_forces), (curvature, store.has_curvature)):
        lacking = ~has[indices]
        if lacking.all() and (key != "energy" or store.leaves_out(key)):
            continue
        intended = lacking & (curved | (key == curvature))
        if len(without := indices[lacking & ~intended]):
            names = [store.names[i] for i in without]
            level: Level = "error" if key == "energy" else "warning"
            yield finding(level, "missing", f"no {key} label", without.tolist(), names)
        if len(without := indices[intended]):
            what = f"{len(without)} of {len(indices)} structures have no {key} label"
            yield Finding("note", "missing", what, tuple(store.names[i] for i in without), tuple(without.tolist()))


def unseen_elements(store: Store, indices: NDArray[np.int64]) -> Iterator[Finding]:
    """Find elements that no structure of the training split has, so that their energies are never fitted.

    It is an error in the validation split, by which the best potential is chosen, and a warning elsewhere.
    """
    members = _by_split(store, indices)
    if TRAIN not in members:
        return
    trained = set(store.elements(members[TRAIN]))
    for split, places in members.items():
        unseen = sorted(set(store.elements(places)) - trained)
        if unseen:
            symbols = ", ".join(chemical_symbols[number] for number in unseen)
            concerned = [i for i in places.tolist() if not trained.issuperset(store.elements([i]))]
            what = f"{symbols} in {split}, but not in {TRAIN}: the model cannot learn this element"
            names = [store.names[i] for i in concerned]
            yield finding("error" if split == "validation" else "warning", "unseen-element", what, concerned, names)


class Compositions:
    """Which compositions each split has."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self._ids: dict[str, array[int]] = {}

    def see(self, seen: Seen) -> None:
        """Note one."""
        structure = seen.structure
        key = np.sort(structure.numbers).astype(np.uint8).tobytes()
        ids = self._ids.setdefault(structure.split, array("q"))
        ids.append(self._known.setdefault(key, len(self._known)))

    def shared(self) -> dict[str, tuple[int, int]]:
        """Split -> (compositions, of these in train). Isomers share one: no leak, but it tells how far a test goes."""
        found = {split: set(ids) for split, ids in self._ids.items()}
        trained = found.get(TRAIN, set())
        return {split: (len(own), len(own & trained)) for split, own in found.items()}


def _by_split(store: Store, indices: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Indices of each split, in the order of :attr:`Store.splits`."""
    names = np.array(store.structure_splits)[indices]
    there = Counter(names.tolist())
    return {split: indices[names == split] for split in store.splits if split in there}


def molecules(store: Store, indices: NDArray[np.int64], most: int, seed: int) -> list[NDArray[np.int64]]:
    """Draw isomers of one group, whose frames may be neighbours.

    At most ``most`` structures are drawn. Returns the indices of each set of isomers, ``(k,)`` int64 with k ≥ 2; of
    large sets the beginning.
    """
    of_group: dict[tuple[str, int], list[int]] = {}
    isomers = store.isomers()
    for i in indices.tolist():
        of_group.setdefault(isomers[i], []).append(i)
    several = [members for members in of_group.values() if len(members) > 1]
    drawn: list[NDArray[np.int64]] = []
    left = most
    for place in np.random.default_rng(seed).permutation(len(several)):
        members = several[place]
        size = 9 * int(max(store.n_atoms[members])) ** 2
        chosen = members[: max(2, min(_FRAMES, _NUMBERS // size, left))]
        drawn.append(np.array(chosen))
        left -= len(chosen)
        if left < 2:
            break
    return drawn


_FRAMES = 64  # of one group
_NUMBERS = 2**25  # elements of its Hessians, which are in memory together
