"""What each split holds, in a few numbers, read one structure at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import yaml
from ase.data import chemical_symbols

from hessgnn.data.checks.finding import Seen
from hessgnn.data.checks.labels import LabelNoise, Noise
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Array, Structure
from hessgnn.runtime.terminal import tracked

DISPLACED = ("nms", "thermal")
"""Kinds whose energies are told above the structure that they were made from; those of others, above the lowest
structure of their group."""


@dataclass(frozen=True)
class SplitSummary:
    """One split of a store. ``None`` stands where no structure has the label.

    Attributes
    ----------
    kinds, elements : dict
        Kind, and symbol in the order of atomic numbers, -> structures.
    atoms : (int, int)
        Smallest and largest number of atoms.
    energy, forces, hessian : int
        Structures with the label.
    directions : dict
        Kind of directions -> how many there are.
    directed : int
        Structures with directions.
    heights : (float, float, float) or None
        5 %, 50 % and 95 % quantiles of the energy above the parent (:data:`DISPLACED`) or above the lowest structure
        of the same group and composition in the whole store, eV.
    rms_forces, max_force : float or None
        Over all components, eV/Å.
    rms_hessian, max_hessian : float or None
        Over all elements of all Hessians, eV/Å².
    rms_product : float or None
        Over all components of all products along vectors whose RMS component is 1, eV/Å².
    noise : tuple of Noise
        Label noise, from what must be zero.
    """

    structures: int
    groups: int
    kinds: dict[str, int]
    atoms: tuple[int, int]
    elements: dict[str, int]
    energy: int
    forces: int
    hessian: int
    directed: int
    directions: dict[str, int]
    heights: tuple[float, float, float] | None
    rms_forces: float | None
    max_force: float | None
    rms_hessian: float | None
    max_hessian: float | None
    rms_product: float | None
    noise: tuple[Noise, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return asdict(self)


def summarise(store: Store) -> dict[str, SplitSummary]:
    """Describe every split, in the order of :attr:`Store.splits`; each structure is read once."""
    gathered = {split: _Gathered() for split in store.splits}
    for i in tracked(range(len(store)), f"reading {store.path.name}"):
        gathered[store.structure_splits[i]].add(store[i])
    heights = _heights(store)
    found = {}
    for split, numbers in gathered.items():
        indices = store.indices(split)
        known = heights[indices][np.isfinite(heights[indices])]
        found[split] = SplitSummary(
            structures=len(indices),
            groups=len({store.groups[i] for i in indices}),
            kinds=dict(Counter(store.kinds[i] for i in indices).most_common()),
            atoms=(int(store.n_atoms[indices].min()), int(store.n_atoms[indices].max())),
            elements={chemical_symbols[z]: count for z, count in sorted(numbers.elements.items())},
            energy=int(store.has_energy[indices].sum()),
            forces=int(store.has_forces[indices].sum()),
            hessian=int(store.has_hessian[indices].sum()),
            directed=int((store.n_directions[indices] > 0).sum()),
            directions=dict(numbers.directions.most_common()),
            heights=_quantiles(known) if len(known) else None,
            rms_forces=numbers.forces.rms,
            max_force=numbers.forces.largest,
            rms_hessian=numbers.hessians.rms,
            max_hessian=numbers.hessians.largest,
            rms_product=numbers.products.rms,
            noise=tuple(numbers.noise.estimates()),
        )
    return found


def recorded_gradients(provenance: str) -> int | None:
    """Gradient calls that a provenance tells, of all that was merged; ``None`` where it tells none.

    They are the numbers called ``gradients`` at any depth of its YAML, but for those of labels that were dropped
    (``hessgnn data label --relabel``).
    """
    try:
        return _gradients(yaml.load(provenance, Loader=_Loader))
    except yaml.YAMLError:
        return None


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _gradients(told: object) -> int | None:
    if isinstance(told, str):
        return recorded_gradients(told) if "gradients:" in told else None
    if isinstance(told, Mapping):
        own = [told["gradients"]] if isinstance(told.get("gradients"), int) else []
        found = own + [_gradients(value) for key, value in told.items() if not _is_dropped(key, value)]
    else:
        found = [_gradients(value) for value in told] if isinstance(told, list) else []
    known = [number for number in found if number is not None]
    return sum(known) if known else None


def _is_dropped(key: object, value: object) -> bool:
    """Whether it tells where the structures of a relabelled set are from, see :mod:`hessgnn.factory.provenance`."""
    return key == "structures" and isinstance(value, Mapping) and "content_hash" in value


@dataclass
class _Size:
    """Root mean square and largest size of numbers that come in pieces."""

    squares: float = 0.0
    count: int = 0
    most: float = 0.0

    def add(self, values: Array) -> None:
        self.squares, self.count = self.squares + float((values**2).sum()), self.count + values.size
        self.most = max(self.most, float(np.abs(values).max()))

    @property
    def rms(self) -> float | None:
        return float(np.sqrt(self.squares / self.count)) if self.count else None

    @property
    def largest(self) -> float | None:
        return self.most if self.count else None


@dataclass
class _Gathered:
    """What is kept of the structures of a split."""

    elements: Counter[int] = field(default_factory=Counter)
    forces: _Size = field(default_factory=_Size)
    hessians: _Size = field(default_factory=_Size)
    products: _Size = field(default_factory=_Size)
    directions: Counter[str] = field(default_factory=Counter)
    noise: LabelNoise = field(default_factory=LabelNoise)

    def add(self, structure: Structure) -> None:
        self.elements.update(set(structure.numbers.tolist()))
        self.noise.see(Seen(0, structure))
        for size, values in ((self.forces, structure.forces), (self.hessians, structure.hessian)):
            if values is not None:
                size.add(values)
        if (directions := structure.directions) is not None:
            self.directions.update(directions.kinds)
            sizes = np.sqrt(np.square(directions.vectors).mean((1, 2), keepdims=True))
            self.products.add(directions.products / np.maximum(sizes, 1e-300))


def _quantiles(values: Array) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return float(low), float(middle), float(high)


def _heights(store: Store) -> Array:
    """Energy of each structure above what it is measured from, eV; NaN where one of the two is unknown."""
    place = {name: i for i, name in enumerate(store.names)}
    isomers = store.isomers()
    lowest: dict[tuple[str, int], float] = {}
    for i in np.flatnonzero(store.has_energy):
        lowest[isomers[i]] = min(lowest.get(isomers[i], np.inf), float(store.energies[i]))

    def base(i: int) -> float:
        parent = place.get(store.parents[i]) if store.kinds[i] in DISPLACED else None
        if parent is not None:
            return float(store.energies[parent]) if store.has_energy[parent] else np.nan
        return lowest.get(isomers[i], np.nan)

    bases = np.array([base(i) for i in range(len(store))])
    return np.where(store.has_energy, store.energies - bases, np.nan)
