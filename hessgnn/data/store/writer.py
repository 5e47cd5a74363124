"""Writing a store: labels are checked first, rows of every dataset are gathered, then the file is sealed.

What is gathered lies in memory, then in files without a name, which vanish with the process. So every dataset is
written once and with its final length: large ones contiguous, for readers to map into memory, and others compressed.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hessgnn.data.store import layout
from hessgnn.data.store.hdf5 import HDF5Output
from hessgnn.data.store.splits import split_hash
from hessgnn.data.structure import STRINGS, Array, Structure
from hessgnn.errors import DataError
from hessgnn.runtime.files import atomic_path

ASYMMETRY_TOLERANCE = 5e-3
"""Largest ``max|H − Hᵀ| / max|H|`` that can be the noise of a label rather than a wrong index order."""

CONTIGUOUS = 8 * 1024**2
"""Bytes beyond which a dataset is written contiguous and uncompressed. Compression saves 10 to 30 % of floating-point
numbers, and a compressed dataset has to be unpacked before it is read at random."""

_CHUNK = 16_384  # numbers; one chunk holds the Hessians of a few dozen small molecules
_WAITING = 8 * 1024**2  # numbers that are kept in memory
_BLOCK = 8 * 1024**2  # bytes that are copied at a time
_SHAPES = {
    "positions": (3,),
    "forces": (3,),
    "cell": (3, 3),
    "pbc": (3,),
    "direction_vectors": (3,),
    "direction_products": (3,),
}
_FILTERS = {"compression": "gzip", "compression_opts": 6, "shuffle": True}


def write_store(
    path: str | Path,
    structures: Iterable[Structure],
    *,
    level_of_theory: str,
    provenance: str = "",
    versions: Mapping[str, str] | None = None,
    hessian_dtype: layout.HessianDtype = "float32",
    split_by: str = "",
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
    split_by
        What the splits keep together, a :data:`~hessgnn.data.store.splits.Relation`; empty where it is not known.

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
        draft.seal(level_of_theory, provenance, versions or {}, split_by)


@contextmanager
def drafted(path: Path, hessian_dtype: layout.HessianDtype) -> Iterator[Draft]:
    """Yield a draft that becomes a file when the block ends without an error; it must have been sealed by then.

    On an error the file stays as it was.
    """
    with atomic_path(path) as temporary:
        draft = Draft(temporary, hessian_dtype)
        try:
            yield draft
        finally:
            draft.close()


def judged(structure: Structure) -> tuple[Structure, float]:
    """Make a structure ready to be stored: symmetrise its Hessian.

    Also returns what that removed, ``max|H − Hᵀ|``, or the structure's own value where that is larger; eV/Å². Raises
    :class:`DataError` when a number is NaN or infinite, or the Hessian is not symmetric.
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
    """Raise :class:`DataError`, which names the field, when a number is NaN or infinite."""
    for key in ("positions", "cell", *layout.LABELS):
        value = getattr(structure, key)
        if value is not None and not np.isfinite(value).all():
            raise DataError(f"{key} holds NaN or infinity", where=structure.name, hint="leave out what is unknown")
    directions = structure.directions
    if directions is None:
        return
    for key in ("vectors", "products"):
        finite = np.isfinite(getattr(directions, key)).all((1, 2))
        if not finite.all():
            what = f"direction {int(finite.argmin())}: {key} hold NaN or infinity"
            raise DataError(what, where=structure.name, hint="leave it out")
    moved = directions.vectors.any((1, 2))
    if not moved.all():
        what = f"direction {int(moved.argmin())} has length zero"
        raise DataError(what, where=structure.name, hint="leave it out")


