"""Extended XYZ, read and written by ASE: ``info["hessian"]`` as ``(3N, 3N)``; eV and Å, eight decimals."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ase.io import write as ase_write
from ase.io.extxyz import XYZError, key_val_dict_to_str, key_val_str_to_dict, read_xyz

from hessgnn.data.formats.atoms import atoms_of, structure_of
from hessgnn.data.formats.common import files_of, prefix_of
from hessgnn.data.formats.registry import Entry, Record, reader, writer
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError
from hessgnn.runtime.files import atomic_path


@reader("extxyz")
def read(source: Path) -> Iterator[Entry]:
    """List the frames of a file, or of all files of a folder."""
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
def write(structures: Iterable[Structure], target: Path, level: str) -> None:
    """Write one file."""
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8") as file:
        for structure in structures:
            atoms = atoms_of(structure, level)
            for key, value in atoms.info.items():
                if isinstance(value, str):
                    atoms.info[key] = _quoted(key, value)
            ase_write(file, atoms, format="extxyz")


def _quoted(key: str, text: str) -> str:
    """Write a text so that ASE reads it back: ``7`` would become a number, an empty one eats what follows."""
    for form in (text, f"_JSON {json.dumps(text, ensure_ascii=False)}"):
        back = key_val_str_to_dict(key_val_dict_to_str({key: form}))
        if isinstance(back.get(key), str) and back == {key: text}:
            return form
    raise DataError(f"{key} {text!r} cannot be written as extended XYZ", hint="choose another format, or rename")
