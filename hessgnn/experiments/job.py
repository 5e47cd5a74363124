"""A job: a potential that is trained, and judged if it is a final one. It is done in a child process."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hessgnn.errors import TrainingError
from hessgnn.evaluation.evaluate import evaluate, record_failure
from hessgnn.evaluation.record import Budget, Cost, Record, Regime, read_record, write_record
from hessgnn.evaluation.settings import DEFAULT_TASKS, TaskSettings
from hessgnn.runtime.worker import Link, Stopped
from hessgnn.training.config import RunConfig
from hessgnn.training.run import Point, Run
from hessgnn.training.trainer import train

_EVERY = 5  # steps between two reports


@dataclass(frozen=True)
class Evaluation:
    """How a run is judged."""

    spent: Cost = field(default_factory=Cost)
    """What tuning cost before this run."""
    tasks: tuple[str, ...] = DEFAULT_TASKS
    settings: TaskSettings = field(default_factory=TaskSettings)
    data: str | None = None
    """Data to judge on; those the run was trained on if absent."""
    regime: Regime | None = None
    """What the labels were, where the loss does not tell."""
    budget: Budget = "steps"
    """What it shares with the other regimes of its architecture."""


@dataclass(frozen=True)
class Job:
    """A run to be trained, and judged if it is a final one."""

    config: RunConfig
    folder: Path
    architecture: str
    label: str
    judge: Evaluation | None = None


@dataclass(frozen=True)
class Report:
    """How far a job is."""

    architecture: str
    label: str
    folder: str
    step: int
    total: int
    point: Point | None


@dataclass(frozen=True)
class Left:
    """A job has left its worker, however it ended."""

    folder: str


@dataclass(frozen=True)
class Outcome:
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


Work = Callable[[Job, Link], Outcome]


def run_job(job: Job, link: Link) -> Outcome:
    """Train, or go on with, one potential.

    Parameters
    ----------
    job
        What to do.
    link
        To the parent.

    Returns
    -------
    Outcome
        The validation score, or why there is none.

    Raises
    ------
    Stopped
        When the parent wants it to end.
    """

    def observer(step: int, point: Point | None) -> None:
        if step % _EVERY == 0 or point is not None:
            total = job.config.training.steps
            link.report(Report(job.architecture, job.label, str(job.folder), step, total, point))
        if link.stopping:
            raise Stopped

    try:
        result = train(job.config, job.folder, resume=True, observer=observer)
        if not math.isfinite(result.score):
            raise TrainingError("no validation had finite errors", where=job.folder)
    except TrainingError as error:
        fail(job, str(error))
        return Outcome(None, reason=str(error))
    reason = None if job.judge is None else _judge(job.folder, job.judge).reason
    progress = result.progress
    return Outcome(result.score, progress.device_seconds, progress.products, reason)


def fail(job: Job, reason: str) -> None:
    """Record that a run that is judged failed; of others the study of trials keeps the reason.

    Parameters
    ----------
    job
        What was to be done.
    reason
        One line.
    """
    if (how := job.judge) is not None:
        record_failure(job.folder, job.config, reason, how.spent, data=how.data, regime=how.regime, budget=how.budget)


def _judge(folder: Path, how: Evaluation) -> Record:
    """Judge a run once: the test splits are touched no second time."""
    path = Run(folder).record
    if path.exists():
        return note_spending(path, how.spent)
    return evaluate(
        folder,
        tasks=how.tasks,
        settings=how.settings,
        sweep=how.spent,
        data=how.data,
        regime=how.regime,
        budget=how.budget,
    )


def note_spending(path: Path, spent: Cost) -> Record:
    """Write into a record what tuning has cost by now.

    Parameters
    ----------
    path
        The record.
    spent
        Trials and device-seconds of the sweep.

    Returns
    -------
    Record
        As it is now.
    """
    before = read_record(path)
    tuning = {"sweep_trials": spent.sweep_trials, "sweep_device_seconds": spent.sweep_device_seconds}
    record = before.model_copy(update={"cost": before.cost.model_copy(update=tuning)})
    if record != before:
        write_record(record, path)
    return record


def equal_steps(steps: int, own: Record, other: Record) -> int | None:
    """Count the steps that take as long as another run took.

    Parameters
    ----------
    steps
        Of the other run.
    own
        A run of the same kind, whose median time for a step is taken.
    other
        The other run.

    Returns
    -------
    int or None
        At least 1; ``None`` where one of the two failed.
    """
    if own.status == "failed" or other.status == "failed" or not own.cost.seconds_per_step:
        return None
    return max(1, round(steps * (other.cost.seconds_per_step or 0.0) / own.cost.seconds_per_step))
