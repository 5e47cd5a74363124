"""Gaussian's formatted checkpoint files: Hartree and Bohr.

cclib reads them too, but not the total energy (of MP2 or a double hybrid), and with its own value of the Hartree.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hessgnn.data.formats.common import composition, from_triangle, state
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError
from hessgnn.units import BOHR, HARTREE, HARTREE_PER_BOHR, HARTREE_PER_BOHR2

_HEAD = re.compile(r"^(?P<key>[^\s].{39})   (?P<type>[IR])(?P<count>   N= *\d+)? *(?P<value>\S+)?$")
_KEYS = {
    "Atomic numbers": "numbers",
    "Current cartesian coordinates": "positions",
    "Total Energy": "energy",
    "Cartesian Gradient": "gradient",
    "Charge": "charge",
    "Multiplicity": "multiplicity",
    "Cartesian Force Constants": "hessian",
}


def read_fchk(path: Path, name: str) -> tuple[Structure, str]:
    """Read a formatted checkpoint file.

    Parameters
    ----------
    path
        The file, as ``formchk`` writes it.
    name
        Of the structure.

    Returns
    -------
    structure : Structure
        In eV and Å.
    state : str
        Charge and multiplicity where they are not the usual ones.

    Raises
    ------
    DataError
        When coordinates or force constants are missing or incomplete.
    """
    found = _fields(path.read_text(encoding="utf-8").splitlines())
    missing = [
        key for key, short in _KEYS.items() if short in ("numbers", "positions", "hessian") and short not in found
    ]
    if missing:
        raise DataError(f"has no {', '.join(missing)}", hint="run formchk on the checkpoint of a frequency job")
    numbers = found["numbers"].astype(np.int64)
    gradient, energy = found.get("gradient"), found.get("energy")
    structure = Structure(
        numbers=numbers,
        positions=found["positions"].reshape(-1, 3) * BOHR,
        energy=None if energy is None else float(energy[0]) * HARTREE,
        forces=None if gradient is None else -gradient.reshape(-1, 3) * HARTREE_PER_BOHR,
        hessian=from_triangle(found["hessian"], len(numbers), HARTREE_PER_BOHR2),
        name=name,
        group=composition(numbers),
    )
    charge, multiplicity = (int(found[key][0]) if key in found else None for key in ("charge", "multiplicity"))
    return structure, state(numbers, charge, multiplicity)


def level_words(path: Path) -> tuple[str, str]:
    """Method and basis, from the second line: ten characters for the job, thirty for the method, then the basis."""
    with path.open(encoding="utf-8") as file:
        file.readline()
        line = file.readline()
    return line[10:40].strip(), line[40:].strip()


def _fields(lines: list[str]) -> dict[str, NDArray]:
    found: dict[str, NDArray] = {}
    heads = {i: match for i, line in enumerate(lines) if (match := _HEAD.match(line.rstrip()))}
    for i, match in heads.items():
        short = _KEYS.get(match["key"].strip())
        if short is None:
            continue
        if match["count"] is None:
            found[short] = np.array([float(match["value"])])
            continue
        count = int(match["value"] or match["count"].split("=")[1])
        words: list[str] = []
        for line in lines[i + 1 :]:
            if len(words) >= count:
                break
            words += line.split()
        if len(words) < count:
            raise DataError(f"ends within {match['key'].strip()}", hint="copy it again")
        found[short] = np.array([float(word) for word in words[:count]])
    return found
