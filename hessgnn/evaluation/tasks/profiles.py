"""Energy profiles along reaction paths (T8), from saved predictions."""

from __future__ import annotations

import numpy as np

from hessgnn.evaluation.predictions import Predictions
from hessgnn.evaluation.record import Metric
from hessgnn.evaluation.tasks.base import mean_metric
from hessgnn.evaluation.tasks.reactions import PATH

FEWEST = 3
"""Frames that make a path."""

Values = dict[str, dict[str, float | None]]

TITLES = {
    "profile_mae": "energy profile MAE",
    "profile_barrier_mae": "barrier MAE along the reference path",
}
"""Heading of each metric; all in meV."""


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
    found: Values = {name: {} for name in TITLES}
    known = (predictions.kind == PATH) & (predictions.parent != "") & np.isfinite(predictions.energy_reference)
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


def profile_metrics(values: Values) -> dict[str, Metric]:
    """Means over the paths of a split; no metric where there is no path.

    Parameters
    ----------
    values
        From :func:`profile_values`.

    Returns
    -------
    dict
        Under the same names.
    """
    return {
        name: mean_metric(list(values[name].values()), title, "meV") for name, title in TITLES.items() if values[name]
    }
