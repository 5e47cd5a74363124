"""Running a study: every regime of labels on every part of the data, trained, evaluated, compared.

::

    runs/paper/
    ├── study.yaml          the resolved settings; a different study is refused here
    ├── data/               training sets of each part and draw, displaced frames, what Hessians and steps cost
    ├── runs/               run folders, with records and predictions
    ├── points.json         every run: labels, cost, metrics
    ├── study.md, .html     curves, and tests of the claims
    ├── labels.json         what labels buy, where products were compared
    ├── study.log           what was finished when
    └── leaderboard/        the runs on all of the data for equal steps
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypedDict

from hessgnn.data.store.store import Store
from hessgnn.errors import DataError, NothingTrained, TrainingError
from hessgnn.evaluation.evaluate import record_mean_predictor
from hessgnn.evaluation.record import Budget, Record, read_record
from hessgnn.evaluation.run import DEFAULT_TASKS
from hessgnn.experiments.config import StudyConfig, folder_name
from hessgnn.experiments.folder import has_other_rules, locked, require_same
from hessgnn.experiments.job import (
    EvaluationRequest,
    Job,
    Note,
    Observer,
    equal_steps,
    frozen_step_costs,
    measure_step_costs,
)
from hessgnn.experiments.labels import TrainingSets
from hessgnn.experiments.study_report import StudyRun, StudyRuns, write_study
from hessgnn.experiments.workers import JobScheduler, Workers
from hessgnn.runtime.config import save
from hessgnn.runtime.processes import WorkerDied
from hessgnn.training.config import RunConfig
from hessgnn.training.regimes import StudyRegime, label_set
from hessgnn.training.run import Run


class Part(TypedDict):
    """Which part of the training split."""

    fraction: float
    draw: int


@dataclass(frozen=True)
class Cell:
    """One training of a study."""

    architecture: str
    regime: StudyRegime
    fraction: float
    seed: int
    budget: Budget = "steps"

    @property
    def entry(self) -> str:
        """What the seeds are joined under."""
        return f"{self.architecture} {self.regime}, {100 * self.fraction:g} %{self._time}"

    @property
    def label(self) -> str:
        """What messages call it, besides the architecture."""
        return f"{self.regime}, {100 * self.fraction:g} %{self._time}, seed {self.seed}"

    @property
    def _time(self) -> str:
        return ", equal time" if self.budget == "seconds" else ""

    def folder(self, root: Path) -> Path:
        """Of the run."""
        labels = label_set(self.regime).file_name
        name = f"{folder_name(self.architecture)}-{labels}-{self.fraction:g}-{self.budget}-seed{self.seed}"
        return root / "runs" / name


def cells_of(config: StudyConfig) -> list[Cell]:
    """List the trainings of a study, those for equal seconds last; E-F-H has none: they are its own seconds.

    All kinds of labels of all architectures have had a seed before the next one begins, so that a study which is
    stopped early compares like with like.
    """
    cells = [
        Cell(architecture, regime, fraction, seed)
        for seed in config.seeds
        for fraction in config.fractions
        for regime in config.regimes
        for architecture in config.architectures
    ]
    again = config.retrained
    return cells + [
        Cell(cell.architecture, cell.regime, cell.fraction, cell.seed, "seconds")
        for cell in cells
        if cell.regime in again
    ]


def study(config: StudyConfig, folder: Path, observer: Observer) -> list[Path]:
    """Run a study, or resume it.

    The observer is called with every event, also while frames are labelled, with the file of the training set as
    folder. Returned are the folders with the records of the leaderboard (all of the data, equal steps), the mean
    predictor first.

    Raises
    ------
    UserError
        When the folder holds another study, or an unfinished one of older rules, or the data or the engine cannot be
        used.
    NothingTrained
        When no run could be trained.
    """
    with locked(folder):
        path = folder / "study.yaml"
        finished = all(Run(cell.folder(folder)).record.is_file() for cell in cells_of(config))
        require_same(config, path, finished=finished)
        if has_other_rules(config, path):  # finished by an earlier version: there to be read
            return _board(config, folder)
        if done := sum(Run(cell.folder(folder)).record.is_file() for cell in cells_of(config)):
            observer(Note("resumed", f"{done} of {len(cells_of(config))} runs were finished"))
        store = Store.open(config.data.path)
        sets = TrainingSets(config, store, folder / "data", observer)
        observer(Note("labels", sets.hessian_cost()))
        save(config, path)
        _label(config, sets, config.seeds[0])
        workers = Workers(config.workers)
        jobs = JobScheduler(workers)
        costs: dict[str, Mapping[StudyRegime, float]] = {}
        if config.equal_seconds:  # one after the other, before anything else runs
            costs = jobs.run([partial(_step_costs, config, sets, folder, jobs)], observer)[0]
        for (_, seed), cells in groupby(cells_of(config), key=lambda cell: (cell.budget, cell.seed)):
            _label(config, sets, seed)
            jobs.run([partial(_train, config, sets, costs, cell, folder, jobs) for cell in cells], observer)
            points = _points(config, sets, folder)
            if any(point.status == "ok" for point in points.points):
                write_study(points, folder)  # what is finished is there to look at while the rest runs
        workers.close()
        if all(point.status == "failed" for point in points.points):
            hint = "see the `record.json` of its runs for the reasons"
            raise NothingTrained("no run could be trained", where=folder, hint=hint)
        record_mean_predictor(_board(config, folder)[0], config.data, sample=config.evaluate.sample)
    return _board(config, folder)


def _label(config: StudyConfig, sets: TrainingSets, seed: int) -> None:
    """Make the training sets of a seed, by all processes together: no training waits for its labels alone."""
    for cell in cells_of(config):
        if cell.seed == seed:
            sets.path(cell.regime, fraction=cell.fraction, draw=seed)
            sets.changes(fraction=cell.fraction, draw=seed)


def report(config: StudyConfig, folder: Path) -> StudyRuns:
    """Write the report of what is finished, also while the study runs; nothing is trained or labelled.

    Raises
    ------
    DataError
        When no run is finished.
    """
    store = Store.open(config.data.path)
    points = _points(config, TrainingSets(config, store, folder / "data", lambda _: None), folder)
    if not any(point.status == "ok" for point in points.points):
        raise DataError("no run is finished", where=folder, hint="wait, or start the study without --report")
    write_study(points, folder)
    return points


def _board(config: StudyConfig, folder: Path) -> list[Path]:
    """Folders of the records of the leaderboard, the mean predictor first."""
    whole = [c for c in cells_of(config) if c.fraction == config.fractions[-1] and c.budget == "steps"]
    return [folder / "runs" / "mean-predictor", *(cell.folder(folder) for cell in whole)]


def _settings(config: StudyConfig, sets: TrainingSets, cell: Cell, steps: int) -> RunConfig:
    """The training configuration of a cell."""
    part: Part = {"fraction": cell.fraction, "draw": cell.seed}
    data = {"data.path": str(sets.path(cell.regime, **part)), **sets.changes(**part)}
    values = {**data, "name": cell.entry}
    return config.run_config(cell.architecture, values, steps=steps, seed=cell.seed, regime=cell.regime)


def _step_costs(
    config: StudyConfig, sets: TrainingSets, folder: Path, jobs: JobScheduler
) -> dict[str, Mapping[StudyRegime, float]]:
    """What a step costs for each architecture and kind of labels; without those that cannot be trained."""
    found: dict[str, Mapping[StudyRegime, float]] = {}
    for architecture in config.architectures:
        cells = [Cell(architecture, regime, config.fractions[-1], config.seeds[0]) for regime in config.timed]
        runs = {cell.regime: _settings(config, sets, cell, config.steps) for cell in cells}
        where = folder / "data" / "step-costs" / folder_name(architecture)
        job = Job(runs[config.timed[0]], where, architecture, "", stage="step costs")

        def measure(job: Job = job, runs: dict[StudyRegime, RunConfig] = runs) -> Mapping[str, float]:
            result = jobs.submit(job, work=partial(measure_step_costs, runs=runs))
            if result.score is None:
                raise TrainingError(result.reason or "no step could be taken", where=job.folder)
            return result.measured

        path = folder / "data" / "step-costs.json"
        with suppress(TrainingError, WorkerDied):  # its runs say why
            found[architecture] = frozen_step_costs(config.step_costs.get(architecture), architecture, path, measure)
    return found


def _train(
    config: StudyConfig,
    sets: TrainingSets,
    costs: Mapping[str, Mapping[StudyRegime, float]],
    cell: Cell,
    folder: Path,
    jobs: JobScheduler,
) -> None:
    """Train and evaluate one cell, in a worker."""
    steps = config.steps if cell.budget == "steps" else _equal_steps(costs.get(cell.architecture), cell, folder)
    if steps is None:
        return  # what it would be compared with failed, and is recorded as such
    # Simulations are for the comparison on all of the data; curves are drawn of errors alone.
    whole = cell.fraction == config.fractions[-1] and cell.budget == "steps"
    evaluation = EvaluationRequest(
        sets.cost(cell.architecture, cell.regime, fraction=cell.fraction, draw=cell.seed),
        tasks=config.tasks if whole else DEFAULT_TASKS,
        settings=config.evaluate,
        data=str(sets.store.path),
        regime=cell.regime,
        budget=cell.budget,
        demonstration=config.demonstration,
    )
    run = _settings(config, sets, cell, steps)
    jobs.submit_recorded(Job(run, cell.folder(folder), cell.architecture, cell.label, evaluation))


def _equal_steps(costs: Mapping[StudyRegime, float] | None, cell: Cell, folder: Path) -> int | None:
    """Steps that cost as much as those of E-F-H, which may have stopped before its last one."""
    run = Run(cell.folder(folder))
    if run.config_path.is_file():
        return run.config().training.steps  # a run that goes on has the length that it was begun with
    pair = [
        _record(Cell(cell.architecture, regime, cell.fraction, cell.seed), folder) for regime in (cell.regime, "E-F-H")
    ]
    own, other = pair
    if costs is None or own is None or other is None or "failed" in (own.status, other.status):
        return None
    return equal_steps(other.cost.steps, costs[cell.regime], costs["E-F-H"])


def _record(cell: Cell, folder: Path) -> Record | None:
    path = Run(cell.folder(folder)).record
    return read_record(path) if path.is_file() else None


def _points(config: StudyConfig, sets: TrainingSets, folder: Path) -> StudyRuns:
    """Gather every run."""
    store, points = sets.store, []
    for cell in cells_of(config):
        record = _record(cell, folder)
        if record is None:
            continue
        part: Part = {"fraction": cell.fraction, "draw": cell.seed}
        points.append(
            StudyRun(
                run=str(cell.folder(folder).relative_to(folder)),
                architecture=cell.architecture,
                regime=cell.regime,
                fraction=cell.fraction,
                budget=cell.budget,
                seed=cell.seed,
                structures=len(sets.indices(**part)),
                label_gradients=sets.label_gradients(cell.regime, **part),
                validation_gradients=sets.validation_gradients(cell.architecture),
                steps=record.cost.steps,
                device_seconds=record.cost.device_seconds,
                converged=record.converged,
                status=record.status,
                reason=record.reason,
                errors={
                    split: {name: metric.value for name, metric in found.items()}
                    for split, found in record.metrics.items()
                },
            )
        )
    parts = [sets.indices(fraction=config.fractions[-1], draw=seed) for seed in config.seeds]
    return StudyRuns(
        name=config.name,
        data=store.path.stem,
        level_of_theory=store.attributes.level_of_theory,
        hessian_gradients=sets.hessian_gradients,
        mean_atoms=statistics.fmean(float(store.n_atoms[i]) for part in parts for i in part),
        demonstration=config.demonstration,
        planned=len(cells_of(config)),
        points=points,
    )
