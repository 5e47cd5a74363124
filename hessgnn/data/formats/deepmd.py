"""DeePMD-kit's folders of ``.npy`` files; eV and Å, float64.

A system is a folder with ``type.raw`` and frames of the same atoms in ``set.*/{coord, box, energy, force,
hessian}.npy``; ``nopbc`` marks molecules. DeePMD passes over ``frames.json``, which keeps names and splits, and
``direction_{vectors, products, weights, errors}.npy``: the M directions of each frame, stored consecutively.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from tokenize import TokenError

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from hessgnn.data.directions import FIELDS, Directions
from hessgnn.data.formats.common import composition, hessian_matrix, known, numbers_of, scalar
from hessgnn.data.formats.registry import Entry, Record, reader, writer
from hessgnn.data.structure import STRINGS, Structure
from hessgnn.errors import DataError
from hessgnn.runtime.files import atomic_folder

_FILES = {"coord": "positions", "energy": "energy", "force": "forces", "hessian": "hessian"}
_KINDS = FIELDS["kinds"]  # in frames.json
_DIRECTIONS = tuple(name for name in FIELDS.values() if name != _KINDS)
_BUFFERED = 2**25  # numbers kept before a set is written


@reader("deepmd")
def read(source: Path) -> Iterator[Entry]:
    """List the frames of a system, or of all systems below a folder."""
    systems = sorted(path.parent for path in source.rglob("type.raw"))
    if not systems:
        raise DataError("holds no type.raw", where=source, hint="give a system's folder, or one above it")
    for system in systems:
        numbers = _numbers(system)
        label = system.relative_to(source).as_posix() if system != source else system.name
        for folder in sorted(system.glob("set.*")):
            yield from _of_set(folder, numbers, f"{label}/{folder.name}", periodic=not (system / "nopbc").exists())


def _numbers(system: Path) -> NDArray[np.int64]:
    names = system / "type_map.raw"
    if not names.is_file():
        raise DataError(
            "has no type_map.raw, so its elements are unknown", where=system, hint="write their symbols there"
        )
    symbols = names.read_text().split()
    unknown = [symbol for symbol in symbols if symbol not in atomic_numbers]
    types = [int(word) for word in (system / "type.raw").read_text().split()]
    if unknown or not types or not 0 <= min(types) <= max(types) < len(symbols):
        what = (
            f"names {', '.join(unknown)}, no elements"
            if unknown
            else f"has {len(symbols)} names for types {min(types, default=0)} to {max(types, default=0)}"
        )
        raise DataError(what, where=names, hint="write a chemical symbol for each type")
    return np.array([atomic_numbers[symbols[index]] for index in types])


def _of_set(folder: Path, numbers: NDArray[np.int64], label: str, *, periodic: bool) -> Iterator[Entry]:
    if (folder / "real_atom_types.npy").exists():
        raise DataError("is of the mixed type, which is not read", where=folder, hint="convert it with dpdata")
    keys = (*_FILES, *_DIRECTIONS, "box")
    arrays = {key: _open(folder / f"{key}.npy") for key in keys if (folder / f"{key}.npy").is_file()}
    if "coord" not in arrays:
        raise DataError("has no coord.npy", where=folder, hint="check the format")
    counts = {key: len(array) for key, array in arrays.items()}
    frames = folder / "frames.json"
    kept = json.loads(frames.read_text()) if frames.is_file() else {}
    counts |= {frames.name: len(kept["name"])} if kept else {}
    if len(set(counts.values())) > 1:
        raise DataError(f"has different numbers of frames: {counts}", where=folder, hint="write the set again")
    for i in range(counts["coord"]):

        def load(i: int = i) -> Record:
            row = {key: array[i] for key, array in arrays.items()}
            force = known(row.get("force"))
            kinds = {_KINDS: kept[_KINDS][i]} if _KINDS in kept else {}
            fields = {"name": f"{label}/{i}", "group": composition(numbers)}
            structure = Structure(
                numbers=numbers,
                positions=row["coord"].reshape(-1, 3),
                cell=row["box"].reshape(3, 3) if "box" in row and row["box"].any() else None,
                pbc=np.full(3, periodic),
                energy=scalar(row.get("energy")),
                forces=None if force is None else force.reshape(-1, 3),
                hessian=hessian_matrix(row.get("hessian"), len(numbers)),
                directions=Directions.from_fields(row | kinds, len(numbers)),
                **fields | {key: kept[key][i] for key in STRINGS if key in kept},
            )
            return Record(structure, kept.get("level_of_theory", ""))

        yield Entry(f"{folder}[{i}]", load)


def _open(path: Path) -> NDArray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:
        raise DataError("is not a .npy file of numbers, or is damaged", where=path, hint="write it again") from error


@writer("deepmd")
def write(structures: Iterable[Structure], target: Path, level: str) -> None:
    """Write one system for each list of elements, set of labels, number of directions and kind of boundary."""
    waiting: defaultdict[str, list[Structure]] = defaultdict(list)
    folders: dict[tuple, str] = {}
    with atomic_folder(target) as folder:
        buffered = 0
        for structure in structures:
            system = _system(structure, folders)
            waiting[system].append(structure)
            buffered += numbers_of(structure)
            if buffered > _BUFFERED:
                _flush(waiting, folder, level)
                buffered = 0
        _flush(waiting, folder, level)


def _system(structure: Structure, folders: dict[tuple, str]) -> str:
    if structure.pbc.any() != structure.pbc.all():
        raise DataError("is periodic in some directions only, which DeePMD cannot hold", where=structure.name)
    labels = tuple(getattr(structure, name) is not None for name in _FILES.values())
    number = 0 if structure.directions is None else len(structure.directions)
    key = (tuple(structure.numbers.tolist()), labels, number, structure.cell is not None, bool(structure.pbc.all()))
    formula = composition(structure.numbers)
    return folders.setdefault(key, f"{formula}-{sum(name.split('-')[0] == formula for name in folders.values()) + 1}")


def _flush(waiting: defaultdict[str, list[Structure]], folder: Path, level: str) -> None:
    for name, frames in waiting.items():
        system = folder / name
        if not system.exists():
            system.mkdir()
            elements = sorted({int(number) for number in frames[0].numbers})
            (system / "type_map.raw").write_text("\n".join(chemical_symbols[number] for number in elements) + "\n")
            (system / "type.raw").write_text(
                "\n".join(str(elements.index(number)) for number in frames[0].numbers) + "\n"
            )
            if not frames[0].pbc.any():
                (system / "nopbc").touch()
        into = system / f"set.{len(list(system.glob('set.*'))):03d}"
        into.mkdir()
        cells = [np.zeros((3, 3)) if frame.cell is None else frame.cell for frame in frames]
        _save(into / "box.npy", np.stack(cells).reshape(len(frames), 9))
        for file, key in _FILES.items():
            if getattr(frames[0], key) is not None:
                values = np.array([getattr(frame, key) for frame in frames])
                _save(into / f"{file}.npy", values.reshape(len(frames), -1))
        kept = {key: [getattr(frame, key) for frame in frames] for key in STRINGS}
        if frames[0].directions is not None:
            fields = [frame.directions.to_fields() for frame in frames if frame.directions is not None]
            kept[_KINDS] = [each[_KINDS] for each in fields]
            for name in _DIRECTIONS:
                _save(into / f"{name}.npy", np.array([each[name].ravel() for each in fields]))
        (into / "frames.json").write_text(json.dumps(kept | {"level_of_theory": level}))
    waiting.clear()


def _save(path: Path, values: NDArray) -> None:
    """Write one ``.npy``; :func:`numpy.save` itself does not say why a write failed."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    path.write_bytes(buffer.getbuffer())
