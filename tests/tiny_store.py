"""A few of the smallest bundled structures of each split: real labels, trained on in a moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hessgnn.data.store.store import Store, write_store

COUNTS = {"train": 6, "validation": 2, "test": 1, "nms": 2}

TINY = {"name": "schnet", "width": 8, "n_interactions": 1, "n_basis": 8}


PROBED = {"train": "minimum", "validation": "nms"}
"""Kinds that ``hessgnn bench probes`` looks for in a split."""


def write_tiny_store(path: Path, kinds: Mapping[str, str] = {}) -> Path:
    """Of a split that is named only structures of one kind."""
    bundled = Store.open("rtp-mini")
    chosen = []
    for split, number in COUNTS.items():
        fit = [i for i in bundled.indices(split) if bundled.kinds[i] == kinds.get(split, bundled.kinds[i])]
        if split == "test":  # not linear: EMT's own minimum of N2O is none
            fit = [i for i in fit if bundled.n_atoms[i] > 3]
        smallest = sorted(fit, key=lambda index: (bundled.n_atoms[index], index))
        chosen += [bundled[int(index)] for index in smallest[:number]]
    write_store(path, chosen, level_of_theory=bundled.attributes.level_of_theory)
    return path
