"""Formats that ASE reads and writes: extended XYZ, its database and the JSON of its ``VibrationsData``; eV and Å."""

from __future__ import annotations

import errno
import io
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.db import connect
from ase.io import write as ase_write
from ase.io.extxyz import XYZError, key_val_dict_to_str, key_val_str_to_dict, read_xyz
from ase.io.formats import UnknownFileTypeError
from ase.vibrations import VibrationsData

from hessgnn.data.directions import FIELDS
from hessgnn.data.formats.common import composition, files_of, hessian_matrix, prefix_of, state
from hessgnn.data.formats.registry import Entry, Record, reader, writer
from hessgnn.data.structure import STRINGS, Structure
from hessgnn.errors import DataError
from hessgnn.runtime.files import atomic_path


@reader("extxyz")
def read_extxyz(source: Path) -> Iterator[Entry]:
    """List the frames of a file, or of all files of a folder.

    The Hessian is ``info["hessian"]``, ``(3N, 3N)``. Directions are ``info["direction_vectors"]`` and
    ``info["direction_products"]``, ``(M, N, 3)``; their kinds, weights and errors may be missing
    (:meth:`~hessgnn.data.directions.Directions.from_fields`).
    """
    for path in files_of(source, ".xyz", ".extxyz"):
        for i, text in enumerate(_frames(path)):
            name = f"{prefix_of(source, path) or f'{path.stem}/'}{i}"

            def load(text: str = text, name: str = name) -> Record:
                try:
                    atoms = next(read_xyz(io.StringIO(text), 0))
                except XYZError as error:
                    raise DataError(f"cannot be read ({error})") from error
                return structure_of(atoms, name)

            yield Entry(f"{path}, frame {i}", load)


def _frames(path: Path) -> Iterator[str]:
    """Text of each frame; the scan of ASE 3.29 takes the first digit of the number of atoms for the whole."""
    with path.open(encoding="utf-8") as file:
        number = 0
        try:
            while head := file.readline():
                number += 1
                if not head.strip():
                    continue
                if not head.strip().isdecimal():
                    raise DataError(f"line {number} is not a number of atoms: {head.strip()[:40]!r}", where=path)
                count = int(head)
                lines = [line for _, line in zip(range(count + 1), file, strict=False)]
                if len(lines) < count + 1:
                    raise DataError(f"ends within the frame that begins at line {number}", where=path)
                number += count + 1
                yield head + "".join(lines)
        except UnicodeDecodeError as error:
            raise DataError("is not a text file", where=path, hint="check the format") from error


@writer("extxyz")
def write_extxyz(structures: Iterable[Structure], target: Path, level: str) -> None:
    """Write one file: positions and forces with eight decimals, Hessians and directions with all of theirs."""
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8") as file:
        for structure in structures:
            atoms = atoms_of(structure, level)
            for key, value in atoms.info.items():
                if isinstance(value, str):
                    atoms.info[key] = _quoted(key, value)
            ase_write(file, atoms, format="extxyz")


def _quoted(key: str, text: str) -> str:
    """Write a text so that ASE reads it back: ``7`` would become a number, an empty one eats what follows.

    JSON needs two backslashes for each, because ASE takes one away.
    """
    try:
        back = key_val_str_to_dict(key_val_dict_to_str({key: text}))
    except ValueError:
        back = {}
    if isinstance(back.get(key), str) and back == {key: text}:
        return text
    return "_JSON " + json.dumps(text, ensure_ascii=False).replace("\\", "\\\\")


@reader("ase-db")
def read_ase_db(source: Path) -> Iterator[Entry]:
    """List the rows of a database (SQLite ``.db`` or ``.json``), or of all of a folder.

    The Hessian and the directions stand in a row's data under the names that :func:`read_extxyz` reads.
    """
    for path in files_of(source, ".db", ".json"):
        prefix = prefix_of(source, path) or f"{path.stem}/"
        try:
            database = connect(path, type="json" if path.suffix == ".json" else "db", use_lock_file=False)
            rows = [row.id for row in database.select(columns=["id"], include_data=False)]
        except (sqlite3.Error, ValueError, KeyError, UnknownFileTypeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"is not a database of ASE, or is damaged ({reason})", where=path) from error
        for number in rows:

            def load(number: int = number, database: object = database, prefix: str = prefix) -> Record:
                row = database.get(number)  # type: ignore[attr-defined]
                atoms = row.toatoms()
                atoms.info.update(row.key_value_pairs | row.data)
                return structure_of(atoms, f"{prefix}{number}")

            yield Entry(f"{path}, row {number}", load)


@writer("ase-db")
def write_ase_db(structures: Iterable[Structure], target: Path, level: str) -> None:
    """Write one database. Names go into the data of a row too: ASE refuses key-value texts that look like numbers."""
    with atomic_path(target) as temporary:
        kind = "json" if target.suffix == ".json" else "db"
        try:
            with connect(temporary, type=kind, append=False, use_lock_file=False) as database:
                for structure in structures:
                    atoms = atoms_of(structure, level)
                    database.write(atoms, data=atoms.info)
        except sqlite3.Error as error:  # it does not tell a full disk from other failures to write
            raise OSError(errno.EIO, str(error)) from error
        finally:
            temporary.with_name(f"{temporary.name}-journal").unlink(missing_ok=True)


@reader("vibrations")
def read_vibrations(source: Path) -> Iterator[Entry]:
    """List a file, or all files of a folder; each holds one structure and its Hessian."""
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


_LEVEL = "level_of_theory"


def structure_of(atoms: Atoms, name: str) -> Record:
    """Take the labels from a calculator's results (where ASE from 3.23 on puts them) and the rest from ``info``.

    ``name`` is used unless ``info`` has one. Raises :class:`DataError` when there is no label: others call them
    ``REF_energy`` and the like, and training on none goes unnoticed.
    """
    results = {} if atoms.calc is None else atoms.calc.results
    hessian = atoms.info.get("hessian", results.get("hessian"))
    known = (hessian, results.get("energy"), results.get("forces"), atoms.info.get(FIELDS["vectors"]))
    if all(label is None for label in known):
        others = sorted({*atoms.info, *atoms.arrays} - {"numbers", "positions"})
        raise DataError(
            f"has no energy, forces, hessian or directions, only {', '.join(others) or 'positions'}",
            hint="rename the labels to energy, forces, hessian, direction_vectors and direction_products",
        )
    strings = {key: str(atoms.info[key]) for key in STRINGS if key in atoms.info}
    fields: dict = {"name": name, "group": composition(atoms.numbers)} | strings
    structure = Structure.from_atoms(atoms, hessian=hessian_matrix(hessian, len(atoms)), **fields)
    charge, multiplicity = (_whole_number(atoms.info.get(key)) for key in ("charge", "multiplicity"))
    return Record(structure, str(atoms.info.get(_LEVEL, "")), state(atoms.numbers, charge, multiplicity))


def atoms_of(structure: Structure, level: str) -> Atoms:
    """Inverse of :func:`structure_of`; an empty level of theory is left out."""
    atoms = structure.to_atoms()
    if level:
        atoms.info[_LEVEL] = level
    return atoms


def _whole_number(value: object) -> int | None:
    return None if not isinstance(value, int | float | np.number) else round(float(value))
