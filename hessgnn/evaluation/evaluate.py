"""From a finished run to its record: run the tasks, save their results, and record what it cost."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from hessgnn.data.store.splits import is_held_out
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, DataError
from hessgnn.evaluation.predictions import Predictions
from hessgnn.evaluation.record import Budget, Cost, CurvePoint, DataSource, Record, Start, read_record, write_record
from hessgnn.evaluation.run import (
    DEFAULT_TASKS,
    SAMPLE,
    ProgressCallback,
    TaskResults,
    TaskSettings,
    chosen_tasks,
    run_tasks,
)
from hessgnn.evaluation.tasks.accuracy import error_metrics, sampled
from hessgnn.evaluation.trained_on import at_own_level, sources_of, used_splits, without_energies
from hessgnn.potentials.saved import load
from hessgnn.runtime.machine import hardware
from hessgnn.surface.base import Answer, Surface
from hessgnn.surface.calculator import surface_from_import_path
from hessgnn.surface.potential import PotentialSurface
from hessgnn.training.config import RunConfig
from hessgnn.training.curvature_labels import epoch_steps
from hessgnn.training.data_config import DataConfig
from hessgnn.training.references import composition_energy, fit_reference_energies
from hessgnn.training.regimes import Regime
from hessgnn.training.run import Run, ValidationPoint, versions


def evaluate(
    folder: str | Path,
    *,
    tasks: Sequence[str] = DEFAULT_TASKS,
    splits: Sequence[str] | None = None,
    device: str = "cpu",
    sweep: Cost | None = None,
    settings: TaskSettings | None = None,
    data: str | Path | None = None,
    regime: Regime | None = None,
    budget: Budget | None = None,
    demonstration: bool | None = None,
    processes: int = 1,
    observer: ProgressCallback | None = None,
    trust: bool = False,
) -> Record:
    """Evaluate the best potential of a run and write ``record.json`` with the results beside it.

    Saved results of the same weights, data and versions are reused, so tasks can be added one after the other, and
    rerunning an interrupted evaluation resumes it.

    Parameters
    ----------
    folder
        The run folder.
    tasks
        Names of tasks, ``package.module:Name`` for one of your own, or ``all``.
    splits
        Splits to evaluate on; by default all but those the run was trained and selected on, in any of its stores.
    device
        Where to compute.
    sweep
        What was spent before this run: trials of tuning and their device-seconds, and gradients of labels. Those of
        an earlier record by default.
    settings
        Of the tasks.
    data
        Data to evaluate on, by file or name; those the run was trained on by default. Energies at another level of
        theory are not compared, unless the run was trained on that, too.
    regime
        Labels it was trained on, where they differ from those that the loss used; what an earlier record says by
        default.
    budget
        What it shares with the other regimes of its architecture: steps, or the device-seconds of E-F-H; what an
        earlier record says by default, or else steps.
    demonstration
        Whether the run shows the tool only, see :class:`~hessgnn.evaluation.record.Record`; what an earlier record
        says by default.
    processes
        Number of processes that molecules and reactions of a task are divided between.
    observer
        Callback invoked after each structure.
    trust
        See :func:`hessgnn.load`.

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
    potential = load(run.folder, device, trust=trust)
    parameters = potential.n_parameters()
    surface = PotentialSurface(potential, config.entry, batch_size=config.validation.batch_size, device=device)
    store, comparable = at_own_level(run, config, Store.open(data or config.data.path))
    used = used_splits(config, store, splits)
    results = _results(run.record, surface, store, names, splits, used, settings, processes, observer)
    if not comparable:
        results["metrics"] = without_energies(results["metrics"])
    record = Record(
        **_identity(run, config, regime, budget),
        **results,
        sources=sources_of(run, config, store),
        demonstration=_demonstrates(run, demonstration),
        parameters=parameters,
        cost=_cost(run, sweep),
        curve=[_curve_point(point) for point in run.curve()],
        converged=_converged(run),
    )
    write_record(record, run.record)
    return record


def evaluate_calculator(
    import_path: str,
    data: str | Path,
    folder: str | Path,
    *,
    tasks: Sequence[str] = DEFAULT_TASKS,
    splits: Sequence[str] | None = None,
    settings: TaskSettings | None = None,
    processes: int = 1,
    observer: ProgressCallback | None = None,
) -> Record:
    """Evaluate any ASE calculator in the same way, and write its record.

    ``import_path`` is ``module:factory``, see :func:`~hessgnn.surface.calculator.surface_from_import_path`; record
    and results go into ``folder``; the other arguments are those of :func:`evaluate`. Raises
    :class:`~hessgnn.errors.UserError` when the calculator cannot be made, or a name is unknown.
    """
    surface = surface_from_import_path(import_path)
    return evaluate_surface(
        surface, data, folder, tasks=tasks, splits=splits, settings=settings, processes=processes, observer=observer
    )


