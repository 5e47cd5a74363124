"""Writing a store: the labels are judged first, so that no file holds a broken one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hessgnn.data import layout
from hessgnn.data.hdf5 import HDF5Output
from hessgnn.data.splits import split_hash
from hessgnn.data.structure import STRINGS, Array, Structure
from hessgnn.errors import DataError
from hessgnn.files import atomic_path

ASYMMETRY_TOLERANCE = 5e-3
"""Largest ``max|H − Hᵀ| / max|H|`` that can be the noise of a label rather than a wrong index order."""

_CHUNK = 16_384  # numbers; one chunk holds the Hessians of a few dozen small molecules


def write_store(
    path: str | Path,
    structures: Iterable[Structure],
    *,
    level_of_theory: str,
    provenance: str = "",
    versions: Mapping[str, str] | None = None,
    hessian_dtype: layout.HessianDtype = "float32",
) -> None:
    """Write labelled structures to a file, atomically.

    Hessians are symmetrised as ``(H + Hᵀ)/2``; what that removed is kept as ``hessian_asymmetry`` (or the
    structure's own value, where that is larger).

    Parameters
    ----------
    path
        The HDF5 file.
    structures
        At least one; names unique.
    level_of_theory
        How the labels were computed, e.g. ``GFN2-xTB``.
    provenance
        Where the data come from: a recipe's YAML, a citation.
    versions
        Versions of the codes involved.
    hessian_dtype
        Precision of the stored Hessians; everything else is float64.

    Raises
    ------
    DataError
        Naming the structure whose label is NaN, whose Hessian is asymmetric beyond :data:`ASYMMETRY_TOLERANCE`, or
        whose name is taken.
    """
    columns: dict[str, list] = {key: [] for key in (*layout.DTYPES, *STRINGS)}
    seen: set[str] = set()
    with atomic_path(Path(path)) as temporary, HDF5Output(temporary) as file:
        hessians = _Hessians(file, hessian_dtype)
        for structure in structures:
            if structure.name in seen:
                raise DataError(
                    "this name occurs twice", where=structure.name, remedy="give every structure its own name"
                )
            seen.add(structure.name)
            file.require_written()
            require_finite(structure)
            asymmetry = 0.0
            if structure.hessian is not None:
                symmetric, asymmetry = symmetrised(structure.hessian, structure.name)
                hessians.append(layout.pack(symmetric))
            _append(columns, structure, max(asymmetry, structure.hessian_asymmetry or 0.0))
        if not seen:
            raise DataError("there is no structure to write", where=path)
        hessians.flush()
        for key, dtype in layout.DTYPES.items():
            flat = key in ("numbers", "positions", "forces")
            values = np.concatenate(columns[key]) if flat else np.array(columns[key])
            _create(file, key, values.astype(dtype))
        for key in STRINGS:
            _create(file, key, np.array([text.encode() for text in columns[key]], dtype=np.bytes_))
        file.attrs.update(
            {
                "format": layout.FORMAT,
                "format_version": layout.FORMAT_VERSION,
                "level_of_theory": level_of_theory,
                "units": json.dumps(layout.UNITS),
                "sign_convention": layout.SIGN_CONVENTION,
                "versions": json.dumps(dict(versions or {}), sort_keys=True),
                "provenance": provenance,
                "content_hash": layout.content_hash(file),
                "split_hash": split_hash(columns["name"], columns["split"]),
            }
        )


def _append(columns: Mapping[str, list], structure: Structure, asymmetry: float) -> None:
    n_atoms = len(structure)
    row: dict[str, object] = {
        "n_atoms": n_atoms,
        "numbers": structure.numbers,
        "positions": structure.positions,
        "cell": np.zeros((3, 3)) if structure.cell is None else structure.cell,
        "pbc": structure.pbc,
        "energy": structure.energy or 0.0,
        "forces": np.zeros((n_atoms, 3)) if structure.forces is None else structure.forces,
        "hessian_asymmetry": asymmetry,
    }
    row |= {f"has_{label}": getattr(structure, label) is not None for label in layout.LABELS}
    row |= {key: getattr(structure, key) for key in STRINGS}
    for key, value in row.items():
        columns[key].append(value)


def require_finite(structure: Structure) -> None:
    """Refuse a structure with a number that is none.

    Parameters
    ----------
    structure
        The structure.

    Raises
    ------
    DataError
        Naming the field.
    """
    for key in ("positions", "cell", *layout.LABELS):
        value = getattr(structure, key)
        if value is not None and not np.isfinite(value).all():
            raise DataError(f"{key} holds NaN or infinity", where=structure.name, remedy="leave out what is unknown")


def symmetrised(hessian: Array, name: str) -> tuple[Array, float]:
    """Symmetrise a Hessian, unless its asymmetry is more than noise.

    Parameters
    ----------
    hessian
        ``(3N, 3N)``, eV/Å².
    name
        Of the structure, for the message.

    Returns
    -------
    symmetric : (3N, 3N) float64
        ``(H + Hᵀ)/2``.
    asymmetry : float
        ``max|H − Hᵀ|``.

    Raises
    ------
    DataError
        When the asymmetry is above :data:`ASYMMETRY_TOLERANCE` of the largest element.
    """
    asymmetry = float(np.abs(hessian - hessian.T).max())
    largest = float(np.abs(hessian).max())
    if asymmetry > ASYMMETRY_TOLERANCE * largest:
        raise DataError(
            f"the Hessian is not symmetric: max|H − Hᵀ| = {asymmetry:.3g} eV/Å² where max|H| = {largest:.3g}",
            where=name,
            remedy="check its index order (3*atom + xyz), or compute it more tightly",
        )
    return (hessian + hessian.T) / 2, asymmetry


class _Hessians:
    """The dataset of packed Hessians, written as it comes: together they can be larger than the memory."""

    def __init__(self, file: h5py.File, dtype: layout.HessianDtype) -> None:
        self._dataset = file.create_dataset(
            "hessian",
            (0,),
            dtype,
            maxshape=(None,),
            chunks=(_CHUNK,),
            compression="gzip",
            compression_opts=6,
            shuffle=True,
        )
        self._waiting: list[NDArray] = []
        self._size = 0

    def append(self, packed: Array) -> None:
        self._waiting.append(packed.astype(self._dataset.dtype))
        self._size += len(packed)
        if self._size >= 64 * _CHUNK:
            self.flush()

    def flush(self) -> None:
        start = len(self._dataset)
        self._dataset.resize(start + self._size, axis=0)
        if self._waiting:
            self._dataset[start:] = np.concatenate(self._waiting)
        self._waiting, self._size = [], 0


def _create(file: h5py.File, key: str, values: NDArray | Sequence[bytes]) -> None:
    array = np.asarray(values)
    if not array.size:
        file.create_dataset(key, data=array)
        return
    chunks = (min(len(array), _CHUNK), *array.shape[1:])
    file.create_dataset(key, data=array, chunks=chunks, compression="gzip", compression_opts=6, shuffle=True)
