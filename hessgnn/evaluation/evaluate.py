"""From a finished run to its record: run the tasks, save what they need, write down what it cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hessgnn.data.store.splits import DISJOINT
from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError, DataError
from hessgnn.evaluation.hardware import hardware
from hessgnn.evaluation.judge import Observer, Verdict, judge
from hessgnn.evaluation.record import Budget, Cost, CurvePoint, DataSource, Record, read_record, write_record
from hessgnn.evaluation.tasks import accuracy
from hessgnn.evaluation.tasks.registry import ACCURACY, TaskSettings, chosen_tasks
from hessgnn.surface.base import PotentialSurface, Surface, surface_from_import_path
from hessgnn.training.config import DataConfig, RunConfig
from hessgnn.training.regimes import Regime
from hessgnn.training.run import Point, Run, load, load_checkpoint, versions
from hessgnn.training.scaling import fit_reference_energies

DEFAULT = (ACCURACY,)
"""Tasks that are run when none is named: the others take minutes rather than seconds."""


def evaluate(
    folder: str | Path,
    *,
    tasks: Sequence[str] = DEFAULT,
    splits: Sequence[str] | None = None,
    device: str = "cpu",
    sweep: Cost | None = None,
    settings: TaskSettings | None = None,
    data: str | Path | None = None,
    regime: Regime | None = None,
    budget: Budget = "steps",
    processes: int = 1,
    observer: Observer | None = None,
) -> Record:
    """Judge the best potential of a run and write ``record.json`` with the results beside it.

    What the record says already of the same weights, data and versions is kept, and what is saved is not computed
    again, so tasks can be added one after the other, and a killed evaluation goes on where it stopped.

    Parameters
    ----------
    folder
        The run folder.
    tasks
        Names from :data:`~hessgnn.evaluation.tasks.registry.TASKS`.
    splits
        Splits to judge on; by default all but those the run was trained and selected on.
    device
        Where to compute.
    sweep
        What a sweep spent on tuning before this run: its trials and their device-seconds.
    settings
        Of the tasks.
    data
        Data to judge on, by file or name; those the run was trained on by default.
    regime
        What it was trained on, where the loss does not tell; what the loss saw by default.
    budget
        What it shares with the other regimes of its architecture: steps, or the device-seconds of E-F-H.
    processes
        That tasks on single molecules and reactions are divided between.
    observer
        Told of the progress.

    Returns
    -------
    Record
        What was written. Its status is ``failed``, with the reason, when a prediction is not finite.

    Raises
    ------
    UserError
        When the folder holds no finished run, or a name is unknown.
    """
    names = chosen_tasks(tasks)
    run = Run(Path(folder))
    config = run.config()
    potential = load(run.folder, device)
    parameters = potential.n_parameters()
    surface = PotentialSurface(potential, config.entry, batch_size=config.validation.batch_size, device=device)
    store = Store.open(data or config.data.path)
    chosen = _splits(store, splits, (config.data.train, config.data.validation))
    verdict = judge(
        surface,
        store,
        chosen,
        run.folder,
        names,
        settings or TaskSettings(),
        source(store),
        verdict=_known(run.record, surface, store),
        all_splits=splits is not None,
        processes=processes,
        observer=observer,
    )
    record = Record(
        **_identity(config, regime, budget),
        **_findings(verdict, surface, store),
        parameters=parameters,
        cost=_cost(run, sweep),
        curve=[_curve_point(point) for point in run.curve()],
    )
    write_record(record, run.record)
    return record


def evaluate_calculator(
    import_path: str,
    data: str | Path,
    folder: str | Path,
    *,
    tasks: Sequence[str] = DEFAULT,
    splits: Sequence[str] | None = None,
    settings: TaskSettings | None = None,
    processes: int = 1,
    observer: Observer | None = None,
) -> Record:
    """Judge any ASE calculator in the same way, and write its record.

    Parameters
    ----------
    import_path
        ``module:factory``, see :func:`~hessgnn.surface.base.surface_from_import_path`.
    data
        File or name of the data.
    folder
        Where record and results go.
    tasks, splits, settings, processes, observer
        See :func:`evaluate`.

    Returns
    -------
    Record
        What was written.

    Raises
    ------
    UserError
        When the calculator cannot be made, or a name is unknown.
    """
    names = chosen_tasks(tasks)
    surface = surface_from_import_path(import_path)
    store, path = Store.open(data), Path(folder) / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    verdict = judge(
        surface,
        store,
        _splits(store, splits, ()),
        path.parent,
        names,
        settings or TaskSettings(),
        source(store),
        verdict=_known(path, surface, store),
        all_splits=splits is not None,
        processes=processes,
        observer=observer,
    )
    record = Record(
        **_findings(verdict, surface, store),
        entry=surface.name,
        architecture=surface.name,
        regime="external",
        seed=None,
        parameters=0,
        cost=Cost(),
        weights={},
    )
    write_record(record, path)
    return record


def record_failure(
    folder: str | Path,
    config: RunConfig,
    reason: str,
    sweep: Cost | None = None,
    *,
    data: str | Path | None = None,
    regime: Regime | None = None,
    budget: Budget = "steps",
) -> Record:
    """Write the record of a run that failed, so that it is counted and not forgotten.

    Parameters
    ----------
    folder
        The run folder.
    config
        What was tried.
    reason
        Why it failed.
    sweep, data, regime, budget
        See :func:`evaluate`.

    Returns
    -------
    Record
        What was written.
    """
    run = Run(Path(folder))
    record = Record(
        **_identity(config, regime, budget),
        status="failed",
        reason=reason,
        parameters=config.potential_class()(config.potential_config()).n_parameters(),
        data=source(Store.open(data or config.data.path)),
        cost=_cost(run, sweep),
        metrics={},
        curve=[_curve_point(point) for point in run.curve()],
        versions=versions(),
        hardware=hardware(),
    )
    write_record(record, run.record)
    return record


def record_mean_predictor(folder: str | Path, data: DataConfig, splits: Sequence[str] | None = None) -> Record:
    """Judge the predictor that knows the composition only, the floor of every leaderboard.

    Parameters
    ----------
    folder
        Where the record goes.
    data
        The data, and its training split for the reference energies.
    splits
        See :func:`evaluate`.

    Returns
    -------
    Record
        What was written.
    """
    folder = Path(folder)
    store = Store.open(data.path)
    train = store.indices(data.train)
    reference = data.reference_energies or fit_reference_energies(store, train, store.elements())
    metrics, files = {}, {}
    for split in _splits(store, splits, (data.train, data.validation)):
        predictions = accuracy.composition_only(store, split, reference)
        files[split] = predictions.save(folder / f"predictions-{split}.npz")
        metrics[split] = accuracy.metrics(predictions)
    record = Record(
        entry="mean predictor",
        architecture="mean predictor",
        regime="mean",
        seed=None,
        status="ok",
        parameters=0,
        data=source(store),
        cost=Cost(),
        weights={},
        metrics=metrics,
        predictions=files,
        versions=versions(),
        hardware=hardware(),
    )
    write_record(record, folder / "record.json")
    return record


def source(store: Store) -> DataSource:
    """What a record says of the data."""
    attributes = store.attributes
    return DataSource(
        name=store.path.stem,
        content_hash=attributes.content_hash,
        split_hash=attributes.split_hash,
        level_of_theory=attributes.level_of_theory,
    )


def _known(path: Path, surface: Surface, store: Store) -> Verdict:
    """What an earlier record says of the same surface, data and versions."""
    try:
        before = read_record(path)
    except DataError:  # none, or a damaged one, which is written anew
        return Verdict()
    same = (before.fingerprint, before.data, before.versions) == (surface.fingerprint, source(store), versions())
    return Verdict.of(before) if same else Verdict()


def _findings(verdict: Verdict, surface: Surface, store: Store) -> dict[str, Any]:
    return {
        "status": "ok" if verdict.reason is None else "failed",
        "reason": verdict.reason,
        "data": source(store),
        "metrics": verdict.metrics,
        "predictions": verdict.predictions,
        "results": verdict.results,
        "failures": verdict.failures,
        "fingerprint": surface.fingerprint,
        "versions": versions(),
        "hardware": hardware(),
    }


def _splits(store: Store, wanted: Sequence[str] | None, used: Sequence[str]) -> list[str]:
    if wanted is None:
        found = [split for split in store.splits if split not in (*used, *DISJOINT[:2])]
        if not found:
            raise ConfigError(
                "the data has no split to judge on", where=store.path, remedy="add one with `hessgnn data split`"
            )
        return found
    for split in wanted:
        store.indices(split)  # says what is wrong with an unknown name
    return list(wanted)


def _identity(config: RunConfig, regime: Regime | None, budget: Budget) -> dict[str, Any]:
    return {
        "entry": config.entry,
        "architecture": config.potential["name"],
        "regime": regime or config.loss.regime,
        "budget": budget,
        "seed": config.training.seed,
        "weights": {"energy": 1.0, "forces": config.loss.forces, "hessian": config.loss.hessian},
        "config": config.model_dump(mode="json"),
    }


def _cost(run: Run, sweep: Cost | None) -> Cost:
    spent = sweep or Cost()
    if not run.last.exists():
        return Cost(sweep_trials=spent.sweep_trials, sweep_device_seconds=spent.sweep_device_seconds)
    progress = load_checkpoint(run.last)["progress"]
    seconds, config = progress["seconds_per_step"], run.config()
    per_step = statistics.median(seconds) if seconds else None
    epoch = math.ceil(len(Store.open(config.data.path).indices(config.data.train)) / config.training.batch_size)
    return Cost(
        steps=progress["step"],
        device=progress["device"],
        threads=progress["threads"],
        seconds_per_step=per_step,
        seconds_per_epoch=None if per_step is None else per_step * epoch,
        device_seconds=progress["device_seconds"],
        products=progress["products"],
        sweep_trials=spent.sweep_trials,
        sweep_device_seconds=spent.sweep_device_seconds,
    )


def _curve_point(point: Point) -> CurvePoint:
    def scaled(value: float | None, factor: float) -> float | None:
        return None if value is None else value * factor

    return CurvePoint(
        step=point.step,
        device_seconds=point.device_seconds,
        score=point.score,
        energy_rmse=scaled(point.energy_rmse, 1e3),
        forces_rmse=scaled(point.forces_rmse, 1e3),
        hessian_rmse=point.hessian_rmse,
    )
