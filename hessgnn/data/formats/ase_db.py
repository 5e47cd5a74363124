"""ASE's database, SQLite ``.db`` or ``.json``; eV and Å, exact. The Hessian stands in a row's data as ``hessian``."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from ase.db import connect
from ase.io.formats import UnknownFileTypeError

from hessgnn.data.formats.atoms import atoms_of, structure_of
from hessgnn.data.formats.common import files_of, prefix_of
from hessgnn.data.formats.registry import Entry, Record, reader, writer
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError
from hessgnn.runtime.files import atomic_path


@reader("ase-db")
def read(source: Path) -> Iterator[Entry]:
    """List the rows of a database, or of all of a folder."""
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
def write(structures: Iterable[Structure], target: Path, level: str) -> None:
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
