"""Running a study: every regime of labels on every part of the data, trained, evaluated, compared.

::

    runs/paper/
    ├── study.yaml          the resolved settings; a different study is refused here
    ├── data/               training sets of each part; frames of E-F+
    ├── runs/               run folders, with records and predictions
    ├── points.json         every run: labels, cost, metrics
    ├── study.md, .html     curves, and tests of the claims
    ├── study.log           what was finished when
    └── leaderboard/        the runs on all of the data for equal steps
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hessgnn.data.store.store import Store
from hessgnn.errors import NothingTrained
from hessgnn.evaluation.evaluate import record_mean_predictor
from hessgnn.evaluation.record import Budget, Record, read_record
from hessgnn.evaluation.run import DEFAULT_TASKS
from hessgnn.experiments.config import StudyConfig, folder_name
from hessgnn.experiments.folder import locked, require_same
from hessgnn.experiments.job import (
    EvaluationRequest,
    Job,
    JobProgress,
    JobTitle,
    Observer,
    equal_steps,
    record_job_failure,
)
from hessgnn.experiments.labels import (
    label_gradients,
    measured_hessian_gradients,
    part_of,
    require_same_level,
    write_part,
)
from hessgnn.experiments.study_report import StudyRun, StudyRuns, write_study
from hessgnn.experiments.workers import JobScheduler, Workers
from hessgnn.runtime.config import save
from hessgnn.runtime.files import write_text
from hessgnn.runtime.processes import WorkerDied
from hessgnn.surface.engines.base import make_engine
from hessgnn.training.build import fit_reference_energies
from hessgnn.training.regimes import StudyRegime
from hessgnn.training.run import Run


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
        name = f"{folder_name(self.architecture)}-{self.regime}-{self.fraction:g}-{self.budget}-seed{self.seed}"
        return root / "runs" / name


def cells_of(config: StudyConfig) -> list[Cell]:
    """List the trainings of a study, those for equal seconds last; E-F-H has none: they are its own seconds."""
    cells = [
        Cell(architecture, regime, fraction, seed)
        for seed in config.seeds
        for fraction in config.fractions
        for architecture in config.architectures
        for regime in config.regimes
    ]
    if config.equal_seconds:
        cells += [
            Cell(cell.architecture, cell.regime, cell.fraction, cell.seed, "seconds")
            for cell in cells
            if cell.regime != "E-F-H"
        ]
    return cells


def study(config: StudyConfig, folder: Path, observer: Observer) -> list[Path]:
    """Run a study, or resume it.

    The observer is called with every event, also while frames are labelled, with the file of the training set as
    folder. Returned are the folders with the records of the leaderboard (all of the data, equal steps), the mean
    predictor first.

    Raises
    ------
    UserError
        When the folder holds another study, or the data or the engine cannot be used.
    NothingTrained
        When no run could be trained.
    """
    with locked(folder):
        path = folder / "study.yaml"
        require_same(config, path)
        store = Store.open(config.data.path)
        prepared = _Prepared.of(config, store, folder, observer)
        save(config, path)
        workers = Workers(config.workers)
        jobs = JobScheduler(workers)
        for budget in ("steps", "seconds"):
            cells = [cell for cell in cells_of(config) if cell.budget == budget]
            if cells:
                jobs.run([partial(_train, config, prepared, cell, folder, jobs) for cell in cells], observer)
                points = _points(config, prepared, folder)
                if any(point.status == "ok" for point in points.points):
                    write_study(points, folder)  # equal steps are there to look at while equal seconds run
        workers.close()
        if all(point.status == "failed" for point in points.points):
            hint = "see the `record.json` of its runs for the reasons"
            raise NothingTrained("no run could be trained", where=folder, hint=hint)
        mean = folder / "runs" / "mean-predictor"
        record_mean_predictor(mean, config.data, sample=config.evaluate.sample)
    whole = [c for c in cells_of(config) if c.fraction == config.fractions[-1] and c.budget == "steps"]
    return [mean, *(cell.folder(folder) for cell in whole)]


@dataclass(frozen=True)
class _Prepared:
    """What all runs share."""

    store: Store
    hessian_gradients: float
    sets: dict[tuple[float, bool], Path]
    """(fraction, whether with the frames of E-F+) -> training set."""
    changes: dict[str, Any]
    """Of every training configuration: the same elements and reference energies whatever the part of the data."""

    @classmethod
    def of(cls, config: StudyConfig, store: Store, folder: Path, observer: Observer) -> _Prepared:
        data, labels = config.data, config.labels
        if "E-F+" in config.regimes:  # told before anything else is done
            require_same_level(store, make_engine(labels.engine))
        train = store.indices(data.train)
        per_atom = labels.hessian_gradients
        if per_atom == "measured":
            measuring = make_engine(labels.engine)
            require_same_level(store, measuring)
            per_atom = _kept_number(
                folder / "data" / "hessian-gradients.txt",
                lambda: measured_hessian_gradients(measuring, [store[int(i)] for i in train]),
            )
        sets = {}
        for fraction in config.fractions:
            for plus in {regime == "E-F+" for regime in config.regimes}:
                path = folder / "data" / f"train-{fraction:g}{'-plus' if plus else ''}.h5"
                report = partial(_frames_are_labelled, observer, path)
                write_part(
                    store,
                    data,
                    fraction,
                    path,
                    labels,
                    frames_for=float(per_atom) if plus else None,
                    processes=config.workers,
                    observer=report,
                )
                sets[fraction, plus] = path
        reference = data.reference_energies or fit_reference_energies(store, train, store.elements())
        # A small part need not hold every element, nor determine their energies: they are those of the whole.
        changes = {"potential.elements": store.elements(), "data.reference_energies": reference}
        return cls(store, float(per_atom), sets, changes)


def _kept_number(path: Path, measure: Callable[[], float]) -> float:
    """A number that is measured once, so that a study that goes on later counts alike."""
    if not path.is_file():
        write_text(path, f"{measure():.3f}\n")
    return float(path.read_text(encoding="utf-8"))


def _frames_are_labelled(observer: Observer, path: Path, done: int, total: int) -> None:
    observer(JobProgress(JobTitle("labels", "", path.stem, str(path)), done, total, task="labelling frames"))


def _train(config: StudyConfig, prepared: _Prepared, cell: Cell, folder: Path, jobs: JobScheduler) -> None:
    """Train and evaluate one cell, in a worker."""
    steps = config.steps if cell.budget == "steps" else _equal_steps(config, cell, folder)
    if steps is None:
        return  # what it would be compared with failed, and is recorded as such
    data = prepared.sets[cell.fraction, cell.regime == "E-F+"]
    values = {**prepared.changes, "data.path": str(data), "name": cell.entry}
    run = config.run_config(cell.architecture, values, steps=steps, seed=cell.seed, regime=cell.regime)
    # Simulations are for the comparison on all of the data; curves are drawn of errors alone.
    whole = cell.fraction == config.fractions[-1] and cell.budget == "steps"
    evaluation = EvaluationRequest(
        tasks=config.tasks if whole else DEFAULT_TASKS,
        settings=config.evaluate,
        data=str(prepared.store.path),
        regime=cell.regime,
        budget=cell.budget,
    )
    job = Job(run, cell.folder(folder), cell.architecture, cell.label, evaluation)
    try:
        result = jobs.submit(job)
    except WorkerDied as error:
        record_job_failure(job, error.what)
    else:
        if result.score is None and not Run(job.folder).record.exists():
            record_job_failure(job, result.reason or "no score")


def _equal_steps(config: StudyConfig, cell: Cell, folder: Path) -> int | None:
    """Steps that take as long as E-F-H took, at the median time of the cell's own steps."""
    run = Run(cell.folder(folder))
    if run.config_path.is_file():
        return run.config().training.steps  # a run that goes on has the length that it was begun with
    own = _record(Cell(cell.architecture, cell.regime, cell.fraction, cell.seed), folder)
    other = _record(Cell(cell.architecture, "E-F-H", cell.fraction, cell.seed), folder)
    return None if own is None or other is None else equal_steps(config.steps, own, other)