def evaluate_surface(
    surface: Surface,
    data: str | Path,
    folder: str | Path,
    *,
    tasks: Sequence[str] = DEFAULT_TASKS,
    splits: Sequence[str] | None = None,
    settings: TaskSettings | None = None,
    processes: int = 1,
    observer: ProgressCallback | None = None,
) -> Record:
    """Evaluate a surface that no run of this package has made, see :func:`evaluate_calculator`."""
    names = chosen_tasks(tasks)
    store, path = Store.open(data), Path(folder) / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = Record(
        **_results(path, surface, store, names, splits, (), settings, processes, observer),
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
    budget: Budget | None = None,
    demonstration: bool | None = None,
) -> Record:
    """Write the record of a run that failed, so that it is counted and not forgotten.

    ``config`` is what was tried, ``reason`` why it failed; the other arguments are those of :func:`evaluate`.
    """
    run, store = Run(Path(folder)), Store.open(data or config.data.path)
    record = Record(
        **_identity(run, config, regime, budget),
        status="failed",
        reason=reason,
        sources=sources_of(run, config, store),
        demonstration=_demonstrates(run, demonstration),
        parameters=config.potential_class()(config.potential_config()).n_parameters(),
        data=source(store),
        cost=_cost(run, sweep),
        metrics={},
        curve=[_curve_point(point) for point in run.curve()],
        versions=versions(),
        hardware=hardware(),
    )
    write_record(record, run.record)
    return record


def record_mean_predictor(
    folder: str | Path, data: DataConfig, splits: Sequence[str] | None = None, sample: int | None = SAMPLE
) -> Record:
    """Evaluate the predictor that knows the composition only, the floor of every leaderboard.

    Its energy is a sum over the elements, with reference energies from the training split; its forces and its
    curvature are zero. ``sample`` is that of :class:`~hessgnn.evaluation.run.TaskSettings`.
    """
    folder = Path(folder)
    store = Store.open(data.path)
    train = store.indices(data.train)
    reference = data.given_references or fit_reference_energies(store, train, store.elements())
    metrics, files = {}, {}
    for split in _splits(store, splits, (data.train, data.validation)):
        structures = [store[i] for i in sampled(store, split, sample)]
        predictions = Predictions.of(structures, (_of_composition(s, reference) for s in structures))
        files[split] = predictions.save(folder / f"predictions-{split}.npz")
        metrics[split] = error_metrics(predictions)
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
        split_sizes={split: len(store.indices(split)) for split in metrics},
        predictions=files,
        versions=versions(),
        hardware=hardware(),
    )
    write_record(record, folder / "record.json")
    return record


def source(store: Store) -> DataSource:
    """The data as a record describes them."""
    attributes = store.attributes
    return DataSource(
        name=store.path.stem,
        content_hash=attributes.content_hash,
        split_hash=attributes.split_hash,
        level_of_theory=attributes.level_of_theory,
    )


def _known(path: Path, surface: Surface, store: Store) -> TaskResults:
    """Results in an earlier record of the same surface, data and versions."""
    try:
        before = read_record(path)
    except DataError:  # none, or a damaged one, which is written anew
        return TaskResults()
    same = (before.fingerprint, before.data, before.versions) == (surface.fingerprint, source(store), versions())
    return TaskResults.of(before) if same else TaskResults()


def _results(
    path: Path,
    surface: Surface,
    store: Store,
    names: Sequence[str],
    splits: Sequence[str] | None,
    used: Collection[str],
    settings: TaskSettings | None,
    processes: int,
    observer: ProgressCallback | None,
) -> dict[str, Any]:
    """Run tasks; the fields of the record at ``path`` that hold their results and what these depend on."""
    settings = settings or TaskSettings()
    found = run_tasks(
        [settings.task(name) for name in names],
        surface,
        store,
        _splits(store, splits, used),
        source(store),
        path.parent,
        _known(path, surface, store),
        all_splits=splits is not None,
        limit=settings.subjects,
        sample=settings.sample,
        processes=processes,
        observer=observer,
    )
    sizes = {split: len(store.indices(split)) for split in found.metrics if split in store.splits}
    circumstances = {
        "split_sizes": sizes,
        "fingerprint": surface.fingerprint,
        "versions": versions(),
        "hardware": hardware(),
    }
    return {**found.fields(), "data": source(store), **circumstances}


