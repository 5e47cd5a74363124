"""Writing a store: the labels are judged first, so that no file holds a broken one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hessgnn.data import layout
from hessgnn.data.splits import split_hash
from hessgnn.data.structure import Array, Structure
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
    columns: dict[str, list] = {key: [] for key in (*layout.DTYPES, *layout.STRINGS)}
    packed: list[NDArray] = []
    seen: set[str] = set()
    for structure in structures:
        if structure.name in seen:
            raise DataError("this name occurs twice", where=structure.name, remedy="give every structure its own name")
        seen.add(structure.name)
        _require_finite(structure)
        asymmetry = 0.0
        if structure.hessian is not None:
            symmetric, asymmetry = _symmetrised(structure.hessian, structure.name)
            packed.append(layout.pack(symmetric).astype(hessian_dtype))
        _append(columns, structure, max(asymmetry, structure.hessian_asymmetry or 0.0))
    if not seen:
        raise DataError("there is no structure to write", where=path)

    with atomic_path(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        for key, dtype in layout.DTYPES.items():
            flat = key in ("numbers", "positions", "forces")
            values = np.concatenate(columns[key]) if flat else np.array(columns[key])
            _create(file, key, values.astype(dtype))
        for key in layout.STRINGS:
            _create(file, key, np.array([text.encode() for text in columns[key]], dtype=np.bytes_))
        _create(file, "hessian", np.concatenate([np.zeros(0, dtype=hessian_dtype), *packed]))
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
    row |= {key: getattr(structure, key) for key in layout.STRINGS}
    for key, value in row.items():
        columns[key].append(value)


def _require_finite(structure: Structure) -> None:
    for key in ("positions", "cell", *layout.LABELS):
        value = getattr(structure, key)
        if value is not None and not np.isfinite(value).all():
            raise DataError(f"{key} holds NaN or infinity", where=structure.name, remedy="leave out what is unknown")


def _symmetrised(hessian: Array, name: str) -> tuple[Array, float]:
    asymmetry = float(np.abs(hessian - hessian.T).max())
    largest = float(np.abs(hessian).max())
    if asymmetry > ASYMMETRY_TOLERANCE * largest:
        raise DataError(
            f"the Hessian is not symmetric: max|H − Hᵀ| = {asymmetry:.3g} eV/Å² where max|H| = {largest:.3g}",
            where=name,
            remedy="check its index order (3*atom + xyz), or compute it more tightly",
        )
    return (hessian + hessian.T) / 2, asymmetry


def _create(file: h5py.File, key: str, values: NDArray | Sequence[bytes]) -> None:
    array = np.asarray(values)
    if not array.size:
        file.create_dataset(key, data=array)
        return
    chunks = (min(len(array), _CHUNK), *array.shape[1:])
    file.create_dataset(key, data=array, chunks=chunks, compression="gzip", compression_opts=6, shuffle=True)
