"""The HDF5 layout of a store (``docs/data-format.md``): names, shapes, packing, and the checks on opening a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from hessgnn.data.structure import STRINGS, Array
from hessgnn.errors import DataError

FORMAT = "hessgnn-store"
FORMAT_VERSION = 2
WITH_DIRECTIONS = 3
"""Version of files that hold directions; others stay readable for releases that do not know them."""
_READABLE = (1, FORMAT_VERSION, WITH_DIRECTIONS)  # version 1 has no "parent"
SIGN_CONVENTION = "forces = -dE/dR; hessian = +d2E/dR2, row index 3*atom + xyz, lower triangle packed by rows"
UNITS = {"energy": "eV", "length": "Angstrom", "forces": "eV/Angstrom", "hessian": "eV/Angstrom^2"}

HessianDtype = Literal["float32", "float64"]
LABELS = ("energy", "forces", "hessian")
DTYPES: dict[str, str] = {
    "n_atoms": "<i4",
    "numbers": "<u1",
    "positions": "<f8",
    "cell": "<f8",
    "pbc": "|b1",
    "energy": "<f8",
    "forces": "<f8",
    "hessian_asymmetry": "<f8",
    "has_energy": "|b1",
    "has_forces": "|b1",
    "has_hessian": "|b1",
}
"""Every numeric dataset but ``hessian``, whose precision is the writer's choice, and those of directions."""
DIRECTIONS: dict[str, str] = {
    "n_directions": "<i4",
    "direction_vectors": "<f8",
    "direction_products": "<f8",
    "direction_weight": "<f8",
    "direction_error": "<f8",
}
"""Datasets of files that hold directions, beside ``direction_kind``: of each structure, atom of a direction, direction.
Those of one structure are stored consecutively, each with all atoms."""
DIRECTION_KIND = "direction_kind"

_REQUIRED = (*DTYPES, *STRINGS, "hessian")
_ATTRIBUTES = ("level_of_theory", "provenance", "versions", "content_hash", "split_hash")


