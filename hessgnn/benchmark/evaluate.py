"""From a finished run to its record: run the tasks, save what they need, write down what it cost."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hessgnn.benchmark import accuracy
from hessgnn.benchmark.record import Cost, CurvePoint, DataSource, Metric, PredictionFile, Record, write_record
from hessgnn.data.splits import DISJOINT
from hessgnn.data.store import Store
from hessgnn.errors import ConfigError, did_you_mean
from hessgnn.training.config import DataConfig, RunConfig
from hessgnn.training.run import Point, Run, load, load_checkpoint, versions
from hessgnn.training.scaling import fit_reference_energies

TASKS = ("accuracy",)
"""Names of the tasks, one module each."""

Observer = Callable[[str, int, int], None]
"""Called with a split, the number of its structures done, and their total."""


def evaluate(
    folder: str | Path,
    *,
    tasks: Sequence[str] = TASKS,
    splits: Sequence[str] | None = None,
    device: str = "cpu",
    sweep: Cost | None = None,
    observer: Observer | None = None,
) -> Record:
    """Judge the best potential of a run and write ``record.json`` with the predictions beside it.

    Parameters
    ----------
    folder
        The run folder.
    tasks
        Names from :data:`TASKS`.
    splits
        Splits to predict; by default all but those the run was trained and selected on.
    device
        Where to compute.
    sweep
        What a sweep spent on tuning before this run: its trials and their device-seconds.
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
    for task in tasks:
        if task not in TASKS:
            raise ConfigError("no such task", where=task, remedy=did_you_mean(task, TASKS))
    run = Run(Path(folder))
    config = run.config()
    potential = load(run.folder, device)
    parameters = potential.n_parameters()
    store = Store.open(config.data.path)
    metrics: dict[str, dict[str, Metric]] = {}
    files: dict[str, PredictionFile] = {}
    reason = None
    for split in _splits(store, splits, config.data):
        total = store.splits[split]
        done = 0

        def advance(n: int, split: str = split, total: int = total) -> None:
            nonlocal done
            done += n
            if observer is not None:
                observer(split, done, total)

        predictions = accuracy.predict_split(
            potential, store, split, batch_size=config.validation.batch_size, device=device, observer=advance
        )
        files[split] = predictions.save(run.folder / f"predictions-{split}.npz")
        bad = accuracy.not_finite(predictions)
        if bad:
            reason = f"predictions are not finite for {len(bad)} structures of {split!r}, first {bad[0]!r}"
            continue
        metrics[split] = accuracy.metrics(predictions)
    record = Record(
        **_identity(config),
        status="ok" if reason is None else "failed",
        reason=reason,
        parameters=parameters,
        data=source(store),
        cost=_cost(run, sweep),
        metrics=metrics,
        curve=[_curve_point(point) for point in run.curve()],
        predictions=files,
        versions=versions(),
        hardware=hardware(),
    )
    write_record(record, run.record)
    return record


def record_failure(folder: str | Path, config: RunConfig, reason: str, sweep: Cost | None = None) -> Record:
    """Write the record of a run that failed, so that it is counted and not forgotten.

    Parameters
    ----------
    folder
        The run folder.
    config
        What was tried.
    reason
        Why it failed.
    sweep
        See :func:`evaluate`.

    Returns
    -------
    Record
        What was written.
    """
    run = Run(Path(folder))
    record = Record(
        **_identity(config),
        status="failed",
        reason=reason,
        parameters=config.potential_class()(config.potential_config()).n_parameters(),
        data=source(Store.open(config.data.path)),
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
    train = [store[int(i)] for i in store.indices(data.train)]
    reference = data.reference_energies or fit_reference_energies(train, store.elements())
    metrics, files = {}, {}
    for split in _splits(store, splits, data):
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


def hardware() -> str:
    """The processor and, where there is one, the GPU."""
    names = [_processor()]
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return ", ".join(names)


def _splits(store: Store, wanted: Sequence[str] | None, data: DataConfig) -> list[str]:
    if wanted is None:
        found = [split for split in store.splits if split not in (data.train, data.validation, *DISJOINT[:2])]
        if not found:
            raise ConfigError(
                "the data has no split to judge on", where=store.path, remedy="add one with `hessgnn data split`"
            )
        return found
    for split in wanted:
        store.indices(split)  # says what is wrong with an unknown name
    return list(wanted)


def _identity(config: RunConfig) -> dict[str, Any]:
    return {
        "entry": config.entry,
        "architecture": config.potential["name"],
        "regime": config.loss.regime,
        "seed": config.training.seed,
        "weights": {"energy": 1.0, "forces": config.loss.forces, "hessian": config.loss.hessian},
        "config": config.model_dump(mode="json"),
    }


def _cost(run: Run, sweep: Cost | None) -> Cost:
    spent = sweep or Cost()
    if not run.last.exists():
        return Cost(sweep_trials=spent.sweep_trials, sweep_device_seconds=spent.sweep_device_seconds)
    progress = load_checkpoint(run.last)["progress"]
    seconds = progress["seconds_per_step"]
    return Cost(
        steps=progress["step"],
        device=progress["device"],
        threads=progress["threads"],
        seconds_per_step=statistics.median(seconds) if seconds else None,
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


def _processor() -> str:
    """Model of the processor; the platform's own word where Linux does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
