"""Curvature of a split: eigenvalues, lowest modes and negative modes of predicted Hessians, from saved predictions.

Away from stationary points these are a diagnostic of the curvature, not frequencies.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hessgnn.data.structure import Array
from hessgnn.evaluation.journal import read_results, write_results
from hessgnn.evaluation.predictions import Predictions
from hessgnn.evaluation.record import Metric
from hessgnn.evaluation.tasks.base import mean_metric
from hessgnn.molecules.vibrations import Vibrations, masses_of, vibrations

NEGATIVE = 10.0
"""cm⁻¹: modes count as negative below minus this (as in ReactBench)."""
DEGENERATE = 1.0
"""cm⁻¹: reference modes nearer than this are one, and any mode of the space that they span is as good."""
LOWEST = 2
"""Modes that are compared one by one."""

Values = dict[str, dict[str, float | None]]


def curvature_values(predictions: Predictions) -> Values:
    """Compare the predicted Hessians with those of the reference, structure by structure.

    Parameters
    ----------
    predictions
        Of a split.

    Returns
    -------
    dict
        Name of a metric -> name of the structure -> value; structures without a reference are left out, and there is
        ``None`` where a prediction is not finite.

        ============================ ======== ==========================================================
        ``curvature_eigenvalue_mae`` eV/Å²    of the 3N sorted eigenvalues of the symmetrised Hessian
        ``curvature_mode1_cosine``   1        |cos| of the lowest mode, mass weighted, without rigid motion
        ``curvature_mode2_cosine``   1        |cos| of the second lowest
        ``curvature_negative_same``  %        whether as many modes are below −10 cm⁻¹
        ``curvature_asymmetry``      eV/Å²    largest ``|H − Hᵀ|`` of the prediction as it was saved
        ============================ ======== ==========================================================
    """
    found: Values = {name: {} for name in TITLES}
    for name, numbers, positions, reference, predicted in predictions.hessians():
        if not np.isfinite(reference).all():
            continue
        there = vibrations(numbers, positions, reference)
        row: Mapping[str, float | None] = dict.fromkeys(TITLES)
        if np.isfinite(predicted).all():
            own = vibrations(numbers, positions, predicted)
            values = [np.linalg.eigvalsh((h + h.T) / 2) for h in (reference, predicted)]
            row = {
                "curvature_eigenvalue_mae": float(np.abs(values[1] - values[0]).mean()),
                "curvature_negative_same": 100.0 * (there.n_imaginary(NEGATIVE) == own.n_imaginary(NEGATIVE)),
                "curvature_asymmetry": float(np.abs(predicted - predicted.T).max()),
                **{f"curvature_mode{k + 1}_cosine": _cosine(there, own, k, masses_of(numbers)) for k in range(LOWEST)},
            }
        for key in TITLES:
            found[key][name] = row[key]
    return found


TITLES: dict[str, tuple[str, str, bool]] = {
    "curvature_eigenvalue_mae": ("Hessian eigenvalue MAE", "eV/Å²", False),
    "curvature_mode1_cosine": ("|cos| of the lowest mode", "1", True),
    "curvature_mode2_cosine": ("|cos| of the second lowest mode", "1", True),
    "curvature_negative_same": ("same number of negative modes", "%", True),
    "curvature_asymmetry": ("largest |H − Hᵀ|", "eV/Å²", False),
}
"""Heading and unit of each metric, and whether higher is better."""


def curvature_metrics(values: Values) -> dict[str, Metric]:
    """Means over the structures of a split.

    Parameters
    ----------
    values
        From :func:`curvature_values`.

    Returns
    -------
    dict
        Under the same names.
    """
    return {
        name: mean_metric(list(values[name].values()), title, unit, better="higher" if higher else "lower")
        for name, (title, unit, higher) in TITLES.items()
    }


def save_curvature(values: Values, path: Path, key: str) -> None:
    """Write what :func:`curvature_values` found, a line for each structure.

    Parameters
    ----------
    values
        Of a split.
    path
        The file.
    key
        What they were made of, as in the predictions.
    """
    names = next(iter(values.values()))
    results = {name: {metric: column[name] for metric, column in values.items()} for name in names}
    write_results(path, {"task": "accuracy", "made_of": key}, results)


def read_curvature(path: Path) -> Values:
    """Read what :func:`save_curvature` wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        See :func:`curvature_values`.

    Raises
    ------
    DataError
        When the file is missing or holds no results.
    """
    results = read_results(path)
    return {metric: {name: row.get(metric) for name, row in results.items()} for metric in TITLES}


def _cosine(reference: Vibrations, own: Vibrations, k: int, masses: Array) -> float | None:
    """Length of the own mode's projection onto the reference's mode, or onto all that are degenerate with it."""
    if len(reference.frequencies) <= k:
        return None
    same = np.abs(reference.frequencies - reference.frequencies[k]) < DEGENERATE
    overlaps = np.einsum("i,kia,ia->k", masses, reference.modes[same], own.modes[k])
    return float(np.linalg.norm(overlaps))
