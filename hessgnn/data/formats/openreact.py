"""OpenREACT-CHON-EFH (figshare 29189858): HDF5 in the layout of pyanitools, Hartree and Å.

A. Rodriguez, J. S. Smith, J. L. Mendoza-Cortes, J. Chem. Theory Comput. 21, 6698 (2025). Forces are in Hartree/Å and
Hessians in Hartree/Å², not per Bohr. A group holds one structure or several of one molecule.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from hessgnn.data.formats.common import (
    composition,
    files_of,
    groups_with,
    hessian_matrix,
    known,
    open_hdf5,
    prefix_of,
    rows,
    scalar,
)
from hessgnn.data.formats.registry import Entry, Record, reader
from hessgnn.data.structure import Structure
from hessgnn.units import HARTREE

LEVEL = "wB97X-D/6-31G(d)"
_EXTRAPOLATION = ("irc", "nms")  # the files molecules-IRC.h5 and molecules-NMS.h5; molecules-RTP.h5 is for training


@reader("openreact")
def read(source: Path) -> Iterator[Entry]:
    """List the structures of a file, or of all files of a folder."""
    for path in files_of(source, ".h5", ".hdf5"):
        ending = path.stem.lower().rpartition("-")[2]
        kind = ending if ending in _EXTRAPOLATION else "unknown"
        with open_hdf5(path) as file:
            for group in groups_with(file, "coordinates"):
                yield from _of_group(group, path, prefix_of(source, path), kind)


def _of_group(group: h5py.Group, path: Path, prefix: str, kind: str) -> Iterator[Entry]:
    shape = group["coordinates"].shape
    batched = len(shape) == 3
    several_species = "species" in group and group["species"].ndim == 2
    pick = {key: rows(group, key, batched=batched) for key in ("coordinates", "energies", "forces", "hessian")}
    pick["species"] = rows(group, "species", batched=several_species)
    key = group.name.strip("/")
    for i in range(shape[0] if batched else 1):
        name = f"{prefix}{key}/{i}" if batched and shape[0] > 1 else f"{prefix}{key}"

        def load(i: int = i, name: str = name) -> Record:
            numbers = _numbers(pick["species"](i))
            structure = Structure(
                numbers=numbers,
                positions=pick["coordinates"](i),
                energy=scalar(pick["energies"](i), HARTREE),
                forces=known(pick["forces"](i), HARTREE),
                hessian=hessian_matrix(pick["hessian"](i), len(numbers), HARTREE),
                name=name,
                group=composition(numbers),
                kind=kind,
                split="train" if kind == "unknown" else kind,
            )
            return Record(structure, LEVEL)

        yield Entry(f"{path}, {key}[{i}]", load)


def _numbers(species: NDArray | None) -> NDArray[np.int64]:
    if species is None:
        raise KeyError("no dataset species")
    values = np.asarray(species).ravel()
    if values.dtype.kind in "iuf":
        return values.astype(np.int64)
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    return np.array([atomic_numbers[text] for text in texts])
