"""The store: labelled structures of any size in one HDF5 file (layout in ``docs/data-format.md``).

Ragged quantities are flat arrays; where each structure's share begins follows from ``n_atoms``. Hessians are kept as
packed lower triangles. What is not a number per structure is read when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import yaml
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hessgnn.data.directions import Directions
from hessgnn.data.store import layout
from hessgnn.data.store.columns import SCRATCH, Columns, ragged, scratch
from hessgnn.data.store.splits import DISJOINT, DRAWN, TRAIN
from hessgnn.data.store.writer import write_store
from hessgnn.data.structure import FRAMES, Array, Structure
from hessgnn.errors import DataError, UserError, did_you_mean

__all__ = ["Store", "StoreAttributes", "bundled_names", "write_store"]

_BUNDLED = Path(__file__).resolve().parents[1] / "bundled"
_BLOCK = 65_536  # structures that are looked at together


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
    split_by: str = ""


def bundled_names() -> list[str]:
    """Names of the data sets that ship with the package; each can be given to :meth:`Store.open`."""
    return sorted(path.stem for pattern in ("*.h5", "*.yaml") for path in _BUNDLED.glob(pattern))


def _bundled(name: str) -> Path:
    """The file of a bundled data set.

    One that is another's data under other splits is a YAML file, which lists who is in them. Its store is written to
    the folder of scratch files when it is first opened.
    """
    path = _BUNDLED / f"{name}.yaml"
    if not path.exists():
        return path.with_suffix(".h5")
    text = path.read_text(encoding="utf-8")
    told = yaml.safe_load(text)
    source = Store(_BUNDLED / f"{told['of']}.h5")
    attributes = source.attributes
    state = "".join((text, attributes.content_hash, attributes.split_hash))
    target = scratch("bundled") / hashlib.sha256(state.encode()).hexdigest()[:24] / f"{name}.h5"
    if target.exists():
        return target
    split_of_name = {member: split for split, members in told["splits"].items() for member in members}
    others = {kind: kind if kind in FRAMES else TRAIN for kind in set(source.kinds)}
    shares = ", ".join(f"{split} {share:g}" for split, share in told["fractions"].items())
    try:
        write_store(
            target,
            (replace(one, split=split_of_name.get(one.name, others[one.kind])) for one in source),
            level_of_theory=attributes.level_of_theory,
            provenance=f"{attributes.provenance.rstrip()}\n{DRAWN} {told['by']}: {shares}; seed {told['seed']}\n",
            versions=attributes.versions,
            hessian_dtype=attributes.hessian_dtype,
            split_by=told["by"],
        )
    except UserError as error:
        raise UserError(error.what, where=target, hint=f"set {SCRATCH} to a folder that you may write to") from error
    return target


class Store:
    """Labelled structures in a file, read only.

    Open one with :meth:`open`. ``len(store)`` structures are reached as ``store[i]``, each read when it is asked for;
    :attr:`columns` gives flat arrays of them all. In memory are the arrays below, the strings once one is asked for,
    and what :class:`~hessgnn.data.store.columns.Columns` keeps: nothing that grows with (3N)² beyond its bound. A
    store can be sent to worker processes, each of which opens the file for itself.

    Attributes
    ----------
    path : Path
        The file.
    attributes : StoreAttributes
        Level of theory, provenance and fingerprints.
    columns : Columns
        Every dataset as one array.
    n_atoms : (n,) int64
        Atoms of each structure.
    first_atom : (n,) int64
        Where the atoms of each structure begin in ``numbers``, ``positions`` and ``forces``.
    first_hessian : (n,) int64
        Where the triangle of each structure begins in ``hessian``.
    has_energy, has_forces, has_hessian : (n,) bool
        Which labels are known.
    energies : (n,) float64
        eV; zero where unknown.
    n_directions : (n,) int64
        Hessian-vector products of each structure.
    first_direction : (n,) int64
        Where the directions of each structure begin in ``direction_weight``, ``direction_error`` and
        ``direction_kind``.
    first_product : (n,) int64
        Where their atoms begin in ``direction_vectors`` and ``direction_products``.
    has_curvature : (n,) bool
        Which structures have a Hessian or directions.
    hessian_asymmetry : (n,) float64
        Largest ``|H − Hᵀ|`` before the label was symmetrised, eV/Å²; zero where there is no Hessian.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with layout.open_checked(self.path) as file:
            self.attributes = _read_attributes(file)
            arrays = layout.read_per_structure(file, self.path)
        self.columns = Columns(self.path, self.attributes.content_hash)
        self.n_atoms: NDArray[np.int64] = arrays["n_atoms"].astype(np.int64)
        self.has_energy, self.has_forces, self.has_hessian = (arrays[f"has_{key}"] for key in layout.LABELS)
        self.energies: Array = arrays["energy"]
        self.hessian_asymmetry: Array = arrays["hessian_asymmetry"]
        self.first_atom = _starts(self.n_atoms)
        self.first_hessian = _starts(layout.packed_size(self.n_atoms) * self.has_hessian)
        self.n_directions: NDArray[np.int64] = arrays["n_directions"]
        self.first_direction = _starts(self.n_directions)
        self.first_product = _starts(self.n_directions * self.n_atoms)
        self.has_curvature = self.has_hessian | (self.n_directions > 0)
        self._limits: tuple[tuple[str, ...], dict[int, float]] | None = None

    @classmethod
    def open(cls, path_or_name: str | Path) -> Store:
        """Open a file, or a data set that ships with the package.

        Parameters
        ----------
        path_or_name
            A path, or a name such as ``rtp-mini``.

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
            return cls(_bundled(str(path_or_name)))
        if path.exists():
            raise DataError("is not a file", where=path, hint="give the HDF5 file itself")
        hint = did_you_mean(str(path_or_name), names) if names else "check the path"
        raise DataError("no such data set", where=path, hint=hint)

    def __len__(self) -> int:
        return len(self.n_atoms)

    def __getitem__(self, index: int) -> Structure:
        i = self._place(index)
        cell = self.columns.rows("cell", i, i + 1)[0]
        return Structure(
            numbers=self.per_atom("numbers", i),
            positions=self.per_atom("positions", i),
            cell=cell if cell.any() else None,
            pbc=self.columns.rows("pbc", i, i + 1)[0],
            energy=float(self.energies[i]) if self.has_energy[i] else None,
            forces=self.per_atom("forces", i) if self.has_forces[i] else None,
            hessian=self.hessian(i),
            hessian_asymmetry=float(self.hessian_asymmetry[i]) if self.has_hessian[i] else None,
            directions=self.directions(i),
            name=self.names[i],
            group=self.groups[i],
            kind=self.kinds[i],
            split=self.structure_splits[i],
            parent=self.parents[i],
        )

    def __iter__(self) -> Iterator[Structure]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> tuple[object, ...]:
        return (Store, (self.path,)) if self._limits is None else (_limited, (self.path, *self._limits))

    def limited(self, labels: Collection[str], shift: Mapping[int, float] | None = None) -> Store:
        """The same structures with some of their labels only, and with shifted energies; the file stays as it is.

        Parameters
        ----------
        labels
            Those that are kept, of ``energy``, ``forces`` and ``curvature``; the others are as if they were unknown.
        shift
            eV for each atom of an element, added to the energies: from one level of theory to another.
        """
        kept, shift = tuple(labels), dict(shift or {})
        store = Store(self.path)
        store.columns, store._limits = self.columns, (kept, shift)
        nothing = np.zeros(len(store), dtype=bool)
        if "energy" not in kept:
            store.has_energy = nothing
        if "forces" not in kept:
            store.has_forces = nothing
        if "curvature" not in kept:
            store.has_hessian = store.has_curvature = nothing
            store.n_directions = np.zeros_like(store.n_directions)
        if shift:
            moved = store.energies + store.composition(list(shift)) @ np.array(list(shift.values()))
            store.energies = np.where(store.has_energy, moved, 0.0)
        return store

    def leaves_out(self, label: str) -> bool:
        """Whether a label, of those of :meth:`limited`, was left out on purpose."""
        return self._limits is not None and label not in self._limits[0]

    def close(self) -> None:
        """Close the file. It is opened again when something is asked for."""
        self.columns.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def names(self) -> list[str]:
        """Name of each structure; unique."""
        return self._strings("name")

    @cached_property
    def groups(self) -> list[str]:
        """Molecule or reaction of each structure."""
        return self._strings("group")

    @cached_property
    def kinds(self) -> list[str]:
        """How the geometry of each structure came about."""
        return self._strings("kind")

    @cached_property
    def structure_splits(self) -> list[str]:
        """Split of each structure."""
        return self._strings("split")

    @cached_property
    def parents(self) -> list[str]:
        """Name of what each structure was made from, or empty."""
        if self.attributes.format_version == 1:
            return [""] * len(self)
        return self._strings("parent")

    @property
    def splits(self) -> dict[str, int]:
        """Number of structures of each split: train, validation, test, then the others in alphabetical order."""
        names, numbers = np.unique(self.columns.rows("split", 0, len(self)), return_counts=True)
        counts = {name.decode(): int(number) for name, number in zip(names, numbers, strict=True)}
        order = [name for name in DISJOINT if name in counts] + sorted(set(counts) - set(DISJOINT))
        return {name: counts[name] for name in order}

    def indices(self, split: str) -> NDArray[np.int64]:
        """Structures of one split, ``(k,)`` int64, in the order of the file.

        Raises
        ------
        DataError
            When there is no such split.
        """
        found = np.flatnonzero(self.columns.rows("split", 0, len(self)) == split.encode())
        if not len(found):
            raise DataError(f"has no split {split!r}", where=self.path, hint=did_you_mean(split, self.splits))
        return found

    def composition(
        self, elements: Sequence[int], indices: Sequence[int] | NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """Count the atoms of each element.

        Parameters
        ----------
        elements
            Atomic numbers.
        indices
            Structures to look at; all by default.

        Returns
        -------
        (k, len(elements)) int64
            Of each structure.
        """
        chosen = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        column = np.full(256, len(elements))
        column[list(elements)] = np.arange(len(elements))
        width = len(elements) + 1  # the last one for all others
        counts = []
        for sizes, numbers in self._numbers(chosen):
            place = np.repeat(np.arange(len(sizes)) * width, sizes) + column[numbers]
            counts.append(np.bincount(place, minlength=len(sizes) * width).reshape(-1, width)[:, :-1])
        return np.concatenate(counts) if counts else np.zeros((0, len(elements)), dtype=np.int64)

    def isomers(self) -> list[tuple[str, int]]:
        """Group and number of the composition of each structure: equal for isomers of one group."""
        _, number = np.unique(self.composition(self.elements()), axis=0, return_inverse=True)
        return list(zip(self.groups, number.ravel().tolist(), strict=True))

    def elements(self, indices: Iterable[int] | None = None) -> list[int]:
        """Atomic numbers that occur, sorted; ``indices`` are the structures to look at, all by default."""
        chosen = np.arange(len(self)) if indices is None else np.fromiter(indices, dtype=np.int64)
        counts = np.zeros(256, dtype=np.int64)
        for _, numbers in self._numbers(chosen):
            counts += np.bincount(numbers, minlength=len(counts))
        return [int(number) for number in np.flatnonzero(counts)]

    def symbols(self, indices: Iterable[int] | None = None) -> list[str]:
        """Element symbols that occur, sorted by atomic number; see :meth:`elements`."""
        return [chemical_symbols[number] for number in self.elements(indices)]

    def per_atom(self, key: str, index: int) -> NDArray:
        """Numbers of the atoms of one structure: ``numbers``, ``positions`` or ``forces``."""
        first = int(self.first_atom[index])
        return self.columns.rows(key, first, first + int(self.n_atoms[index]))

    def hessian(self, index: int) -> Array | None:
        """Hessian ``(3N, 3N)`` of one structure, eV/Å²; ``None`` where it is not known."""
        if not self.has_hessian[index]:
            return None
        n_atoms, start = self.n_atoms[index], int(self.first_hessian[index])
        packed = self.columns.rows("hessian", start, start + int(layout.packed_size(n_atoms)))
        return layout.unpack(packed, int(n_atoms))

    def directions(self, index: int) -> Directions | None:
        """Hessian-vector products of one structure; ``None`` where it has none.

        Raises :class:`DataError` when a weight is not a positive number.
        """
        index = self._place(index)
        number, n_atoms = int(self.n_directions[index]), int(self.n_atoms[index])
        if not number:
            return None
        first, start = int(self.first_direction[index]), int(self.first_product[index])
        kinds = self.columns.rows("direction_kind", first, first + number)
        return Directions(
            vectors=self.columns.rows("direction_vectors", start, start + number * n_atoms).reshape(-1, n_atoms, 3),
            products=self.columns.rows("direction_products", start, start + number * n_atoms).reshape(-1, n_atoms, 3),
            kinds=tuple(layout.decoded(kind, "direction_kind", self.path) for kind in kinds.tolist()),
            weights=self.columns.rows("direction_weight", first, first + number),
            errors=self.columns.rows("direction_error", first, first + number),
        )

    def verify(self) -> None:
        """Recompute the content's fingerprint.

        Raises
        ------
        DataError
            When it differs from the stored one: the file was changed after it was written.
        """
        with layout.open_checked(self.path) as file:
            try:
                found = layout.content_hash(file)
            except OSError as error:
                raise DataError(
                    "is damaged: a dataset cannot be read", where=self.path, hint="fetch or build it again"
                ) from error
        if found != self.attributes.content_hash:
            raise DataError(
                "the content does not match its content_hash", where=self.path, hint="fetch or build the file again"
            )

    def _place(self, index: int) -> int:
        if isinstance(index, str):
            hint = f"store.names.index({index!r})"
            raise DataError("structures are found by their place, an integer, not by name", where=self.path, hint=hint)
        return range(len(self))[index]

    def _numbers(self, indices: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Sizes and atomic numbers of structures, block by block."""
        numbers = self.columns.array("numbers")
        for start in range(0, len(indices), _BLOCK):
            block = indices[start : start + _BLOCK]
            sizes = self.n_atoms[block]
            yield sizes, numbers[ragged(self.first_atom[block], sizes)]

    def _strings(self, key: str) -> list[str]:
        values = self.columns.rows(key, 0, len(self))
        if key == "name":
            return [layout.decoded(value, key, self.path) for value in values.tolist()]
        known: dict[bytes, str] = {}  # most occur again and again: one object for all
        return [
            known.get(value) or known.setdefault(value, layout.decoded(value, key, self.path))
            for value in values.tolist()
        ]


def _limited(path: Path, labels: tuple[str, ...], shift: dict[int, float]) -> Store:
    """A limited store in another process."""
    return Store(path).limited(labels, shift)


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(sizes) - sizes


def _read_attributes(file: h5py.File) -> StoreAttributes:
    return StoreAttributes(
        level_of_theory=str(file.attrs["level_of_theory"]),
        provenance=str(file.attrs["provenance"]),
        versions=json.loads(file.attrs["versions"]),
        content_hash=str(file.attrs["content_hash"]),
        split_hash=str(file.attrs["split_hash"]),
        hessian_dtype="float64" if file["hessian"].dtype == np.float64 else "float32",
        format_version=int(file.attrs["format_version"]),
        split_by=str(file.attrs.get("split_by", "")),
    )
