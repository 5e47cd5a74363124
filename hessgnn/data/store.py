"""The store: labelled structures of any size in one HDF5 file (layout in ``docs/data-format.md``).

Ragged quantities are flat arrays; where each structure's share begins follows from ``n_atoms``. Hessians are kept as
packed lower triangles and read on demand, everything else is read at once.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hessgnn.data import layout
from hessgnn.data.splits import DISJOINT
from hessgnn.data.structure import STRINGS, Array, Structure
from hessgnn.data.writer import write_store
from hessgnn.errors import DataError, did_you_mean

__all__ = ["Store", "StoreAttributes", "bundled_names", "write_store"]

_BUNDLED = Path(__file__).resolve().parent / "bundled"
_CHUNK_CACHE = 64 * 1024**2  # bytes of decompressed Hessian chunks that HDF5 keeps


@dataclass(frozen=True)
class StoreAttributes:
    """What a store says of itself as a whole."""

    level_of_theory: str
    provenance: str
    versions: dict[str, str]
    content_hash: str
    split_hash: str
    hessian_dtype: layout.HessianDtype
    format_version: int


def bundled_names() -> list[str]:
    """Names of the data sets that ship with the package.

    Returns
    -------
    list of str
        Each can be given to :meth:`Store.open`.
    """
    return sorted(path.stem for path in _BUNDLED.glob("*.h5"))


class Store:
    """Labelled structures in a file, read only.

    Open one with :meth:`open`. ``len(store)`` structures are reached as ``store[i]``. The per-structure arrays below
    are in memory; a store can be sent to worker processes, each of which opens the file for itself.

    Attributes
    ----------
    path : Path
        The file.
    attributes : StoreAttributes
        Level of theory, provenance and fingerprints.
    n_atoms : (n,) int64
        Atoms of each structure.
    names, groups, kinds, structure_splits, parents : list of str
        Strings of each structure.
    has_energy, has_forces, has_hessian : (n,) bool
        Which labels are known.
    energies : (n,) float64
        eV; zero where unknown.
    hessian_asymmetry : (n,) float64
        Largest ``|H − Hᵀ|`` before the label was symmetrised, eV/Å²; zero where there is no Hessian.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._handle: h5py.File | None = None
        self._handle_pid = -1
        with layout.open_checked(self.path) as file:
            self.attributes = _read_attributes(file)
            arrays = layout.read_small(file, self.path)
        self.n_atoms: NDArray[np.int64] = arrays["n_atoms"].astype(np.int64)
        self.names, self.groups, self.kinds, self.structure_splits, self.parents = (
            [value.decode() for value in arrays[key]] for key in STRINGS
        )
        self.has_energy, self.has_forces, self.has_hessian = (arrays[f"has_{key}"] for key in layout.LABELS)
        self.energies: Array = arrays["energy"]
        self.hessian_asymmetry: Array = arrays["hessian_asymmetry"]
        self._arrays = arrays
        self._atom_offsets = np.concatenate([[0], np.cumsum(self.n_atoms)])
        self._hessian_offsets = np.concatenate([[0], np.cumsum(layout.packed_size(self.n_atoms) * self.has_hessian)])

    @classmethod
    def open(cls, path_or_name: str | Path) -> Store:
        """Open a file, or a data set that ships with the package.

        Parameters
        ----------
        path_or_name
            A path, or a name such as ``rtp-mini``.

        Returns
        -------
        Store
            The store.

        Raises
        ------
        DataError
            When the file is missing, damaged, or not a store of a version that can be read.
        """
        path = Path(path_or_name)
        if path.is_file():
            return cls(path)
        names = bundled_names()
        if str(path_or_name) in names:
            return cls(_BUNDLED / f"{path_or_name}.h5")
        if path.exists():
            raise DataError("is not a file", where=path, remedy="give the HDF5 file itself")
        remedy = did_you_mean(str(path_or_name), names) if names else "check the path"
        raise DataError("no such data set", where=path, remedy=remedy)

    def __len__(self) -> int:
        return len(self.n_atoms)

    def __getitem__(self, index: int) -> Structure:
        i = range(len(self))[index]
        atoms = slice(self._atom_offsets[i], self._atom_offsets[i + 1])
        arrays = self._arrays
        return Structure(
            numbers=arrays["numbers"][atoms],
            positions=arrays["positions"][atoms],
            cell=arrays["cell"][i] if arrays["cell"][i].any() else None,
            pbc=arrays["pbc"][i],
            energy=float(self.energies[i]) if self.has_energy[i] else None,
            forces=arrays["forces"][atoms] if self.has_forces[i] else None,
            hessian=self._hessian(i) if self.has_hessian[i] else None,
            hessian_asymmetry=float(self.hessian_asymmetry[i]) if self.has_hessian[i] else None,
            name=self.names[i],
            group=self.groups[i],
            kind=self.kinds[i],
            split=self.structure_splits[i],
            parent=self.parents[i],
        )

    def __iter__(self) -> Iterator[Structure]:
        return (self[i] for i in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}

    def close(self) -> None:
        """Close the file. It is opened again when a Hessian is asked for."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def splits(self) -> dict[str, int]:
        """Number of structures of each split: train, validation, test, then the others in alphabetical order."""
        counts = Counter(self.structure_splits)
        order = [name for name in DISJOINT if name in counts] + sorted(set(counts) - set(DISJOINT))
        return {name: counts[name] for name in order}

    def indices(self, split: str) -> NDArray[np.int64]:
        """Structures of one split.

        Parameters
        ----------
        split
            Its name.

        Returns
        -------
        (k,) int64
            Their indices, in the order of the file.

        Raises
        ------
        DataError
            When there is no such split.
        """
        found = np.flatnonzero(np.array(self.structure_splits) == split)
        if not len(found):
            raise DataError(f"has no split {split!r}", where=self.path, remedy=did_you_mean(split, self.splits))
        return found

    def elements(self, indices: Iterable[int] | None = None) -> list[int]:
        """Elements that occur.

        Parameters
        ----------
        indices
            Structures to look at; all by default.

        Returns
        -------
        list of int
            Atomic numbers, sorted.
        """
        if indices is None:
            return [int(number) for number in np.unique(self._arrays["numbers"])]
        offsets = self._atom_offsets
        found = {int(z) for i in indices for z in self._arrays["numbers"][offsets[i] : offsets[i + 1]]}
        return sorted(found)

    def symbols(self, indices: Iterable[int] | None = None) -> list[str]:
        """Element symbols that occur, sorted by atomic number; see :meth:`elements`."""
        return [chemical_symbols[number] for number in self.elements(indices)]

    def verify(self) -> None:
        """Recompute the content's fingerprint.

        Raises
        ------
        DataError
            When it differs from the stored one: the file was changed after it was written.
        """
        with layout.open_checked(self.path) as file:
            found = layout.content_hash(file)
        if found != self.attributes.content_hash:
            raise DataError(
                "the content does not match its content_hash", where=self.path, remedy="fetch or build the file again"
            )

    def _hessian(self, i: int) -> Array:
        start, stop = self._hessian_offsets[i : i + 2]
        try:
            packed = self._file["hessian"][start:stop]
        except OSError as error:
            raise DataError(
                f"the Hessian of {self.names[i]!r} cannot be read", where=self.path, remedy="the file is damaged"
            ) from error
        return layout.unpack(packed, int(self.n_atoms[i]))

    @property
    def _file(self) -> h5py.File:
        # HDF5 handles do not survive a fork: each process opens its own.
        if self._handle is None or self._handle_pid != os.getpid():
            self._handle = h5py.File(self.path, "r", rdcc_nbytes=_CHUNK_CACHE)
            self._handle_pid = os.getpid()
        return self._handle


def _read_attributes(file: h5py.File) -> StoreAttributes:
    return StoreAttributes(
        level_of_theory=str(file.attrs["level_of_theory"]),
        provenance=str(file.attrs["provenance"]),
        versions=json.loads(file.attrs["versions"]),
        content_hash=str(file.attrs["content_hash"]),
        split_hash=str(file.attrs["split_hash"]),
        hessian_dtype="float64" if file["hessian"].dtype == np.float64 else "float32",
        format_version=int(file.attrs["format_version"]),
    )
