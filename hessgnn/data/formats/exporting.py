"""Exporting: from a store to a format that other codes read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.progress import track

from hessgnn.data.formats import registry
from hessgnn.data.store.store import Store
from hessgnn.errors import DataError


def export_data(store: Store, name: str, target: Path, *, split: str | None = None) -> int:
    """Write the structures of a store in another format.

    Parameters
    ----------
    store
        The store.
    name
        The format.
    target
        File or folder, which must not exist.
    split
        Only this one.

    Returns
    -------
    int
        Number of structures written.

    Raises
    ------
    DataError
        When the target exists, or a structure is more than the format can hold.
    """
    writer = registry.WRITERS[name]
    if target.exists():
        raise DataError("exists already", where=target, hint="remove it or give another name")
    indices = np.arange(len(store)) if split is None else store.indices(split)
    structures = (store[int(i)] for i in track(indices, description=f"writing {target.name}"))
    writer(structures, target, store.attributes.level_of_theory)
    return len(indices)
