"""Reference energies and energy scale of a potential, from the training split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols

from hessgnn.data.structure import Structure
from hessgnn.errors import DataError

STATIONARY = 0.01
"""eV/Å: a training split with smaller root mean square forces holds stationary points only."""


def fit_reference_energies(structures: Sequence[Structure], elements: Sequence[int]) -> dict[int, float]:
    """Energy of each element by least squares on the compositions.

    Parameters
    ----------
    structures
        Those with an energy count.
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
    labelled = [s for s in structures if s.energy is not None]
    counts = np.array([[np.count_nonzero(s.numbers == z) for z in elements] for s in labelled], dtype=np.float64)
    counts = counts.reshape(len(labelled), len(elements))
    rank = int(np.linalg.matrix_rank(counts)) if len(labelled) else 0
    if rank < len(elements):
        wanted = ", ".join(chemical_symbols[z] for z in elements)
        raise DataError(
            f"the compositions of the {len(labelled)} training structures with an energy determine only {rank} of the "
            f"{len(elements)} reference energies ({wanted})",
            remedy="give data.reference_energies, or add structures of other compositions",
        )
    energies = np.array([s.energy for s in labelled])
    solution = np.linalg.lstsq(counts, energies, rcond=None)[0]
    return {int(z): float(energy) for z, energy in zip(elements, solution, strict=True)}


def composition_energy(structure: Structure, reference: dict[int, float]) -> float:
    """Energy of a structure as the sum of its elements' reference energies, eV."""
    unknown = sorted({int(z) for z in structure.numbers} - reference.keys())
    if unknown:
        raise DataError(
            f"no reference energy for {', '.join(chemical_symbols[z] for z in unknown)}",
            where=structure.name,
            remedy="add the element to potential.elements and data.reference_energies, or leave both out",
        )
    return sum(reference[int(z)] for z in structure.numbers)


def energy_scale(structures: Sequence[Structure], reference: dict[int, float]) -> float:
    """The energy that one dimensionless unit of an atomic energy stands for.

    The root mean square force is the field's choice. It says nothing when the training split holds stationary points
    only: then the spread of the energies per atom about the reference energies is taken.

    Parameters
    ----------
    structures
        The training split.
    reference
        Reference energies, eV.

    Returns
    -------
    float
        eV, positive.
    """
    squares = [np.square(s.forces).ravel() for s in structures if s.forces is not None]
    rms_force = float(np.sqrt(np.concatenate(squares).mean())) if squares else 0.0
    if rms_force > STATIONARY:
        return rms_force
    residuals = [
        (s.energy - composition_energy(s, reference)) / len(s.numbers) for s in structures if s.energy is not None
    ]
    spread = float(np.std(residuals)) if residuals else 0.0
    return spread if spread > STATIONARY else 1.0
