"""A job: a potential that is trained, and evaluated if it is a final one, in a child process; and what it reports."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hessgnn.errors import TrainingError
from hessgnn.evaluation.evaluate import evaluate, record_failure
from hessgnn.evaluation.record import Budget, Cost, Record, read_record, write_record
from hessgnn.evaluation.run import DEFAULT_TASKS, TaskSettings
from hessgnn.runtime.terminal import ProgressLog
from hessgnn.runtime.worker import Link, Stopped
from hessgnn.training.bar import describe
from hessgnn.training.config import RunConfig
from hessgnn.training.regimes import Regime
from hessgnn.training.run import Run, ValidationPoint
from hessgnn.training.trainer import train

_EVERY = 5  # steps between two reports
_PARTS_OF_A_TASK = 4  # lines for each task and split at most: a run has many of them


@dataclass(frozen=True)
class EvaluationRequest:
    """How a run is evaluated."""

    spent: Cost = field(default_factory=Cost)
    """What tuning cost before this run."""
    tasks: tuple[str, ...] = DEFAULT_TASKS
    settings: TaskSettings = field(default_factory=TaskSettings)
    data: str | None = None
    """Data to evaluate on; those the run was trained on if absent."""
    regime: Regime | None = None
    """What the labels were, where the loss does not tell."""
    budget: Budget = "steps"
    """What it shares with the other regimes of its architecture."""


@dataclass(frozen=True)
class JobTitle:
    """What messages call a job."""

    stage: str
    """Part of the experiment, such as ``trial`` or ``final``."""
    architecture: str
    label: str
    """Which of that stage and architecture."""
    folder: str
    """Its run folder, which no other job has."""

    def __str__(self) -> str:
        return " ".join(part for part in (self.stage, self.architecture, self.label) if part)


@dataclass(frozen=True)
class Job:
    """A run to be trained, and evaluated if it is a final one."""

    config: RunConfig
    folder: Path
    architecture: str
    label: str
    evaluation: EvaluationRequest | None = None
    stage: str = "run"

    @property
    def title(self) -> JobTitle:
        """What messages call it."""
        return JobTitle(self.stage, self.architecture, self.label, str(self.folder))


class Event:
    """Something that happened in an experiment, for whoever watches it."""


Observer = Callable[[Event], None]


@dataclass(frozen=True)
class JobProgress(Event):
    """How far a job is."""

    title: JobTitle
    step: int
    """Training steps; where ``task`` is given, structures."""
    total: int
    point: ValidationPoint | None = None
    """The validation at this step."""
    task: str | None = None
    """What is being done after training, such as ``evaluating vibrations on test``."""


@dataclass(frozen=True)
class JobResult:
    """How a job ended."""

    score: float | None
    device_seconds: float = 0.0
    products: int = 0
    reason: str | None = None
    """Why there is no score."""
    pruned: bool = False
    """Stopped early, since others promised more; the score is the one it had by then."""
    measured: dict[str, float] = field(default_factory=dict)
    """What a job found out that trains nothing."""


@dataclass(frozen=True)
class JobFinished(Event):
    """The worker of a job has ended."""

    title: JobTitle
    result: JobResult | None
    """``None`` where it was stopped, died, or raised an error."""


Work = Callable[[Job, Link], JobResult]


def run_job(job: Job, link: Link) -> JobResult:
    """Train one potential, or resume its training.

    Raises
    ------
    Stopped
        When the parent wants it to end.
    """

    def observer(step: int, point: ValidationPoint | None) -> None:
        if step % _EVERY == 0 or point is not None:
            link.report(JobProgress(job.title, step, job.config.training.steps, point))
        if link.stopping:
            raise Stopped

    try:
        result = train(job.config, job.folder, resume=True, observer=observer)
        if not math.isfinite(result.score):
            raise TrainingError("no validation had finite errors", where=job.folder)
    except TrainingError as error:
        record_job_failure(job, str(error))
        return JobResult(None, reason=str(error))
    reason = None if job.evaluation is None else _evaluate(job, job.evaluation, link).reason
    progress = result.progress
    return JobResult(result.score, progress.device_seconds, progress.products, reason)


def record_job_failure(job: Job, reason: str) -> None:
    """Write the record of a run that failed, if it was to be evaluated; of others the trials have the reason."""
    if (how := job.evaluation) is not None:
        record_failure(job.folder, job.config, reason, how.spent, data=how.data, regime=how.regime, budget=how.budget)


def _evaluate(job: Job, how: EvaluationRequest, link: Link) -> Record:
    """Evaluate a run once: the test splits are touched no second time."""
    path = Run(job.folder).record
    if path.exists():
        return update_tuning_cost(path, how.spent)

    def observer(what: str, done: int, total: int) -> None:
        link.report(JobProgress(job.title, done, total, task=f"evaluating {what}"))
        if link.stopping:
            raise Stopped

    return evaluate(
        job.folder,
        tasks=how.tasks,
        settings=how.settings,
        sweep=how.spent,
        data=how.data,
        regime=how.regime,
        budget=how.budget,
        observer=observer,
    )


def update_tuning_cost(path: Path, spent: Cost) -> Record:
    """Write into a record the trials and device-seconds that tuning has cost by now."""
    before = read_record(path)
    tuning = {"sweep_trials": spent.sweep_trials, "sweep_device_seconds": spent.sweep_device_seconds}
    record = before.model_copy(update={"cost": before.cost.model_copy(update=tuning)})
    if record != before:
        write_record(record, path)
    return record


def equal_steps(steps: int, own: Record, other: Record) -> int | None:
    """Count the steps, at the median time per step of ``own``, that take as long as ``steps`` of another run took.

    At least 1; None where one of the two failed.
    """
    if own.status == "failed" or other.status == "failed" or not own.cost.seconds_per_step:
        return None
    return max(1, round(steps * (other.cost.seconds_per_step or 0.0) / own.cost.seconds_per_step))


class JobLog:
    """Writes a line for what workers finish: each tenth of a training, each evaluation task and split, each run."""

    def __init__(self, log: ProgressLog) -> None:
        self.log = log
        self._reached: dict[str, str] = {}

    def observe(self, event: Event) -> None:
        """Take in an event; those of other kinds are left to others."""
        if isinstance(event, JobProgress):
            self._progress(event)
        elif isinstance(event, JobFinished):
            self._finished(event)

    def _progress(self, event: JobProgress) -> None:
        title, done = str(event.title), f"{event.step}/{event.total}"
        if event.task is not None:
            text = f"{event.task} {done}"
            self.log.progress(title, event.task, event.step, event.total, text, parts=_PARTS_OF_A_TASK)
        elif event.point is not None:
            self._reached[title] = f"{done} steps  {describe(event.point)}"
            self.log.progress(title, "steps", event.step, event.total, self._reached[title])

    def _finished(self, event: JobFinished) -> None:
        title, result = str(event.title), event.result
        reached = self._reached.pop(title, "")
        if result is None:
            self.log.line(title, "worker ended without a result")
        elif result.score is None:
            self.log.line(title, f"failed: {result.reason}")
        else:
            what = "Hessian weight" if event.title.stage == "balance" else "score"
            facts = [f"{what} {result.score:.4g}", reached, f"{result.device_seconds:.1f} device-seconds"]
            failure = f"; evaluation failed: {result.reason}" if result.reason else ""
            self.log.line(title, f"finished: {', '.join(filter(None, facts))}{failure}")
