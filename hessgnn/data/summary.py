"""What a split holds, in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hessgnn.data.store import Store


@dataclass(frozen=True)
class SplitSummary:
    """One split of a store.

    Attributes
    ----------
    structures, groups : int
        How many.
    atoms : (int, int)
        Smallest and largest number of atoms.
    elements : list of str
        Symbols, sorted by atomic number.
    labels : (int, int, int)
        Structures with energy, forces, Hessian.
    energies_above_lowest : (float, float, float) or None
        5 %, 50 % and 95 % quantiles of the energy above the lowest structure of the same group in the whole store, eV.
    rms_forces, max_force : float or None
        Over all components, eV/Å.
    rms_hessian : float or None
        Over all elements of all Hessians, eV/Å².
    max_asymmetry : float
        Largest ``|H − Hᵀ|`` when the labels were made, eV/Å².
    """

    structures: int
    groups: int
    atoms: tuple[int, int]
    elements: list[str]
    labels: tuple[int, int, int]
    energies_above_lowest: tuple[float, float, float] | None
    rms_forces: float | None
    max_force: float | None
    rms_hessian: float | None
    max_asymmetry: float


def summarise(store: Store, split: str) -> SplitSummary:
    """Describe one split.

    Parameters
    ----------
    store
        The data.
    split
        Its name.

    Returns
    -------
    SplitSummary
        ``None`` stands where no structure has the label.
    """
    indices = store.indices(split)
    structures = [store[int(i)] for i in indices]
    forces = [s.forces.ravel() for s in structures if s.forces is not None]
    hessians = [s.hessian.ravel() for s in structures if s.hessian is not None]
    return SplitSummary(
        structures=len(indices),
        groups=len({s.group for s in structures}),
        atoms=(int(store.n_atoms[indices].min()), int(store.n_atoms[indices].max())),
        elements=store.symbols(indices),
        labels=(
            int(store.has_energy[indices].sum()),
            int(store.has_forces[indices].sum()),
            int(store.has_hessian[indices].sum()),
        ),
        energies_above_lowest=_energies_above_lowest(store, split),
        rms_forces=_rms(forces),
        max_force=float(np.abs(np.concatenate(forces)).max()) if forces else None,
        rms_hessian=_rms(hessians),
        max_asymmetry=float(store.hessian_asymmetry[indices].max()),
    )


def _energies_above_lowest(store: Store, split: str) -> tuple[float, float, float] | None:
    lowest: dict[str, float] = {}
    for i in np.flatnonzero(store.has_energy):
        group = store.groups[i]
        lowest[group] = min(lowest.get(group, np.inf), float(store.energies[i]))
    heights = [store.energies[i] - lowest[store.groups[i]] for i in store.indices(split) if store.has_energy[i]]
    if not heights:
        return None
    low, middle, high = np.quantile(heights, [0.05, 0.5, 0.95])
    return float(low), float(middle), float(high)


def _rms(arrays: list[np.ndarray]) -> float | None:
    return float(np.sqrt(np.mean(np.concatenate(arrays) ** 2))) if arrays else None
