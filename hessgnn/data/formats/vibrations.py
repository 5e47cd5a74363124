"""JSON of ASE's ``VibrationsData``: a Hessian in eV/Å² and its atoms, one file for each structure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ase.vibrations import VibrationsData

from hessgnn.data.formats.common import composition, files_of, prefix_of
from hessgnn.data.formats.registry import Entry, Record, reader
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError


@reader("vibrations")
def read(source: Path) -> Iterator[Entry]:
    """List a file, or all files of a folder."""
    for path in files_of(source, ".json"):

        def load(path: Path = path, name: str = prefix_of(source, path).rstrip("/") or path.stem) -> Record:
            try:
                data = VibrationsData.read(str(path))
            except AssertionError as error:  # so ASE says that it is something else
                raise DataError("holds JSON, but not VibrationsData", hint="check the format") from error
            atoms = data.get_atoms()
            if len(data.get_indices()) != len(atoms):
                raise DataError("holds the Hessian of some of its atoms only", hint="compute that of all atoms")
            fields = {"name": name, "group": composition(atoms.numbers)}
            return Record(Structure.from_atoms(atoms, hessian=data.get_hessian_2d(), **fields), "")

        yield Entry(str(path), load)
