"""Finding records and the predictions saved beside them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hessgnn.benchmark.record import Record, read_record
from hessgnn.errors import DataError

RECORD_NAME = "record.json"


@dataclass(frozen=True)
class Predictions:
    """What a potential predicted for one split, beside the labels.

    ============================ ========================= ========================================
    array                        shape                     unit
    ============================ ========================= ========================================
    ``energy_*``                 ``(n_structures,)``       eV
    ``forces_*``                 ``(total_atoms, 3)``      eV/Å
    ``hessian_*``                ``(sum of (3N)²,)``       eV/Å², the structures' matrices row by row
    ``n_atoms``, ``name``        ``(n_structures,)``       atoms in, and name of, each structure
    ============================ ========================= ========================================
    """

    energy_reference: NDArray[np.float64]
    energy_predicted: NDArray[np.float64]
    forces_reference: NDArray[np.float64]
    forces_predicted: NDArray[np.float64]
    hessian_reference: NDArray[np.float64]
    hessian_predicted: NDArray[np.float64]
    n_atoms: NDArray[np.int64]
    name: NDArray[np.str_]

    def __post_init__(self) -> None:
        structures = self.n_atoms.shape if self.n_atoms.ndim == 1 else (0,)
        shapes = {
            "energy": structures,
            "forces": (int(self.n_atoms.sum()), 3),
            "hessian": (int((9 * self.n_atoms.astype(np.int64) ** 2).sum()),),
        }
        expected = {f"{key}_{kind}": shape for key, shape in shapes.items() for kind in ("reference", "predicted")}
        for name, shape in {"n_atoms": structures, "name": structures, **expected}.items():
            if getattr(self, name).shape != shape:
                raise DataError(f"array {name!r} has the shape {getattr(self, name).shape}, expected {shape}")


def read_predictions(path: Path) -> Predictions:
    """Read saved predictions.

    Parameters
    ----------
    path
        A NumPy ``.npz`` archive with the arrays of :class:`Predictions`; pickled content is refused.

    Returns
    -------
    Predictions
        The arrays, with their shapes checked against each other.

    Raises
    ------
    DataError
        When the file is damaged, lacks an array, or has one of the wrong shape.
    """
    remedy = "run `hessgnn evaluate` on the run again"
    try:
        with zipfile.ZipFile(path):
            pass  # np.load would try to unpickle anything that is not an archive, and say so confusingly
        with np.load(path, allow_pickle=False) as archive:
            return Predictions(**{item.name: archive[item.name] for item in fields(Predictions)})
    except KeyError as error:
        raise DataError(f"an array is missing ({error.args[0]})", where=path, remedy=remedy) from error
    except DataError as error:
        raise DataError(error.what, where=path, remedy=remedy) from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot be read as predictions ({error})", where=path, remedy=remedy) from error


@dataclass(frozen=True)
class Loaded:
    """A record with the prediction files that were found beside it."""

    path: Path
    record: Record
    files: dict[str, Path] = field(default_factory=dict)
    """Split to file; checksums verified."""
    notes: tuple[str, ...] = ()
    """What is missing, for the reader of the report."""

    def predictions(self, split: str) -> Predictions | None:
        """Read the predictions for ``split``, or return None when the run saved none."""
        return read_predictions(self.files[split]) if split in self.files else None


def collect(paths: Iterable[Path]) -> list[Loaded]:
    """Read the records of several runs and verify the predictions that they name.

    Parameters
    ----------
    paths
        Run folders that hold a ``record.json``, or record files (``.json``).

    Returns
    -------
    list of Loaded
        In the order of ``paths``. A prediction file that is not there leaves a note; it is no error, since the
        record holds the scores.

    Raises
    ------
    DataError
        When there is no path, a record is missing or damaged, or a prediction file is not the one that the record
        was made with.
    """
    loaded = [_load(Path(path)) for path in paths]
    if not loaded:
        raise DataError("no runs to compare", remedy="name at least one run folder or record file")
    return loaded


def _load(path: Path) -> Loaded:
    if path.is_dir():
        path = path / RECORD_NAME
    record = read_record(path)
    files: dict[str, Path] = {}
    notes: list[str] = []
    for split, saved in record.predictions.items():
        file = path.parent / saved.path
        if not file.is_file():
            notes.append(
                f"{record.entry}, seed {record.seed}: the predictions for {split} ({saved.path}) are missing, "
                "so they are not plotted"
            )
            continue
        if _sha256(file) != saved.sha256.lower():
            raise DataError(
                "is not the file that the record was made with (SHA-256 differs)",
                where=file,
                remedy="restore it, or run `hessgnn evaluate` on the run again",
            )
        files[split] = file
    return Loaded(path=path, record=record, files=files, notes=tuple(notes))


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from error
