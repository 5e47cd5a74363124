"""Numbers from saved predictions alone: errors, curvature, and energy profiles along reaction paths.

Away from stationary points eigenvalues and modes are a diagnostic of the curvature, not frequencies.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hessgnn.data.structure import IRC, Array
from hessgnn.evaluation.predictions import Predictions
from hessgnn.molecules.vibrations import Vibrations, masses_of, vibrations

QUANTITIES = ("energy", "forces", "hessian")
CURVATURE = (
    "curvature_eigenvalue_mae",
    "curvature_mode1_cosine",
    "curvature_mode2_cosine",
    "curvature_negative_same",
    "curvature_asymmetry",
)
PROFILES = ("profile_mae", "profile_barrier_mae")

NEGATIVE = 10.0
"""cm⁻¹: modes count as negative below minus this (as in ReactBench)."""
DEGENERATE = 1.0
"""cm⁻¹: reference modes nearer than this are one, and any mode of the space that they span is as good."""
LOWEST = 2
"""Modes that are compared one by one."""
FEWEST = 3
"""Frames that make a path."""

Values = dict[str, dict[str, float | None]]
"""Name of a metric -> name of the structure or path -> its value."""


def mean_errors(predictions: Predictions) -> dict[str, tuple[float | None, int]]:
    """Errors of a split: each structure's mean (square) error first, then the mean over structures.

    Parameters
    ----------
    predictions
        Of the split.

    Returns
    -------
    dict
        ``energy_mae``, ``energy_rmse``, … -> error in meV/atom, meV/Å and eV/Å², and the number of structures behind
        it; ``None`` where no structure has the label.
    """
    found: dict[str, tuple[float | None, int]] = {}
    for quantity in QUANTITIES:
        known, absolute, square = _errors(predictions, quantity)
        values = {"mae": absolute[known].mean(), "rmse": np.sqrt(square[known].mean())} if known.any() else {}
        for kind in ("mae", "rmse"):
            found[f"{quantity}_{kind}"] = (float(values[kind]) if values else None, int(known.sum()))
    return found


def error_values(predictions: Predictions) -> Values:
    """Mean absolute error, and root of the mean square error, of each structure.

    Parameters
    ----------
    predictions
        Of a split.

    Returns
    -------
    dict
        Under the names of :func:`mean_errors`; structures without the label are left out.
    """
    found: Values = {}
    for quantity in QUANTITIES:
        known, absolute, square = _errors(predictions, quantity)
        for kind, errors in (("mae", absolute), ("rmse", np.sqrt(square))):
            pairs = zip(predictions.name[known], errors[known], strict=True)
            found[f"{quantity}_{kind}"] = {str(name): float(error) for name, error in pairs}
    return found


def curvature_values(predictions: Predictions) -> Values:
    """Compare the predicted Hessians with those of the reference, structure by structure.

    Parameters
    ----------
    predictions
        Of a split.

    Returns
    -------
    dict
        For each of :data:`CURVATURE`; structures without a reference are left out, and there is ``None`` where a
        prediction is not finite.

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
    """Compare energy profiles path by path.

    The frames of a path are those of kind ``irc`` with the same parent, in the order of their names.

    Parameters
    ----------
    predictions
        Of a split.

    Returns
    -------
    dict
        Name of a metric -> name of the path's parent -> value, meV (of whole molecules, not per atom).

        ======================= ===========================================================================
        ``profile_mae``         mean absolute error of the energies after their mean error was taken off: an
                                error that is the same all along the path changes no profile
        ``profile_barrier_mae`` absolute error of the difference between the reference's highest frame and
                                the first one
        ======================= ===========================================================================
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
        top = int(np.argmax(reference))
        finite = bool(np.isfinite(errors).all())
        found["profile_mae"][str(parent)] = float(np.abs(errors - errors.mean()).mean()) if finite else None
        found["profile_barrier_mae"][str(parent)] = float(abs(errors[top] - errors[0])) if finite else None
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
