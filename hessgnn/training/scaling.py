"""Reference energies and energy scale of a potential, from the training split."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hessgnn.data.store.columns import ragged
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError

STATIONARY = 0.01
"""eV/Å: a training split with smaller root mean square forces holds stationary points only."""

_BLOCK = 65_536  # structures that are looked at together


def fit_reference_energies(store: Store, indices: NDArray[np.int64], elements: Sequence[int]) -> dict[int, float]:
    """Energy of each element by least squares on the compositions.

    Parameters
    ----------
    store
        The data.
    indices
        Structures of the training split; those with an energy count.
    elements
        Atomic numbers to be fitted.

    Returns
    -------
    dict
        eV for each atomic number.

    Raises
    ------
    DataError
        When the compositions do not determine every element's energy.
    """
    labelled = indices[store.has_energy[indices]]
    counts = store.composition(elements, labelled).astype(np.float64)
    rank = int(np.linalg.matrix_rank(counts)) if len(labelled) else 0
    if rank < len(elements):
        wanted = ", ".join(chemical_symbols[z] for z in elements)
        raise DataError(
            f"the compositions of the {len(labelled)} training structures with an energy determine only {rank} of the "
            f"{len(elements)} reference energies ({wanted})",
            hint="give data.reference_energies, or add structures of other compositions",
        )
    solution = np.linalg.lstsq(counts, store.energies[labelled], rcond=None)[0]
    return {int(z): float(energy) for z, energy in zip(elements, solution, strict=True)}


def composition_energy(structure: Structure, reference: dict[int, float]) -> float:
    """Energy of a structure as the sum of its elements' reference energies, eV."""
    unknown = sorted({int(z) for z in structure.numbers} - reference.keys())
    if unknown:
        raise DataError(
            f"no reference energy for {', '.join(chemical_symbols[z] for z in unknown)}",
            where=structure.name,
            hint="add the element to potential.elements and data.reference_energies, or leave both out",
        )
    return sum(reference[int(z)] for z in structure.numbers)


def energy_scale(store: Store, indices: NDArray[np.int64], reference: dict[int, float]) -> float:
    """The energy that one dimensionless unit of an atomic energy stands for.

    The root mean square force is the field's choice. It says nothing when the training split holds stationary points
    only: then the spread of the energies per atom about the reference energies is taken.

    Parameters
    ----------
    store
        The data.
    indices
        Structures of the training split.
    reference
        Reference energies, eV.

    Returns
    -------
    float
        eV, positive.

    Raises
    ------
    DataError
        When an element has no reference energy.
    """
    rms_force = _rms_force(store, indices[store.has_forces[indices]])
    if rms_force > STATIONARY:
        return rms_force
    labelled, sizes = indices[store.has_energy[indices]], store.n_atoms
    counts = store.composition(list(reference), labelled)
    if (unknown := labelled[counts.sum(axis=1) < sizes[labelled]]).size:
        composition_energy(store[int(unknown[0])], reference)  # says which element
    residuals = (store.energies[labelled] - counts @ np.array(list(reference.values()))) / sizes[labelled]
    spread = float(np.std(residuals)) if len(residuals) else 0.0
    return spread if spread > STATIONARY else 1.0


def _rms_force(store: Store, indices: NDArray[np.int64]) -> float:
    forces, squares = store.columns.array("forces"), 0.0
    for start in range(0, len(indices), _BLOCK):
        block = indices[start : start + _BLOCK]
        squares += float(np.square(forces[ragged(store.first_atom[block], store.n_atoms[block])]).sum())
    return math.sqrt(squares / (3 * int(store.n_atoms[indices].sum()))) if len(indices) else 0.0
