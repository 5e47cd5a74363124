"""Writing a store: the labels are judged first, so that no file holds a broken one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from hessgnn.data.store import layout
from hessgnn.data.store.draft import Draft
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import DataError
from hessgnn.runtime.files import atomic_path

ASYMMETRY_TOLERANCE = 5e-3
"""Largest ``max|H − Hᵀ| / max|H|`` that can be the noise of a label rather than a wrong index order."""


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
    seen: set[str] = set()
    with drafted(Path(path), hessian_dtype) as draft:
        for structure in structures:
            if structure.name in seen:
                raise name_taken(structure.name)
            seen.add(structure.name)
            draft.add(*judged(structure))
        if not seen:
            raise DataError("there is no structure to write", where=path)
        draft.seal(level_of_theory, provenance, versions or {})


@contextmanager
def drafted(path: Path, hessian_dtype: layout.HessianDtype) -> Iterator[Draft]:
    """Give a draft that becomes a file when the block ends without an error; it must have been sealed.

    Parameters
    ----------
    path
        The file. On an error it stays as it was.
    hessian_dtype
        Precision of the Hessians.

    Yields
    ------
    Draft
        The draft.
    """
    with atomic_path(path) as temporary:
        draft = Draft(temporary, hessian_dtype)
        try:
            yield draft
        finally:
            draft.close()


def judged(structure: Structure) -> tuple[Structure, float]:
    """Make a structure ready to be stored, or refuse it.

    Parameters
    ----------
    structure
        The structure.

    Returns
    -------
    structure : Structure
        With its Hessian symmetrised.
    asymmetry : float
        What that removed, ``max|H − Hᵀ|``, or the structure's own value where that is larger; eV/Å².

    Raises
    ------
    DataError
        When a number is NaN or infinite, or the Hessian is not symmetric.
    """
    require_finite(structure)
    if structure.hessian is None:
        return structure, structure.hessian_asymmetry or 0.0
    symmetric, asymmetry = symmetrised(structure.hessian, structure.name)
    return replace(structure, hessian=symmetric), max(asymmetry, structure.hessian_asymmetry or 0.0)


def name_taken(name: str, where: object | None = None) -> DataError:
    """The error for a name that occurs twice."""
    return DataError(
        "this name occurs twice" if where is None else f"the name {name!r} is taken",
        where=name if where is None else where,
        hint="give every structure its own name",
    )


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
            raise DataError(f"{key} holds NaN or infinity", where=structure.name, hint="leave out what is unknown")


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
            hint="check its index order (3*atom + xyz), or compute it more tightly",
        )
    return (hessian + hessian.T) / 2, asymmetry
