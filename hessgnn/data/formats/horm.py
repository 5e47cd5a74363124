"""HORM (and other LMDB of pickled torch-geometric records): eV and Å.

Keys ``0``, ``1``, … and ``length``. Fields: ``pos``, ``charges`` (atomic numbers), ``energy``, ``ae``, ``forces``,
``hessian`` (flat), ``rxn``. ``energy`` is a float32 of some 10⁴ eV, good to 1 meV only; ``ae`` is the same less a
constant for each atom and keeps its digits, so the energy is put together again from ``ae`` in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessgnn.data.formats.common import composition, files_of, hessian_matrix, known, optional, prefix_of, scalar
from hessgnn.data.formats.registry import Entry, Record, reader
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError

LEVEL = "wB97X/6-31G(d)"
ATOMIC_ENERGIES = {1: -16.7132, 6: -1035.5210, 7: -1489.1406, 8: -2046.2425}
"""What ``ae`` leaves out, eV."""
_AGREEMENT = 0.02  # eV: the float32 of `energy` and the four digits of the constants, for some 30 atoms


@reader("horm")
def read(source: Path) -> Iterator[Entry]:
    """List the records of a file, or of all ``*.lmdb`` of a folder. Pickles are read, never run."""
    lmdb = optional("lmdb")
    from hessgnn.data.formats.safe_pickle import loads

    is_database = (source / "data.mdb").is_file()
    for path in [source] if is_database else files_of(source, ".lmdb"):
        try:
            environment = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise DataError(f"is not an LMDB, or is damaged ({error})", where=path, hint="check the format") from error
        with environment, environment.begin() as transaction:
            _require_whole(path, environment)
            length = transaction.get(b"length")
            stored = environment.stat()["entries"]
            count = stored if length is None else loads(length)
            if type(count) is not int or count > stored:
                raise DataError(f"says that it holds {str(count)[:40]} records, but has {stored} keys", where=path)
            prefix = f"{path.stem}/" if path == source else prefix_of(source, path)
            for i in range(count):

                def load(key: str = str(i), prefix: str = prefix, transaction: Any = transaction) -> Record:
                    try:
                        content = transaction.get(key.encode())
                    except lmdb.Error as error:
                        raise DataError(f"the file is damaged ({error})") from error
                    if content is None:
                        raise DataError("there is no such key")
                    return Record(_structure(loads(content), prefix + key), LEVEL)

                yield Entry(f"{path}, {i}", load)


def _require_whole(path: Path, environment: Any) -> None:
    """Refuse a truncated file: it is mapped into memory, and to touch what is missing kills the process."""
    pages = environment.info()["last_pgno"] + 1
    size = (path / "data.mdb" if path.is_dir() else path).stat().st_size
    if size < pages * environment.stat()["psize"]:
        raise DataError("is truncated", where=path, hint="fetch it again")


def _structure(fields: Mapping[str, Any], name: str) -> Structure:
    if not isinstance(fields, dict):
        raise DataError("is not a record")
    number_key = next((key for key in ("charges", "z", "atomic_numbers") if key in fields), None)
    if number_key is None or "pos" not in fields:
        raise DataError(f"has no pos or no charges, only {', '.join(str(key) for key in list(fields)[:20])}")
    numbers = np.ravel(_array(fields[number_key])).astype(np.int64)
    reaction = fields.get("rxn")
    return Structure(
        numbers=numbers,
        positions=_array(fields["pos"]),
        energy=_energy(fields, numbers),
        forces=known(_array(fields.get("forces"))),
        hessian=hessian_matrix(_array(fields.get("hessian")), len(numbers)),
        name=name,
        group=composition(numbers) if reaction is None else f"rxn-{_text(reaction)}",
    )


def _energy(fields: Mapping[str, Any], numbers: NDArray[np.int64]) -> float | None:
    total, remainder = (scalar(_array(fields.get(key))) for key in ("energy", "ae"))
    if remainder is None or not set(numbers.tolist()) <= set(ATOMIC_ENERGIES):
        return total
    energy = remainder + sum(ATOMIC_ENERGIES[number] for number in numbers.tolist())
    if total is not None and abs(total - energy) > _AGREEMENT:
        raise DataError(f"energy = {total:.3f} eV and ae = {remainder:.3f} eV contradict each other")
    return energy


def _array(value: Any) -> Any:
    """A tensor's or a plain number; a list may hold itself many times over and fill the memory as an array."""
    if value is not None and not isinstance(value, np.ndarray | int | float):
        raise DataError(f"holds a {type(value).__name__} where a tensor belongs")
    return value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    array = _array(value)
    return str(array.item() if isinstance(array, np.ndarray) and array.size == 1 else array)