def packed_size(n_atoms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers in the packed lower triangle of a ``(3N, 3N)`` matrix: ``3N (3N + 1) / 2``, of each structure."""
    return 3 * n_atoms * (3 * n_atoms + 1) // 2


def pack(hessian: Array) -> Array:
    """Lower triangle of a symmetric matrix ``(3N, 3N)``, by rows: ``(3N (3N + 1) / 2,)``."""
    return hessian[_triangle(len(hessian))]


def unpack(packed: NDArray[np.floating], n_atoms: int) -> Array:
    """Inverse of :func:`pack`: the symmetric matrix ``(3N, 3N)``."""
    hessian = np.zeros((3 * n_atoms, 3 * n_atoms))
    rows, columns = _triangle(3 * n_atoms)
    hessian[rows, columns] = packed
    hessian[columns, rows] = packed
    return hessian


def _triangle(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the lower triangle; finding them takes longer than packing does, so small ones are kept."""
    return _small_triangle(size) if size <= 192 else np.tril_indices(size)


_small_triangle = lru_cache(maxsize=64)(np.tril_indices)


@contextmanager
def open_checked(path: Path) -> Iterator[h5py.File]:
    """Open a store's file for reading, after checking that it is one.

    Raises :class:`DataError` when it is not HDF5, is truncated, is another program's, lacks a dataset, or has another
    format version.
    """
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise DataError("no such file", where=path, hint="check the path") from None
    except OSError as error:
        truncated = "truncated" in str(error)
        what = "is truncated" if truncated else "is not an HDF5 file, or is damaged"
        hint = "fetch or build it again" if truncated else "give a file written by hessgnn.data.store.write_store"
        raise DataError(what, where=path, hint=hint) from error
    with file:
        if file.attrs.get("format") != FORMAT:
            raise DataError(
                "is HDF5, but not a store of hessgnn",
                where=path,
                hint="read it with h5py and write it with hessgnn.data.store.write_store",
            )
        version = file.attrs.get("format_version")
        if version not in _READABLE:
            raise DataError(
                f"has format version {version}, this release reads {', '.join(map(str, _READABLE))}",
                where=path,
                hint="build the file again, or install the release of hessgnn that wrote it",
            )
        require_own_data(file, path)
        required = [key for key in _REQUIRED if version > 1 or key != "parent"]
        if version >= WITH_DIRECTIONS or "n_directions" in file:
            required += [*DIRECTIONS, DIRECTION_KIND]
        missing = [key for key in required if key not in file] + [key for key in _ATTRIBUTES if key not in file.attrs]
        if missing:
            raise DataError(f"lacks {', '.join(missing)}", where=path, hint="build the file again")
        _require_types(file, path)
        yield file


def _require_types(file: h5py.File, path: Path) -> None:
    """Raise :class:`DataError` when a dataset holds something else than its numbers or text."""
    kinds = {key: np.dtype(dtype).kind for key, dtype in {**DTYPES, **DIRECTIONS, "hessian": "<f8"}.items()}
    kinds |= dict.fromkeys((*STRINGS, DIRECTION_KIND), "S")
    for key, kind in kinds.items():
        if key not in file:
            continue
        found = file[key].dtype.kind if isinstance(file[key], h5py.Dataset) else "group"
        if found != kind and {found, kind} != {"i", "u"}:
            words = {"S": "text", "f": "floating-point numbers", "b": "truth values"}
            raise DataError(f"holds no {words.get(kind, 'integers')} under {key}", where=path, hint="build it again")


def decoded(text: bytes, key: str, path: Path) -> str:
    """Decode a text of a dataset; :class:`DataError` when it is not UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"is damaged: {key} is not UTF-8", where=path, hint="fetch or build it again") from error


def require_own_data(file: h5py.File, path: Path) -> None:
    """Raise :class:`DataError` when a dataset lies in another file: reading it would read whatever that is.

    HDF5 follows links, virtual datasets and external storage to any path; what opens a store shall read the store.
    """
    for key in file:
        if isinstance(file.get(key, getlink=True), h5py.HardLink):
            item = file[key]
            if not isinstance(item, h5py.Dataset) or not (item.external or item.is_virtual):
                continue
        raise DataError(
            f"keeps {key} outside of itself, by a link, external storage or a virtual dataset",
            where=path,
            hint="read it with h5py and write it with hessgnn.data.store.write_store",
        )


def read_per_structure(file: h5py.File, path: Path) -> dict[str, NDArray]:
    """Read the numbers that every structure has one of, ``(n,)``, and check the shapes of all datasets.

    Raises :class:`DataError` when a dataset cannot be read, or the lengths contradict each other.
    """
    keys = ("n_atoms", "energy", "hessian_asymmetry", *(f"has_{label}" for label in LABELS))
    try:
        arrays = {key: file[key][()] for key in keys}
        n_directions = file["n_directions"][()] if "n_directions" in file else np.zeros(len(arrays["n_atoms"]), int)
    except OSError as error:
        raise DataError("is damaged: a dataset cannot be read", where=path, hint="fetch or build it again") from error
    n = len(arrays["n_atoms"])
    n_atoms = arrays["n_atoms"].astype(np.int64)
    total = int(n_atoms.sum())
    arrays["n_directions"] = n_directions.astype(np.int64)
    if n_directions.shape != (n,) or (n_directions < 0).any():
        raise DataError("has datasets of contradicting length: n_directions", where=path, hint="build it again")
    number, rows = int(n_directions.sum()), int((n_atoms * n_directions).sum())
    present = [key for key in (*DTYPES, *STRINGS, *DIRECTIONS, DIRECTION_KIND) if key in file]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(present, (n,)) | {
        "numbers": (total,),
        "positions": (total, 3),
        "forces": (total, 3),
        "cell": (n, 3, 3),
        "pbc": (n, 3),
        "direction_vectors": (rows, 3),
        "direction_products": (rows, 3),
        **dict.fromkeys(("direction_weight", "direction_error", DIRECTION_KIND), (number,)),
    }
    wrong = [key for key in present if file[key].shape != shapes[key]]
    if not wrong and file["hessian"].shape != (int((packed_size(n_atoms) * arrays["has_hessian"]).sum()),):
        wrong = ["hessian"]
    if wrong:
        raise DataError(f"has datasets of contradicting length: {', '.join(wrong)}", where=path, hint="build it again")
    return arrays


def content_hash(file: h5py.File) -> str:
    """Fingerprint of the names and every number in a store: SHA-256 over the exact bytes, as hexadecimal digits.

    Splits have a fingerprint of their own.
    """
    digest = hashlib.sha256()
    of_directions = (*DIRECTIONS, DIRECTION_KIND) if "n_directions" in file else ()
    for key in sorted((*DTYPES, *of_directions, "hessian", "name")):
        dataset = file[key]
        digest.update(f"{key} {dataset.dtype.str} {dataset.shape}\n".encode())
        for start in range(0, len(dataset), 1 << 20):
            digest.update(np.ascontiguousarray(dataset[start : start + (1 << 20)]).tobytes())
    return digest.hexdigest()