def symmetrised(hessian: Array, name: str) -> tuple[Array, float]:
    """Return ``(H + Hᵀ)/2`` and the asymmetry ``max|H − Hᵀ|`` of a Hessian ``(3N, 3N)``, eV/Å².

    Raises :class:`DataError` when the asymmetry is above :data:`ASYMMETRY_TOLERANCE` of the largest element.
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


class Draft:
    """A file that nobody reads yet; what was at its path is lost.

    Attributes
    ----------
    strings : dict
        ``name``, ``group``, … -> the bytes of each structure so far.
    """

    def __init__(self, path: Path, hessian_dtype: layout.HessianDtype) -> None:
        self._path = path
        dtypes = {**layout.DTYPES, **layout.DIRECTIONS, "hessian": hessian_dtype}
        self._rows = {key: _Rows(path.parent, dtype, _SHAPES.get(key, ())) for key, dtype in dtypes.items()}
        self.strings: dict[str, list[bytes]] = {key: [] for key in STRINGS}
        self._kinds: list[bytes] = []  # of directions

    def __len__(self) -> int:
        return len(self.strings["name"])

    def add(self, structure: Structure, asymmetry: float) -> None:
        """Add a structure with finite numbers, a name of its own and a symmetric Hessian.

        ``asymmetry`` is that of the Hessian before it was symmetrised, eV/Å².
        """
        n_atoms = len(structure)
        row: dict[str, object] = {
            "n_atoms": [n_atoms],
            "numbers": structure.numbers,
            "positions": structure.positions,
            "cell": np.zeros((1, 3, 3)) if structure.cell is None else structure.cell[None],
            "pbc": structure.pbc[None],
            "energy": [structure.energy or 0.0],
            "forces": np.zeros((n_atoms, 3)) if structure.forces is None else structure.forces,
            "hessian": [] if structure.hessian is None else layout.pack(structure.hessian),
            "hessian_asymmetry": [asymmetry],
        }
        row |= {f"has_{label}": [getattr(structure, label) is not None] for label in layout.LABELS}
        row["n_directions"] = [0]
        if (directions := structure.directions) is not None:
            self._kinds += [kind.encode() for kind in directions.kinds]
            row |= {
                "n_directions": [len(directions)],
                "direction_vectors": directions.vectors,
                "direction_products": directions.products,
                "direction_weight": directions.weights,
                "direction_error": directions.errors,
            }
        for key, value in row.items():
            self._rows[key].add(np.asarray(value))
        for key, texts in self.strings.items():
            texts.append(getattr(structure, key).encode())
        self._spill()

    def extend(self, other: h5py.File) -> None:
        """Add all structures of another store, given as an open file."""
        n = len(other["n_atoms"])
        if layout.DIRECTION_KIND in other:
            self._kinds += other[layout.DIRECTION_KIND][()].tolist()
        else:
            self._rows["n_directions"].add(np.zeros(n))
        for key, rows in self._rows.items():
            if key in layout.DIRECTIONS and key not in other:
                continue
            dataset = other[key]
            step = max(1, _BLOCK // (dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=int))))
            for start in range(0, len(dataset), step):
                rows.add(dataset[start : start + step])
                self._spill()
        for key, texts in self.strings.items():
            texts += other[key][()].tolist() if key in other else [b""] * n

    def seal(self, level_of_theory: str, provenance: str, versions: Mapping[str, str], split_by: str = "") -> None:
        """Write everything with attributes and fingerprints."""
        strings = dict(self.strings)
        if self._kinds:
            strings[layout.DIRECTION_KIND] = self._kinds
        with HDF5Output(self._path) as file:
            for key, rows in self._rows.items():
                if self._kinds or key not in layout.DIRECTIONS:
                    rows.write(file, key)
            for key, texts in strings.items():
                array = np.array(texts, dtype=np.bytes_)
                file.create_dataset(key, data=array, chunks=(min(len(array), _CHUNK),), **_FILTERS)
            file.flush()
            file.require_written()
            names, splits = ([text.decode() for text in self.strings[key]] for key in ("name", "split"))
            file.attrs.update(
                {
                    "format": layout.FORMAT,
                    "format_version": layout.WITH_DIRECTIONS if self._kinds else layout.FORMAT_VERSION,
                    "level_of_theory": level_of_theory,
                    "units": json.dumps(layout.UNITS),
                    "sign_convention": layout.SIGN_CONVENTION,
                    "versions": json.dumps(dict(versions), sort_keys=True),
                    "provenance": provenance,
                    "content_hash": layout.content_hash(file),
                    "split_hash": split_hash(names, splits),
                    "split_by": split_by,
                }
            )
        self.close()

    def close(self) -> None:
        """Forget what was gathered."""
        for rows in self._rows.values():
            rows.close()

    def _spill(self) -> None:
        if sum(rows.waiting for rows in self._rows.values()) > _WAITING:
            for rows in self._rows.values():
                rows.spill()


class _Rows:
    """Rows of a dataset to be, the first of them in a file without a name."""

    def __init__(self, folder: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self._folder, self._dtype, self._shape = folder, np.dtype(dtype), shape
        self._file: io.FileIO | None = None
        self._arrays: list[NDArray] = []
        self._spilled = 0
        self.waiting = 0
        """Numbers in memory."""

    def add(self, values: NDArray) -> None:
        self._arrays.append(np.asarray(values, dtype=self._dtype).reshape(-1, *self._shape))
        self.waiting += values.size

    def spill(self) -> None:
        """Move to the file what is in memory."""
        if self._file is None:
            # Unbuffered: a buffer that a full disk does not take would be written again when the file is closed.
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 (see close)
        for values in self._arrays:
            rest = values.reshape(-1).view(np.uint8).data
            while len(rest):
                rest = rest[self._file.write(rest) :]
            self._spilled += len(values)
        self._arrays, self.waiting = [], 0

    def write(self, file: HDF5Output, key: str) -> None:
        """Make the dataset."""
        shape = (self._spilled + sum(map(len, self._arrays)), *self._shape)
        form: dict[str, Any] = {}
        if np.prod(shape, dtype=int) * self._dtype.itemsize <= CONTIGUOUS:
            chunk = max(1, _CHUNK // int(np.prod(self._shape, dtype=int)))
            form = {"maxshape": (None, *self._shape), "chunks": (chunk, *self._shape), **_FILTERS}
        dataset, start = file.create_dataset(key, shape, self._dtype, **form), 0
        for values in self._blocks():
            dataset[start : start + len(values)] = values
            start += len(values)
            file.require_written()

    def close(self) -> None:
        self._arrays = []
        if self._file is not None:
            self._file.close()

    def _blocks(self) -> Iterator[NDArray]:
        if self._file is not None:
            width = self._dtype.itemsize * int(np.prod(self._shape, dtype=int))
            step = max(1, _BLOCK // width)
            self._file.seek(0)
            with open(self._file.fileno(), "rb", closefd=False) as file:
                for start in range(0, self._spilled, step):
                    content = file.read(width * min(step, self._spilled - start))
                    yield np.frombuffer(content, self._dtype).reshape(-1, *self._shape)
        if self._arrays:
            yield np.concatenate(self._arrays)
