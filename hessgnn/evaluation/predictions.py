"""Saved predictions: predicted labels of a split beside those of the reference, and the numbers that follow from them.

These are errors, curvature, and energy profiles along reaction paths. Away from stationary points eigenvalues and
modes are a diagnostic of the curvature, not frequencies.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.symbols import Symbols
from numpy.typing import NDArray

from hessgnn.data.structure import IRC, Array, Structure
from hessgnn.errors import DataError
from hessgnn.evaluation.record import PredictionFile, Values
from hessgnn.molecules.vibrations import Vibrations, masses_of, vibrations
from hessgnn.runtime.files import atomic_path
from hessgnn.surface.base import Answer

QUANTITIES = ("energy", "forces", "hessian")
ENERGIES = ("energy_mae", "energy_rmse", "energy_rmse_molecule")
"""Errors that a constant for each atom would decide."""
CURVATURE = (
    "curvature_eigenvalue_mae",
    "curvature_mode1_cosine",
    "curvature_mode2_cosine",
    "curvature_negative_same",
    "curvature_asymmetry",
)
PRODUCTS = "hessian_rmse_products"
"""The Hessian's error, estimated from stored products."""
POOLED = {"energy_rmse_molecule": "energy", "forces_rmse_pooled": "forces", "hessian_rmse_pooled": "hessian"}
"""Errors pooled over a split -> what they are errors of."""
PROFILES = ("profile_mae",)

NEGATIVE = 10.0
"""cm⁻¹: modes count as negative below minus this (as in ReactBench)."""
DEGENERATE = 1.0
"""cm⁻¹: reference modes nearer than this are one, and any mode of the space that they span is as good."""
LOWEST = 2
"""Modes that are compared one by one."""
FEWEST = 3
"""Frames that make a path."""