def _of_composition(structure: Structure, reference: dict[int, float]) -> Answer:
    size = 3 * len(structure)
    return Answer(composition_energy(structure, reference), np.zeros((len(structure), 3)), np.zeros((size, size)))


def _splits(store: Store, wanted: Sequence[str] | None, used: Collection[str]) -> list[str]:
    if wanted is None:
        found = [split for split in store.splits if is_held_out(split) and split not in used]
        if not found:
            raise ConfigError(
                "the data has no split to evaluate on",
                where=store.path,
                hint="name other data with --data, or add a split with `hessgnn data split`",
            )
        return found
    for split in wanted:
        store.indices(split)  # raises for an unknown name
    return list(wanted)


def _earlier(run: Run) -> Record | None:
    """The record of an earlier evaluation."""
    try:
        return read_record(run.record)
    except DataError:
        return None


def _identity(run: Run, config: RunConfig, regime: Regime | None, budget: Budget | None) -> dict[str, Any]:
    earlier = _earlier(run)
    if earlier is not None:  # the loss does not tell E-F+ from E-F
        regime, budget = regime or earlier.regime, budget or earlier.budget
    return {
        "entry": config.entry,
        "architecture": config.potential["name"],
        "regime": regime or _regime(config),
        "start": _start(run),
        "budget": budget or "steps",
        "seed": config.training.seed,
        "weights": {"energy": 1.0, "forces": config.loss.forces, "hessian": config.loss.hessian},
        "config": config.model_dump(mode="json"),
    }


def _regime(config: RunConfig) -> Regime:
    return config.loss.regime if config.training.steps else "published"


def _start(run: Run) -> Start | None:
    """What a run started from, as its folder tells, and what can still be found out about it."""
    origin = run.origin()
    if origin is None:
        return None
    path = Path(origin.path)
    known: dict[str, Any] = {"regime": "published"} if origin.kind == "published" else {}
    if origin.kind == "run" and (before := Run(path)).config_path.is_file():
        config, record = before.config(), _earlier(before)
        known = {"entry": config.entry, "seed": config.training.seed, "regime": _regime(config)}
        if record is not None:
            known |= {"regime": record.regime, "level_of_theory": record.data.level_of_theory}
    return Start(
        name=path.name,
        sha256=origin.weights_hash,
        reference_shift={chemical_symbols[z]: value for z, value in origin.shift.items()},
        **known,
    )


def _gradients_of_start(run: Run) -> int | None:
    """Cost of the labels that the run it started from was given, as its record tells; ``None`` if unknown."""
    origin = run.origin()
    record = None if origin is None or origin.kind != "run" else _earlier(Run(Path(origin.path)))
    if record is None or record.cost.label_gradients is None:
        return None
    cost = record.cost
    return sum(
        part or 0
        for part in (cost.label_gradients, cost.validation_gradients, cost.tuning_gradients, cost.start_gradients)
    )


def _cost(run: Run, sweep: Cost | None) -> Cost:
    spent = (sweep or _spent_before(run)).model_copy(update={"start_gradients": _gradients_of_start(run)})
    if not run.last.exists():
        return spent
    progress = run.checkpoint()["progress"]
    seconds, config = progress["seconds_per_step"], run.config()
    per_step = statistics.median(seconds) if seconds else None
    epoch = config.order.step(0, epoch_steps(config, Store.open(config.data.path)))
    own = {
        "steps": progress["step"],
        "device": progress["device"],
        "threads": progress["threads"],
        "seconds_per_step": per_step,
        "seconds_per_epoch": None if per_step is None else per_step * epoch,
        "device_seconds": progress["device_seconds"],
        "products": progress["products"],
    }
    return spent.model_copy(update=own)  # what tuning and labels cost is not known here


def _spent_before(run: Run) -> Cost:
    """What an earlier record says that was spent before the run."""
    earlier = _earlier(run)
    return Cost() if earlier is None else Cost.model_validate(earlier.cost.before())


def _demonstrates(run: Run, given: bool | None) -> bool:
    """Whether a run shows the tool only; what an earlier record says if it is not given."""
    earlier = _earlier(run)
    return given if given is not None else earlier is not None and earlier.demonstration


def _converged(run: Run) -> bool | None:
    """Whether training ended since its validation was flat; ``None`` for a run of version 0.1.0."""
    return run.checkpoint()["progress"].get("converged") if run.last.exists() else None


def _curve_point(point: ValidationPoint) -> CurvePoint:
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
