"""Accuracy task (T1-T3): energies, forces and full Hessians of a split against the reference.

What is saved are the predictions, so every number can be recomputed without the potential, see
:mod:`hessgnn.evaluation.predictions`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hessgnn.data.store.store import Store
from hessgnn.data.structure import IRC
from hessgnn.errors import DataError, UserError
from hessgnn.evaluation.predictions import (
    CURVATURE,
    PRODUCTS,
    Predictions,
    curvature_values,
    error_values,
    mean_errors,
    pooled_values,
    product_values,
    profile_values,
)
from hessgnn.evaluation.record import Metric, PredictionFile, Values, read_journal, write_results
from hessgnn.evaluation.tasks.base import Claim, MetricDefinition, SplitContext, SplitResults, Task, task
from hessgnn.evaluation.tasks.subjects import take_turns
from hessgnn.runtime.config import Settings
from hessgnn.runtime.machine import one_blas_thread
from hessgnn.surface.base import Surface
from hessgnn.training.run import versions

METRICS: dict[str, tuple[str, str]] = {
    "energy_mae": ("E MAE", "meV/atom"),
    "energy_rmse": ("E RMSE", "meV/atom"),
    "forces_mae": ("F MAE", "meV/Å"),
    "forces_rmse": ("F RMSE", "meV/Å"),
    "hessian_mae": ("H MAE", "eV/Å²"),
    "hessian_rmse": ("H RMSE", "eV/Å²"),
}
"""Title and unit of the errors; lower is better."""
BY_PRODUCTS = ("H RMSE from products", "eV/Å²")
"""Title and unit of :data:`~hessgnn.evaluation.predictions.PRODUCTS`."""
PHL = "arXiv 2603.04523"
"""Projected Hessian learning: what it says of E-F-H and the study (arXiv 2503.07839) does not."""

POOLED: dict[str, tuple[str, str]] = {
    "energy_rmse_molecule": ("E RMSE per molecule", "meV"),
    "forces_rmse_pooled": ("F RMSE over all components", "meV/Å"),
    "hessian_rmse_pooled": ("H RMSE over all components", "eV/Å²"),
}
"""The same of the errors as arXiv 2503.07839 reports them, see
:func:`~hessgnn.evaluation.predictions.pooled_values`."""


@task("accuracy")
class AccuracyTask(Task[Settings, int]):
    """Predictions of a split, or of a fixed sample of it, and the numbers that follow from them.

    The curvature of each structure is saved beside the predictions: thousands of eigenproblems for each run, which a
    comparison of many runs should not wait for.
    """

    title = "Accuracy"
    caption = "Errors of energies, forces and Hessians, of curvature, and of energy profiles along paths."
    order = 0
    needs = "structure"
    fails_record = True
    without_results = "ratios of its curvature have no interval"
    definitions = {  # noqa: RUF012
        **{
            name: MetricDefinition(title, unit, root_mean_square=name.endswith("rmse"))
            for name, (title, unit) in METRICS.items()
        },
        **{name: MetricDefinition(title, unit, root_mean_square=True) for name, (title, unit) in POOLED.items()},
        PRODUCTS: MetricDefinition(*BY_PRODUCTS, root_mean_square=True),
        "curvature_eigenvalue_mae": MetricDefinition("Hessian eigenvalue MAE", "eV/Å²"),
        "curvature_mode1_cosine": MetricDefinition("|cos| of the lowest mode", "1", "higher", worst=0.0),
        "curvature_mode2_cosine": MetricDefinition("|cos| of the second lowest mode", "1", "higher", worst=0.0),
        "curvature_negative_same": MetricDefinition("same number of negative modes", "%", "higher", worst=0.0),
        "curvature_asymmetry": MetricDefinition("largest |H − Hᵀ|", "eV/Å²"),
        "profile_mae": MetricDefinition("energy profile MAE", "meV"),
    }
    claims = (
        Claim("Hessians of new molecules are better", "hessian_mae", "test", "T1"),
        Claim("energies of new molecules are better", "energy_mae", "test", PHL),
        Claim("they carry further along reaction paths", "hessian_mae", "irc", "T2"),
        Claim("forces along reaction paths are better", "forces_mae", "irc"),
        Claim("energies along reaction paths are better", "energy_mae", "irc", PHL),
        Claim("they carry further off the paths", "hessian_mae", "nms", "T3"),
        Claim("forces off the paths are better", "forces_mae", "nms", "T3"),
        Claim("energies off the paths are better", "energy_mae", "nms", "T3"),
    )

    def subjects(self, store: Store, split: str) -> list[int]:
        """See :meth:`.Task.subjects`: indices into the store, so that it is read only where predictions are missing."""
        return [int(i) for i in store.indices(split)]

    def evaluate(self, subjects: Sequence[int], context: SplitContext) -> SplitResults:
        """See :meth:`.Task.evaluate`; a prediction that is not finite fails the record."""
        split, source = context.split, context.source
        chosen = sampled(context.store, split, context.sample)
        made_of = [context.surface.fingerprint, split, source.content_hash, source.split_hash, versions()]
        key = json.dumps(made_of if len(chosen) == len(subjects) else [*made_of, {"sample": context.sample}])
        path, curvature_path = context.folder / f"predictions-{split}.npz", context.folder / f"curvature-{split}.jsonl"
        with one_blas_thread():
            predictions = _saved_predictions(path, key)
            if predictions is None:
                try:
                    made = predict_split(
                        context.surface, context.store, split, context.sample, observer=context.progress
                    )
                except UserError as error:
                    return SplitResults(reason=f"no predictions for {split!r}: {error}")
                replace(made, key=key).save(path)
                predictions = Predictions.load(path)  # numbers are those of the file, whenever they are computed
            else:
                context.progress(len(chosen), len(chosen))
            saved = PredictionFile.of(path)
            if bad := predictions.not_finite():
                reason = f"predictions are not finite for {len(bad)} structures of {split!r}, first {bad[0]!r}"
                return SplitResults(predictions=saved, reason=reason)
            curvature = _saved_curvature(curvature_path, key)
            if curvature is None:
                curvature = curvature_values(predictions)
                save_curvature(curvature, curvature_path, key)
            metrics = self.metrics(predictions, curvature)
        return SplitResults(metrics, results=PredictionFile.of(curvature_path), predictions=saved)

    def metrics(self, predictions: Predictions, curvature: Values) -> dict[str, Metric]:
        """Metrics of a split from its predictions and their curvature; those of paths only where there is a path."""
        profiles = {name: values for name, values in profile_values(predictions).items() if values}
        means = {name: self.mean(name, list(values.values())) for name, values in (curvature | profiles).items()}
        return error_metrics(predictions) | means

    @classmethod
    def saved_values(cls, results: Path | None, predictions: Path | None = None) -> Values:
        """See :meth:`.Task.saved_values`; those of the curvature are not computed where they were not saved."""
        found: Values = {}
        if predictions is not None:
            loaded = Predictions.load(predictions)
            found = {**error_values(loaded), **pooled_values(loaded), **profile_values(loaded)}
            found |= product_values(loaded)
        return found if results is None else {**found, **read_curvature(results)}


def error_metrics(predictions: Predictions) -> dict[str, Metric]:
    """Errors of energies, forces and Hessians, see :func:`~hessgnn.evaluation.predictions.mean_errors`.

    Those of :data:`POOLED` are there for each label that a structure of the split has, and the estimate from products
    where one has products.
    """
    errors = {
        name: Metric(value=value, unit=METRICS[name][1], n=n) for name, (value, n) in mean_errors(predictions).items()
    }
    for name, values in (pooled_values(predictions) | product_values(predictions)).items():
        if values:
            title, unit = BY_PRODUCTS if name == PRODUCTS else POOLED[name]
            value = float(np.sqrt(np.mean(np.square(np.array(list(values.values()), dtype=np.float64)))))
            errors[name] = Metric(value=value, unit=unit, n=len(values), title=title)
    return errors


def sampled(store: Store, split: str, number: int | None) -> list[int]:
    """Choose the structures of a split that are predicted, the same for every potential.

    Families (:attr:`.Store.groups`) take turns, so that each has about as many structures in the sample as any other.
    Reaction paths are whole: a profile needs all of its frames.

    Parameters
    ----------
    number
        Most structures; the whole split if it has no more, or if absent.

    Returns
    -------
    list of int
        Indices into the store, ascending.
    """
    indices = [int(i) for i in store.indices(split)]
    if number is None or len(indices) <= number:
        return indices
    members: dict[str, list[int]] = {}  # of a path, or of a structure by itself
    for i in indices:
        whole = store.parents[i] if store.kinds[i] == IRC else ""
        members.setdefault(f"path {whole}" if whole else store.names[i], []).append(i)
    names = list(members)
    found: list[int] = []
    for k in take_turns(names, [store.groups[members[name][0]] for name in names]):
        if len(found) + len(members[names[k]]) <= number:
            found += members[names[k]]
    return sorted(found) or indices[:number]  # the latter where every path is longer than the sample


def predict_split(
    surface: Surface,
    store: Store,
    split: str,
    sample: int | None = None,
    *,
    observer: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Predict the structures of a split, or of a sample of it, in float64 and in the order of the store.

    ``sample`` is that of :func:`sampled`. ``observer`` is invoked after each structure, with the number of structures
    done and their total.
    """
    structures = [store[i] for i in sampled(store, split, sample)]
    return Predictions.of(structures, surface.answers(structures), observer)


def save_curvature(values: Values, path: Path, key: str) -> None:
    """Write what :func:`~hessgnn.evaluation.predictions.curvature_values` gave, a line for each structure.

    ``key`` says what it was computed from, as in the predictions.
    """
    names = next(iter(values.values()))
    results = {name: {metric: column[name] for metric, column in values.items()} for name in names}
    write_results(path, {"task": AccuracyTask.name, "made_of": key}, results)


def read_curvature(path: Path, key: str | None = None) -> Values:
    """Read what :func:`save_curvature` wrote.

    Raises :class:`~hessgnn.errors.DataError` when the file is missing, holds no results, or has another key than the
    one given.
    """
    head, results = read_journal(path)
    if key is not None and head.get("made_of") != key:
        raise DataError("holds the curvature of other predictions", where=path)
    return {metric: {name: row.get(metric) for name, row in results.items()} for metric in CURVATURE}


def _saved_predictions(path: Path, key: str) -> Predictions | None:
    """What an earlier evaluation of the same surface, data and versions saved."""
    try:
        found = Predictions.load(path)
    except DataError:
        return None
    return found if found.key == key else None


def _saved_curvature(path: Path, key: str) -> Values | None:
    try:
        return read_curvature(path, key)
    except DataError:
        return None
