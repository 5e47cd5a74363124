"""ORCA's ``.hess`` files: Hartree and Bohr. No library reads the matrix, hence the parser.

Sections begin with ``$name``; the matrix is printed five columns at a time under a line of column indices. The energy
has six decimals, and 0.0 where ORCA did not know it. The level of theory is not in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from hessgnn.data.formats.common import composition, files_of, hessian_matrix, prefix_of
from hessgnn.data.formats.registry import Entry, Record, reader
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import DataError
from hessgnn.units import BOHR, HARTREE, HARTREE_PER_BOHR2


@reader("orca")
def read(source: Path) -> Iterator[Entry]:
    """List a file, or all ``*.hess`` of a folder."""
    for path in files_of(source, ".hess"):

        def load(path: Path = path, name: str = prefix_of(source, path).rstrip("/") or path.stem) -> Record:
            return Record(_structure(_sections(path), name), "")

        yield Entry(str(path), load)


def _sections(path: Path) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("$"):
            lines = sections.setdefault(line[1:].strip(), [])
        elif line.strip() and not line.startswith("#"):
            lines.append(line)
    missing = [key for key in ("atoms", "hessian") if not sections.get(key)]
    if missing:
        raise DataError(f"has no section ${', $'.join(missing)}", hint="check the format; did the job finish?")
    return sections


def _structure(sections: dict[str, list[str]], name: str) -> Structure:
    count, *lines = sections["atoms"]
    rows = [line.split() for line in lines[: int(count)]]
    if len(rows) != int(count):
        raise DataError(f"section $atoms has {len(rows)} lines, expected {count.strip()}")
    numbers = np.array([atomic_numbers[row[0]] for row in rows])
    energy = float(sections["act_energy"][0]) if sections.get("act_energy") else 0.0
    return Structure(
        numbers=numbers,
        positions=np.array([[float(value) for value in row[2:5]] for row in rows]) * BOHR,
        energy=energy * HARTREE if energy else None,
        hessian=hessian_matrix(_matrix(sections["hessian"]), len(numbers), HARTREE_PER_BOHR2),
        name=name,
        group=composition(numbers),
    )


def _matrix(lines: list[str]) -> Array:
    size = int(lines[0].split()[0])
    matrix = np.full((size, size), np.nan)
    columns: list[int] = []
    for words in (line.split() for line in lines[1:]):
        if all(word.isdecimal() for word in words):
            columns = [int(word) for word in words]
        else:
            matrix[int(words[0]), columns] = [float(word) for word in words[1:]]
    if np.isnan(matrix).any():
        raise DataError("section $hessian is not complete", hint="did the job finish?")
    return matrix
