"""Structures from and to ASE's ``Atoms``, for the formats that ASE reads and writes."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from hessgnn.data.formats.common import composition, hessian_matrix, state
from hessgnn.data.formats.registry import Record
from hessgnn.data.structure import STRINGS, Structure
from hessgnn.errors import DataError

_LEVEL = "level_of_theory"


def structure_of(atoms: Atoms, name: str) -> Record:
    """Take the labels from a calculator's results (where ASE from 3.23 on puts them) and the rest from ``info``.

    Parameters
    ----------
    atoms
        As ASE read it.
    name
        Used unless ``info`` has one.

    Returns
    -------
    Record
        The structure; ``info["level_of_theory"]``, if there.

    Raises
    ------
    DataError
        When there is no label: others call them ``REF_energy`` and the like, and training on none goes unnoticed.
    """
    results = {} if atoms.calc is None else atoms.calc.results
    hessian = atoms.info.get("hessian", results.get("hessian"))
    if hessian is None and results.get("energy") is None and results.get("forces") is None:
        others = sorted({*atoms.info, *atoms.arrays} - {"numbers", "positions"})
        raise DataError(
            f"has no energy, forces or hessian, only {', '.join(others) or 'positions'}",
            hint="rename the labels to energy, forces and hessian",
        )
    strings = {key: str(atoms.info[key]) for key in STRINGS if key in atoms.info}
    fields: dict = {"name": name, "group": composition(atoms.numbers)} | strings
    structure = Structure.from_atoms(atoms, hessian=hessian_matrix(hessian, len(atoms)), **fields)
    charge, multiplicity = (_whole_number(atoms.info.get(key)) for key in ("charge", "multiplicity"))
    return Record(structure, str(atoms.info.get(_LEVEL, "")), state(atoms.numbers, charge, multiplicity))


def atoms_of(structure: Structure, level: str) -> Atoms:
    """Inverse of :func:`structure_of`.

    Parameters
    ----------
    structure
        The structure.
    level
        Level of theory; left out where empty.

    Returns
    -------
    ase.Atoms
        With its labels.
    """
    atoms = structure.to_atoms()
    if level:
        atoms.info[_LEVEL] = level
    return atoms


def _whole_number(value: object) -> int | None:
    return None if not isinstance(value, int | float | np.number) else round(float(value))
