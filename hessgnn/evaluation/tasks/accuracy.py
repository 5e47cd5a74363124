"""Accuracy task (T1-T3, T8): energies, forces and full Hessians of a split against the reference.

The heavy part, :func:`predict_split`, gives what is saved; :func:`metrics` needs nothing but that, so every number of
the leaderboard can be recomputed without the potential.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.evaluation.predictions import Predictions
from hessgnn.evaluation.record import METRICS, Metric
from hessgnn.evaluation.tasks.profiles import profile_values
from hessgnn.surface.base import Surface
from hessgnn.training.scaling import composition_energy

Array = NDArray[np.float64]

QUANTITIES = ("energy", "forces", "hessian")
DIAGNOSTICS = ("curvature_", "profile_")
"""Prefixes of the metrics of :mod:`~hessgnn.evaluation.tasks.curvature` and
:mod:`~hessgnn.evaluation.tasks.profiles`."""


def predict_split(
    surface: Surface, store: Store, split: str, *, observer: Callable[[int], None] | None = None
) -> Predictions:
    """Let a surface answer for every structure of a split, in float64.

    Parameters
    ----------
    surface
        What is judged.
    store
        The data.
    split
        Name of the split.
    observer
        Called with the number of structures done after each of them.

    Returns
    -------
    Predictions
        In the order of the store.
    """
    structures = [store[int(i)] for i in store.indices(split)]
    energy, forces, hessian = [], [], []
    for answer in surface.answers(structures):
        energy.append(answer.energy)
        forces.append(answer.forces)
        hessian.append(answer.hessian.ravel())
        if observer is not None:
            observer(1)
    return _assemble(structures, np.array(energy), np.concatenate(forces), np.concatenate(hessian))


def composition_only(store: Store, split: str, reference: dict[int, float]) -> Predictions:
    """The mean predictor: energy from the composition, no forces, no curvature.

    Parameters
    ----------
    store
        The data.
    split
        Name of the split.
    reference
        Energy of each element, eV, fitted to the training split.

    Returns
    -------
    Predictions
        What a potential has to beat.
    """
    structures = [store[int(i)] for i in store.indices(split)]
    energy = np.array([composition_energy(s, reference) for s in structures])
    n_atoms = np.array([len(s.numbers) for s in structures])
    return _assemble(structures, energy, np.zeros((n_atoms.sum(), 3)), np.zeros((9 * n_atoms**2).sum()))


def metrics(predictions: Predictions) -> dict[str, Metric]:
    """Errors of a split: each structure's mean (square) error first, then the mean over structures.

    Parameters
    ----------
    predictions
        Of the split.

    Returns
    -------
    dict
        For each name of :data:`~hessgnn.evaluation.record.METRICS`; ``None`` where no structure has the label.
    """
    found = {}
    for quantity in QUANTITIES:
        known, absolute, square = _errors(predictions, quantity)
        values = {"mae": absolute[known].mean(), "rmse": np.sqrt(square[known].mean())} if known.any() else {}
        for kind in ("mae", "rmse"):
            key = f"{quantity}_{kind}"
            value = float(values[kind]) if values else None
            found[key] = Metric(value=value, unit=METRICS[key][1], n=int(known.sum()))
    return found


def values(predictions: Predictions) -> dict[str, dict[str, float | None]]:
    """The numbers that two surfaces are compared by, structure by structure, or path by path.

    Those of :func:`~hessgnn.evaluation.tasks.curvature.curvature_values` are not among them: thousands of
    eigenproblems for each run, which a comparison of many runs should not wait for. They are solved once, and saved.

    Parameters
    ----------
    predictions
        Of a split.

    Returns
    -------
    dict
        Name of a metric -> name of the structure or path -> its value.
    """
    found: dict[str, dict[str, float | None]] = {}
    for quantity in QUANTITIES:
        known, absolute, square = _errors(predictions, quantity)
        for kind, errors in (("mae", absolute), ("rmse", np.sqrt(square))):
            pairs = zip(predictions.name[known], errors[known], strict=True)
            found[f"{quantity}_{kind}"] = {str(name): float(error) for name, error in pairs}
    return {**found, **profile_values(predictions)}


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


def not_finite(predictions: Predictions) -> list[str]:
    """Names of the structures for which a prediction is not a finite number: a failure of the potential.

    Parameters
    ----------
    predictions
        Of a split.

    Returns
    -------
    list of str
        In the order of the split.
    """
    n = predictions.n_atoms
    arrays = (
        (predictions.energy_predicted, np.ones_like(n)),
        (predictions.forces_predicted.ravel(), 3 * n),
        (predictions.hessian_predicted, 9 * n**2),
    )
    finite = np.ones(len(n), dtype=bool)
    for values, size in arrays:
        finite &= np.isfinite(np.add.reduceat(values, np.cumsum(size) - size))
    return [str(name) for name in predictions.name[~finite]]


def _assemble(structures: Sequence[Structure], energy: Array, forces: Array, hessian: Array) -> Predictions:
    """Put references beside predictions; where there is no label, NaN."""

    def known(value: Array | float | None, shape: tuple[int, ...]) -> Array:
        return np.full(shape, np.nan) if value is None else np.asarray(value, dtype=np.float64)

    sizes = [len(s.numbers) for s in structures]
    pairs = list(zip(structures, sizes, strict=True))
    return Predictions(
        name=np.array([s.name for s in structures]),
        kind=np.array([s.kind for s in structures]),
        parent=np.array([s.parent for s in structures]),
        n_atoms=np.array(sizes),
        numbers=np.concatenate([s.numbers for s in structures]),
        positions=np.concatenate([s.positions for s in structures]),
        energy_reference=np.array([known(s.energy, ()) for s in structures]),
        energy_predicted=energy,
        forces_reference=np.concatenate([known(s.forces, (n, 3)) for s, n in pairs]),
        forces_predicted=forces,
        hessian_reference=np.concatenate([known(s.hessian, (3 * n, 3 * n)).ravel() for s, n in pairs]),
        hessian_predicted=hessian,
    )
