"""Dipole derivatives that are kept: they belong to the data and an engine, whatever surface is judged."""

from __future__ import annotations

import hashlib
import importlib.metadata
from contextlib import suppress
from pathlib import Path

import numpy as np
from tblite.ase import TBLite

from hessgnn.data.store.columns import scratch
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import UserError
from hessgnn.evaluation.tasks.infrared import dipole_derivatives
from hessgnn.runtime.files import atomic_path
from hessgnn.surface.base import FAILURES

ACCURACY = 1e-5
"""Of tblite; the dipoles are differentiated."""


def kept_dipole_derivatives(method: str, structure: Structure, step: float) -> Array | None:
    """Differentiate the dipole moment of a method of tblite, or read what was found before for the same geometry.

    Parameters
    ----------
    method
        Such as ``"GFN2-xTB"``.
    structure
        Where.
    step
        Å, see :func:`~hessgnn.evaluation.tasks.infrared.dipole_derivatives`.

    Returns
    -------
    (N, 3, 3) float64 or None
        e; ``None`` where the method fails.
    """
    path = _path(method, structure, step)
    with suppress(OSError, ValueError, EOFError):  # it is not there, or damaged
        found = np.load(path, allow_pickle=False)
        if found.shape == (len(structure), 3, 3) and found.dtype == np.float64:
            return found
    try:
        found = dipole_derivatives(TBLite(method=method, accuracy=ACCURACY, verbosity=0), structure, step)
    except FAILURES:
        return None
    # Where nothing can be kept, it is found anew each time.
    with suppress(UserError, OSError), atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, found)
    return found


def _path(method: str, structure: Structure, step: float) -> Path:
    version = importlib.metadata.version("tblite")
    digest = hashlib.sha256(f"{method} {ACCURACY} {step} {version}".encode())
    digest.update(structure.numbers.astype(np.int64).tobytes())
    digest.update(structure.positions.astype(np.float64).tobytes())
    digest.update(structure.pbc.tobytes())
    digest.update(b"" if structure.cell is None else structure.cell.tobytes())
    return scratch("dipoles") / f"{digest.hexdigest()[:32]}.npy"