@dataclass(frozen=True)
class Predictions:
    """Reference and predicted labels of the structures of a split. A missing reference is NaN.

    Attributes
    ----------
    name, kind, parent
        ``(n_structures,)``, see :class:`~hessgnn.data.structure.Structure`.
    n_atoms
        ``(n_structures,)``.
    numbers, positions
        ``(Σ N,)`` and ``(Σ N, 3)``, Å.
    energy_reference, energy_predicted
        ``(n_structures,)``, eV.
    forces_reference, forces_predicted
        ``(Σ N, 3)``, eV/Å.
    hessian_reference, hessian_predicted
        ``(Σ 9N²,)``, eV/Å²: the rows of one Hessian after the other.
    key
        What they were made of: surface, data and versions. Empty where that is not known.
    group
        ``(n_structures,)``, the family of each structure. Empty strings where an older version saved none.
    n_directions
        ``(n_structures,)``: M, how many products of the reference each structure has. Empty arrays stand for none.
    direction_vectors, direction_products
        ``(Σ M N, 3)``, of one direction after the other; products in eV/Å².
    direction_weights
        ``(Σ M,)``, see :class:`~hessgnn.data.directions.Directions`.
    """

    name: NDArray[np.str_]
    kind: NDArray[np.str_]
    parent: NDArray[np.str_]
    n_atoms: NDArray[np.int64]
    numbers: NDArray[np.int64]
    positions: Array
    energy_reference: Array
    energy_predicted: Array
    forces_reference: Array
    forces_predicted: Array
    hessian_reference: Array
    hessian_predicted: Array
    key: str = ""
    group: NDArray[np.str_] = field(default_factory=lambda: np.array([], dtype=str))
    n_directions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    direction_vectors: Array = field(default_factory=lambda: np.zeros((0, 3)))
    direction_products: Array = field(default_factory=lambda: np.zeros((0, 3)))
    direction_weights: Array = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.group):
            object.__setattr__(self, "group", np.full(len(self.name), ""))
        if not len(self.n_directions):
            object.__setattr__(self, "n_directions", np.zeros(len(self.name), dtype=np.int64))
        n_structures, n_atoms = self.n_atoms.shape, int(self.n_atoms.sum())
        shapes = {"energy": n_structures, "forces": (n_atoms, 3), "hessian": (int((9 * self.n_atoms**2).sum()),)}
        expected = {f"{key}_{kind}": shape for key, shape in shapes.items() for kind in ("reference", "predicted")}
        expected |= dict.fromkeys(("name", "kind", "parent", "group", "n_directions"), n_structures)
        if self.n_directions.shape == n_structures:
            rows = (int((self.n_directions * self.n_atoms).sum()), 3)
            expected |= {"direction_vectors": rows, "direction_products": rows}
            expected["direction_weights"] = (int(self.n_directions.sum()),)
        for name, shape in {"numbers": (n_atoms,), "positions": (n_atoms, 3), **expected}.items():
            if getattr(self, name).shape != shape:
                raise DataError(f"array {name!r} has shape {getattr(self, name).shape}, expected {shape}")

    @classmethod
    def of(
        cls,
        structures: Sequence[Structure],
        answers: Iterable[Answer],
        observer: Callable[[int, int], None] | None = None,
    ) -> Predictions:
        """Put predictions beside the labels of structures, in the order of the structures; NaN where there is no label.

        ``observer`` is invoked after each structure, with the number of structures done and their total.
        """
        energy, forces, hessian = [], [], []
        for answer in answers:
            energy.append(answer.energy)
            forces.append(answer.forces)
            hessian.append(answer.hessian.ravel())
            if observer is not None:
                observer(len(energy), len(structures))

        def known(value: Array | float | None, shape: tuple[int, ...]) -> Array:
            return np.full(shape, np.nan) if value is None else np.asarray(value, dtype=np.float64)

        sizes = [len(s.numbers) for s in structures]
        directions = [s.directions for s in structures if s.directions is not None]
        nothing = np.zeros((0, 3))
        pairs = list(zip(structures, sizes, strict=True))
        return cls(
            name=np.array([s.name for s in structures]),
            kind=np.array([s.kind for s in structures]),
            parent=np.array([s.parent for s in structures]),
            group=np.array([s.group for s in structures]),
            n_atoms=np.array(sizes),
            numbers=np.concatenate([s.numbers for s in structures]),
            positions=np.concatenate([s.positions for s in structures]),
            energy_reference=np.array([known(s.energy, ()) for s in structures]),
            energy_predicted=np.array(energy),
            forces_reference=np.concatenate([known(s.forces, (n, 3)) for s, n in pairs]),
            forces_predicted=np.concatenate(forces),
            hessian_reference=np.concatenate([known(s.hessian, (3 * n, 3 * n)).ravel() for s, n in pairs]),
            hessian_predicted=np.concatenate(hessian),
            n_directions=np.array([0 if s.directions is None else len(s.directions) for s in structures]),
            direction_vectors=np.concatenate([nothing, *(d.vectors.reshape(-1, 3) for d in directions)]),
            direction_products=np.concatenate([nothing, *(d.products.reshape(-1, 3) for d in directions)]),
            direction_weights=np.concatenate([nothing[:, 0], *(d.weights for d in directions)]),
        )

    def not_finite(self) -> list[str]:
        """Names of the structures for which a prediction is not a finite number: a failure of the potential."""
        n = self.n_atoms
        arrays = (
            (self.energy_predicted, np.ones_like(n)),
            (self.forces_predicted.ravel(), 3 * n),
            (self.hessian_predicted, 9 * n**2),
        )
        finite = np.ones(len(n), dtype=bool)
        for values, size in arrays:
            finite &= np.isfinite(np.add.reduceat(values, np.cumsum(size) - size))
        return [str(name) for name in self.name[~finite]]

    def hessians(self) -> Iterator[tuple[str, NDArray[np.int64], Array, Array, Array]]:
        """Name, numbers, positions, reference and predicted ``(3N, 3N)`` Hessian of each structure."""
        atoms, entries = np.cumsum(self.n_atoms)[:-1], np.cumsum(9 * self.n_atoms**2)[:-1]
        columns = zip(
            self.name,
            np.split(self.numbers, atoms),
            np.split(self.positions, atoms),
            np.split(self.hessian_reference, entries),
            np.split(self.hessian_predicted, entries),
            strict=True,
        )
        for name, numbers, positions, reference, predicted in columns:
            shape = (3 * len(numbers), 3 * len(numbers))
            yield str(name), numbers, positions, reference.reshape(shape), predicted.reshape(shape)

    def save(self, path: Path) -> PredictionFile:
        """Write all arrays to a compressed ``.npz`` file; return its name and checksum, for the record."""
        # Hessians make the bulk; float32 keeps seven digits of them.
        there = [column.name for column in fields(self) if self.n_directions.any() or column.name not in _DIRECTIONS]
        arrays = {name: getattr(self, name) for name in there}
        arrays |= {key: value.astype(np.float32) for key, value in arrays.items() if key.startswith("hessian")}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return PredictionFile.of(path)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what :meth:`save` wrote, with Hessians in single precision; nothing in the file can run code.

        Raises :class:`~hessgnn.errors.DataError` when the file is missing, damaged, lacks an array, or has one of the
        wrong shape.
        """
        hint = "run `hessgnn evaluate` on the run again"
        try:
            with zipfile.ZipFile(path):
                pass  # np.load would try to unpickle anything that is not an archive, and say so confusingly
            with np.load(path, allow_pickle=False) as archive:
                arrays = {column: archive[column] for column in _COLUMNS}
                arrays |= {name: archive[name] for name in ("group", *_DIRECTIONS) if name in archive}
                return cls(**arrays, key=str(archive["key"]) if "key" in archive else "")
        except KeyError as error:
            raise DataError(f"lacks an array ({error.args[0]})", where=path, hint=hint) from error
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError("holds no readable predictions", where=path, hint=hint) from error
        except DataError as error:
            raise DataError(error.what, where=path, hint=hint) from error


_DIRECTIONS = ("n_directions", "direction_vectors", "direction_products", "direction_weights")
_COLUMNS = tuple(column.name for column in fields(Predictions) if column.name not in ("key", "group", *_DIRECTIONS))
"""Every version saved them."""


class SavedFamilies(NamedTuple):
    """The family of each structure whose predictions were saved, and of what it was made from."""

    of: dict[str, str]
    known: bool
    """Whether families were saved; otherwise the composition stands in."""


def saved_families(path: Path) -> SavedFamilies:
    """Read the families of the structures in a file of predictions, without reading the predictions."""
    with np.load(path, allow_pickle=False) as archive:
        names, parents, n_atoms = archive["name"].tolist(), archive["parent"].tolist(), archive["n_atoms"]
        groups = archive["group"].tolist() if "group" in archive else []
        known = any(groups)
        if not known:
            parts = np.split(archive["numbers"], np.cumsum(n_atoms)[:-1])
            groups = [Symbols(numbers).get_chemical_formula() for numbers in parts]
    found = {parent: group for parent, group in zip(parents, groups, strict=True) if parent}
    return SavedFamilies(found | dict(zip(names, groups, strict=True)), known)


def zero_force_mae(path: Path) -> float | None:
    """Mean absolute error (meV/Å) that predicting no force at all has on a split, from a file of predictions."""
    with np.load(path, allow_pickle=False) as archive:
        n, forces = archive["n_atoms"], archive["forces_reference"]
    means = np.add.reduceat(np.abs(forces).sum(axis=1), np.cumsum(n) - n) / (3 * n)
    known = np.isfinite(means)
    return 1e3 * float(means[known].mean()) if known.any() else None


def mean_errors(predictions: Predictions) -> dict[str, tuple[float | None, int]]:
    """Errors of a split: each structure's mean (square) error first, then the mean over structures.

    Returns ``energy_mae``, ``energy_rmse``, … -> error in meV/atom, meV/Å and eV/Å², and the number of structures
    behind it; ``None`` where no structure has the label.
    """
    found: dict[str, tuple[float | None, int]] = {}
    for quantity in QUANTITIES:
        known, absolute, square = _errors(predictions, quantity)
        values = {"mae": absolute[known].mean(), "rmse": np.sqrt(square[known].mean())} if known.any() else {}
        for kind in ("mae", "rmse"):
            found[f"{quantity}_{kind}"] = (float(values[kind]) if values else None, int(known.sum()))
    return found


def error_values(predictions: Predictions) -> Values:
    """Mean absolute error, and root of the mean square error, of each structure that has the label.

    The names are those of :func:`mean_errors`.
    """
    found: Values = {}
    for quantity in QUANTITIES:
        known, absolute, square = _errors(predictions, quantity)
        for kind, errors in (("mae", absolute), ("rmse", np.sqrt(square))):
            pairs = zip(predictions.name[known], errors[known], strict=True)
            found[f"{quantity}_{kind}"] = {str(name): float(error) for name, error in pairs}
    return found


def pooled_values(predictions: Predictions) -> Values:
    """Contribution of each structure to the errors of arXiv 2503.07839, pooled over molecules and components.

    The root mean square of a column is the error of the split: that of the energies of whole molecules (meV), and that
    of the components of all forces (meV/Å) or Hessians (eV/Å²) together. So a large molecule weighs more than a small
    one: its root mean square error is multiplied by the root of its number of components over their mean number.
    """
    found: Values = {}
    for name, quantity in POOLED.items():
        known, _, square = _errors(predictions, quantity)
        n = predictions.n_atoms[known].astype(np.float64)
        if quantity == "energy":
            share = n**2  # from an atom to the molecule
        else:
            components = n if quantity == "forces" else n**2
            share = components / components.mean() if len(n) else components
        pairs = zip(predictions.name[known], np.sqrt(square[known] * share), strict=True)
        found[name] = {str(structure): float(error) for structure, error in pairs}
    return found


def product_values(predictions: Predictions) -> Values:
    """Error of each structure's Hessian (eV/Å²), estimated from all its stored products; structures with products only.

    It is the root of the mean of ``w ‖(H v − p) ‖²`` over the directions, over ``3N``, which estimates the root mean
    square error of the elements as the weights say.
    """
    found: dict[str, float | None] = {}
    rows = np.cumsum(predictions.n_directions * predictions.n_atoms)[:-1]
    columns = zip(
        predictions.hessians(),
        np.split(predictions.direction_vectors, rows),
        np.split(predictions.direction_products, rows),
        np.split(predictions.direction_weights, np.cumsum(predictions.n_directions)[:-1]),
        strict=True,
    )
    for (name, numbers, _, _, predicted), vectors, products, weights in columns:
        if len(weights):
            size = 3 * len(numbers)
            residual = vectors.reshape(-1, size) @ predicted.T - products.reshape(-1, size)
            found[name] = float(np.sqrt((weights * np.square(residual).sum(1)).mean())) / size
    return {PRODUCTS: found}


def curvature_values(predictions: Predictions) -> Values:
    """Compare predicted Hessians with those of the reference: each of :data:`CURVATURE`, structure by structure.

    Structures without a reference are left out, and there is ``None`` where a prediction is not finite.

    ============================ ======== ==========================================================
    ``curvature_eigenvalue_mae`` eV/Å²    of the 3N sorted eigenvalues of the symmetrised Hessian
    ``curvature_mode1_cosine``   1        |cos| of the lowest mode, mass weighted, without rigid motion
    ``curvature_mode2_cosine``   1        |cos| of the second lowest
    ``curvature_negative_same``  %        whether as many modes are below −10 cm⁻¹
    ``curvature_asymmetry``      eV/Å²    largest ``|H − Hᵀ|`` of the prediction as it was saved
    ============================ ======== ==========================================================
    """
    found: Values = {name: {} for name in CURVATURE}
    for name, numbers, positions, reference, predicted in predictions.hessians():
        if not np.isfinite(reference).all():
            continue
        there = vibrations(numbers, positions, reference)
        row: Mapping[str, float | None] = dict.fromkeys(CURVATURE)
        if np.isfinite(predicted).all():
            own = vibrations(numbers, positions, predicted)
            values = [np.linalg.eigvalsh((h + h.T) / 2) for h in (reference, predicted)]
            row = {
                "curvature_eigenvalue_mae": float(np.abs(values[1] - values[0]).mean()),
                "curvature_negative_same": 100.0 * (there.n_imaginary(NEGATIVE) == own.n_imaginary(NEGATIVE)),
                "curvature_asymmetry": float(np.abs(predicted - predicted.T).max()),
                **{f"curvature_mode{k + 1}_cosine": _cosine(there, own, k, masses_of(numbers)) for k in range(LOWEST)},
            }
        for key in CURVATURE:
            found[key][name] = row[key]
    return found


def profile_values(predictions: Predictions) -> Values:
    """Compare energy profiles path by path: metric -> name of the path's parent -> meV of the whole molecule.

    The frames of a path are those of kind ``irc`` with the same parent, in the order of their names.

    ``profile_mae`` is the mean absolute error of the energies after their mean error was taken off: an error that is
    the same all along the path changes no profile. Barriers are another task's, see
    :mod:`hessgnn.evaluation.tasks.barriers`: the frames of a path do not include its transition state.
    """
    found: Values = {name: {} for name in PROFILES}
    known = (predictions.kind == IRC) & (predictions.parent != "") & np.isfinite(predictions.energy_reference)
    for parent in sorted(set(predictions.parent[known])):
        frames = np.flatnonzero(known & (predictions.parent == parent))
        if len(frames) < FEWEST:
            continue
        frames = frames[np.argsort(predictions.name[frames], kind="stable")]
        reference = predictions.energy_reference[frames]
        errors = 1e3 * (predictions.energy_predicted[frames] - reference)
        finite = bool(np.isfinite(errors).all())
        found["profile_mae"][str(parent)] = float(np.abs(errors - errors.mean()).mean()) if finite else None
    return found


def _errors(predictions: Predictions, quantity: str) -> tuple[NDArray[np.bool_], Array, Array]:
    """Which structures have the label, and mean absolute and mean square error of each, ``(n_structures,)``."""
    n = predictions.n_atoms
    size = {"energy": np.ones_like(n), "forces": 3 * n, "hessian": 9 * n**2}[quantity]
    factor = {"energy": 1e3 / n, "forces": 1e3, "hessian": 1.0}[quantity]  # meV/atom, meV/Å, eV/Å²
    reference = getattr(predictions, f"{quantity}_reference").ravel()
    difference = (getattr(predictions, f"{quantity}_predicted").ravel() - reference) * factor
    starts = np.cumsum(size) - size
    known = np.isfinite(np.add.reduceat(reference, starts))
    return known, np.add.reduceat(np.abs(difference), starts) / size, np.add.reduceat(difference**2, starts) / size


def _cosine(reference: Vibrations, own: Vibrations, k: int, masses: Array) -> float | None:
    """Length of the own mode's projection onto the reference's mode, or onto all that are degenerate with it."""
    if len(reference.frequencies) <= k:
        return None
    same = np.abs(reference.frequencies - reference.frequencies[k]) < DEGENERATE
    overlaps = np.einsum("i,kia,ia->k", masses, reference.modes[same], own.modes[k])
    return float(np.linalg.norm(overlaps))