def _record(cell: Cell, folder: Path) -> Record | None:
    path = Run(cell.folder(folder)).record
    return read_record(path) if path.is_file() else None


def _points(config: StudyConfig, prepared: _Prepared, folder: Path) -> StudyRuns:
    """Gather every run."""
    store, points = prepared.store, []
    parts = {
        fraction: [store[i] for i in part_of(store, config.data.train, fraction, config.labels.seed)]
        for fraction in config.fractions
    }
    for cell in cells_of(config):
        record = _record(cell, folder)
        if record is None:
            continue
        part = parts[cell.fraction]
        points.append(
            StudyRun(
                run=str(cell.folder(folder).relative_to(folder)),
                architecture=cell.architecture,
                regime=cell.regime,
                fraction=cell.fraction,
                budget=cell.budget,
                seed=cell.seed,
                structures=len(part),
                label_gradients=label_gradients(part, cell.regime, prepared.hessian_gradients),
                steps=record.cost.steps,
                device_seconds=record.cost.device_seconds,
                status=record.status,
                reason=record.reason,
                errors={
                    split: {name: metric.value for name, metric in found.items()}
                    for split, found in record.metrics.items()
                },
            )
        )
    atoms = [len(s) for s in parts[config.fractions[-1]]]
    return StudyRuns(
        name=config.name,
        data=store.path.stem,
        level_of_theory=store.attributes.level_of_theory,
        hessian_gradients=prepared.hessian_gradients,
        mean_atoms=statistics.fmean(atoms),
        points=points,
    )
