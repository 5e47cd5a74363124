"""Accuracy task: energies, forces and full Hessians of a split against the reference.

The heavy part, :func:`predict_split`, gives what is saved; :func:`metrics` needs nothing but that, so every number of
the leaderboard can be recomputed without the potential.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hessgnn.benchmark.predictions import Predictions
from hessgnn.benchmark.record import METRICS, Metric
from hessgnn.benchmark.surface import Surface
from hessgnn.data.store import Store
from hessgnn.data.structure import Structure
from hessgnn.training.scaling import composition_energy

Array = NDArray[np.float64]


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
        For each name of :data:`~hessgnn.benchmark.record.METRICS`; ``None`` where no structure has the label.
    """
    sizes = {"energy": np.ones_like(predictions.n_atoms), "forces": 3 * predictions.n_atoms}
    sizes["hessian"] = 9 * predictions.n_atoms**2
    factors = {"energy": 1e3 / predictions.n_atoms, "forces": 1e3, "hessian": 1.0}  # meV/atom, meV/Å, eV/Å²
    found = {}
    for name, size in sizes.items():
        reference = getattr(predictions, f"{name}_reference").ravel()
        difference = (getattr(predictions, f"{name}_predicted").ravel() - reference) * factors[name]
        starts = np.cumsum(size) - size
        known = np.isfinite(np.add.reduceat(reference, starts))
        absolute = (np.add.reduceat(np.abs(difference), starts) / size)[known]
        square = (np.add.reduceat(np.square(difference), starts) / size)[known]
        values = {"mae": absolute.mean(), "rmse": np.sqrt(square.mean())} if known.any() else {}
        for kind in ("mae", "rmse"):
            key = f"{name}_{kind}"
            value = float(values[kind]) if values else None
            found[key] = Metric(value=value, unit=METRICS[key][1], n=int(known.sum()))
    return found


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
        n_atoms=np.array(sizes),
        energy_reference=np.array([known(s.energy, ()) for s in structures]),
        energy_predicted=energy,
        forces_reference=np.concatenate([known(s.forces, (n, 3)) for s, n in pairs]),
        forces_predicted=forces,
        hessian_reference=np.concatenate([known(s.hessian, (3 * n, 3 * n)).ravel() for s, n in pairs]),
        hessian_predicted=hessian,
    )
