"""What several formats need: files of a folder, HDF5 files, the shape of a Hessian, optional packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.symbols import Symbols
from numpy.typing import ArrayLike, NDArray

from hessgnn.data.store.layout import unpack
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import DataError
from hessgnn.runtime.imports import require

_BLOCK = 256  # structures read from HDF5 at once,
_BLOCK_NUMBERS = 2**24  # and numbers; one structure may be larger
MAX_NUMBERS = 2**28
"""No dataset of one structure is larger, the Hessian of 5000 atoms: a file may claim any size and hold nothing."""


def optional(package: str) -> Any:
    """Import a package that only some formats need.

    Raises :class:`~hessgnn.errors.ConfigError` with the pip line when it is not installed.
    """
    return require(package, package=package, extra="formats", purpose="this format")


def files_of(source: Path, *suffixes: str) -> list[Path]:
    """List the files of a source.

    Parameters
    ----------
    source
        A file, or a folder that is searched with its subfolders.
    *suffixes
        Which files of a folder count, e.g. ``.h5``.

    Returns
    -------
    list of Path
        Sorted; ``source`` itself if it is a file.

    Raises
    ------
    DataError
        When there is none.
    """
    if source.is_file():
        return [source]
    if not source.exists():
        raise DataError("no such file or folder", where=source, hint="check the path")
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not found:
        raise DataError(f"holds no file *{', *'.join(suffixes)}", where=source, hint="check path and format")
    return found


def prefix_of(source: Path, path: Path) -> str:
    """Beginning of the names of a file's structures: empty for a single file, else the file's place in the folder."""
    return "" if path == source else f"{path.relative_to(source).with_suffix('').as_posix()}/"


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; raises :class:`DataError` when it is truncated or not HDF5."""
    try:
        file = h5py.File(path, "r")
    except PermissionError as error:
        raise DataError("may not be read", where=path, hint="ask for the permission to read it") from error
    except OSError as error:
        what = "is truncated" if "truncated" in str(error) else "is not an HDF5 file, or is damaged"
        raise DataError(what, where=path, hint="fetch it again, or check the format") from error
    with file:
        yield file


def groups_with(group: h5py.Group, key: str) -> Iterator[h5py.Group]:
    """Find the groups, at any depth, that hold ``key``; what lies below them is not searched."""
    if key in group:
        yield group
        return
    for child in group.values():
        if isinstance(child, h5py.Group):
            yield from groups_with(child, key)


def rows(group: h5py.Group, key: str, *, batched: bool = True) -> Callable[[int], Any]:
    """Reach the entries of a dataset by index, reading whole blocks: one at a time would be a disk access each.

    Unless ``batched``, the dataset has no axis of structures and stands at every index. Where there is no such dataset,
    every index gives ``None``.
    """
    if key not in group:
        return lambda _: None
    dataset = group[key]
    if not batched:
        return lambda _: whole(dataset)
    size = prod(dataset.shape[1:])
    block = min(_BLOCK, max(1, _BLOCK_NUMBERS // max(size, 1)))
    blocks: dict[int, NDArray] = {}

    def row(index: int) -> Any:
        _require_possible(dataset, size)
        start = index - index % block
        if start not in blocks:
            blocks.clear()
            blocks[start] = dataset[start : start + block]
        return blocks[start][index - start]

    return row


def whole(dataset: h5py.Dataset) -> Any:
    """Read a dataset of one structure; raises :class:`DataError` when it claims more than :data:`MAX_NUMBERS`."""
    _require_possible(dataset, prod(dataset.shape))
    return dataset[()]


def _require_possible(dataset: h5py.Dataset, size: int) -> None:
    if size > MAX_NUMBERS:
        raise DataError(f"{dataset.name} claims {size} numbers for one structure")


def state(numbers: ArrayLike, charge: int | None, multiplicity: int | None) -> str:
    """Charge and multiplicity, unless they are the usual ones: neutral, and as few unpaired electrons as can be.

    A potential of positions and elements alone cannot tell two states of one molecule apart, so they must not be mixed.

    Parameters
    ----------
    numbers
        Atomic numbers.
    charge, multiplicity
        Total charge in e and 2S + 1; ``None`` where the source does not say it.

    Returns
    -------
    str
        E.g. ``charge -1, multiplicity 3``; empty for the usual state.
    """
    total = charge or 0
    lowest = 1 + (int(np.sum(numbers)) - total) % 2
    parts = [f"charge {total:+d}"] if total else []
    if multiplicity not in (None, lowest):
        parts.append(f"multiplicity {multiplicity}")
    return ", ".join(parts)


def numbers_of(structure: Structure) -> int:
    """How many numbers its curvature labels take at most: what bounds the structures that are kept in memory."""
    directions = 0 if structure.directions is None else 2 * structure.directions.vectors.size
    return 9 * len(structure) ** 2 + directions


def known(value: ArrayLike | None, unit: float = 1.0) -> Array | None:
    """Convert a label to eV and Å; ``None`` where it is missing."""
    return None if value is None else np.asarray(value, dtype=np.float64) * unit


def scalar(value: ArrayLike | None, unit: float = 1.0) -> float | None:
    """Convert an energy to eV; see :func:`known`."""
    array = known(value, unit)
    return None if array is None else float(array.reshape(()) if array.ndim == 0 else array.reshape(1)[0])


def hessian_matrix(values: ArrayLike | None, n_atoms: int, unit: float = 1.0) -> Array | None:
    """Bring a Hessian into the shape ``(3N, 3N)`` with row index ``3 * atom + xyz``, eV/Å².

    Parameters
    ----------
    values
        Flat, ``(3N, 3N)``, ``(N, 3, N, 3)`` or ``(3N, N, 3)``, all of which have this order already; ``None`` where the
        label is missing. Other orders, such as ``(N, N, 3, 3)``, are refused rather than guessed.
    unit
        eV/Å² in one unit of the source.

    Raises
    ------
    DataError
        When the shape is another.
    """
    array = known(values, unit)
    if array is None:
        return None
    size = 3 * n_atoms
    shapes = ((size * size,), (size, size), (n_atoms, 3, n_atoms, 3), (size, n_atoms, 3))
    if array.shape not in shapes:
        raise DataError(f"hessian has shape {array.shape}, expected {(size, size)} or flat")
    return array.reshape(size, size)


def from_triangle(packed: ArrayLike, n_atoms: int, unit: float) -> Array:
    """Fill a symmetric matrix ``(3N, 3N)`` from its lower triangle by rows, as Gaussian stores it.

    ``packed`` are ``(3N (3N + 1) / 2,)`` numbers, ``unit`` is eV/Å² in one unit of the source. Raises
    :class:`DataError` when the count is wrong.
    """
    values = np.asarray(packed, dtype=np.float64)
    size = 3 * n_atoms
    if values.shape != (size * (size + 1) // 2,):
        raise DataError(f"the triangle of force constants has {values.size} numbers, expected {size * (size + 1) // 2}")
    return unpack(values, n_atoms) * unit


def composition(numbers: ArrayLike) -> str:
    """Hill formula: the group of a structure whose source names neither molecule nor reaction.

    Isomers share it, so that no reaction and no path is divided between splits.
    """
    return str(Symbols(np.asarray(numbers, dtype=int)).get_chemical_formula())
