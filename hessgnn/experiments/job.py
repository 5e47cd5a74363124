"""A job: a potential that is trained, and evaluated if it is a final one, in a child process; and what it reports."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, PositiveFloat

from hessgnn.errors import ConfigError, DataError, TrainingError
from hessgnn.evaluation.evaluate import evaluate, record_failure
from hessgnn.evaluation.record import Budget, Cost, Record, read_record, write_record
from hessgnn.evaluation.run import DEFAULT_TASKS, TaskSettings
from hessgnn.runtime.config import Settings, read_json
from hessgnn.runtime.files import lock_file, write_text
from hessgnn.runtime.terminal import ProgressLog
from hessgnn.runtime.worker import Link, Stopped
from hessgnn.training.bar import describe
from hessgnn.training.build import Setup, build
from hessgnn.training.config import RunConfig
from hessgnn.training.regimes import Regime, StudyRegime
from hessgnn.training.run import Run, ValidationPoint
from hessgnn.training.trainer import train

_EVERY = 5  # steps between two reports
WARMUP, TIMED = 3, 9
"""Steps of each kind of labels that are not timed and that are, where their costs are measured."""
_PARTS_OF_A_TASK = 4  # lines for each task and split at most: a run has many of them


@dataclass(frozen=True)
class EvaluationRequest:
    """How a run is evaluated."""

    spent: Cost = field(default_factory=Cost)
    """What tuning cost before this run, and the labels of its training and validation sets."""
    tasks: tuple[str, ...] = DEFAULT_TASKS
    settings: TaskSettings = field(default_factory=TaskSettings)
    data: str | None = None
    """Data to evaluate on; those the run was trained on if absent."""
    regime: Regime | None = None
    """What the labels were, where the loss does not tell."""
    budget: Budget = "steps"
    """What it shares with the other regimes of its architecture."""
    demonstration: bool = False
    """Whether it shows the tool only and is no evidence."""


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


@dataclass(frozen=True)
class Note(Event):
    """Something that whoever reads the log should know."""

    about: str
    text: str


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
    except (TrainingError, DataError) as error:  # the whole data are sound: it is those of this run that are not
        record_job_failure(job, str(error))
        return JobResult(None, reason=str(error))
    reason = None if job.evaluation is None else _evaluate(job, job.evaluation, link).reason
    progress = result.progress
    return JobResult(result.score, progress.device_seconds, progress.products, reason)


def record_job_failure(job: Job, reason: str) -> None:
    """Write the record of a run that failed, if it was to be evaluated; of others the trials have the reason."""
    if (how := job.evaluation) is not None:
        record_failure(
            job.folder,
            job.config,
            reason,
            how.spent,
            data=how.data,
            regime=how.regime,
            budget=how.budget,
            demonstration=how.demonstration,
        )


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
        demonstration=how.demonstration,
        observer=observer,
    )


def update_tuning_cost(path: Path, spent: Cost) -> Record:
    """Write into a record what was spent before its run: tuning, as far as it has come by now, and labels."""
    before = read_record(path)
    tuning = {name: value for name, value in spent.before().items() if value is not None}
    record = before.model_copy(update={"cost": before.cost.model_copy(update=tuning)})
    if record != before:
        write_record(record, path)
    return record


def equal_steps(steps: int, own: float, other: float) -> int:
    """Count the steps, of cost ``own`` each, that cost as much as ``steps`` steps of cost ``other``; at least 1."""
    return max(1, round(steps * other / own))


def frozen_step_costs(
    given: Mapping[StudyRegime, float] | None,
    architecture: str,
    path: Path,
    measure: Callable[[], Mapping[str, float]],
) -> dict[StudyRegime, float]:
    """Look up what a training step costs for each kind of labels of an architecture, E-F as 1.

    Clocks of a busy machine differ from run to run, so runs of equal time are counted with these fixed ratios.

    Parameters
    ----------
    given
        ``step_costs`` of the settings for the architecture, which are taken as they are.
    architecture
        Its label.
    path
        ``step-costs.json`` of the experiment: what was measured before stands there, and is never measured again.
    measure
        Measures them, see :func:`measure_step_costs`.

    Raises
    ------
    DataError
        When the file is damaged.
    """
    if given:
        return dict(given)
    busy = ConfigError("step costs are being written by another process", where=path)
    with lock_file(path.with_name(f".{path.name}.lock"), busy, timeout=-1):
        costs = (
            read_json(_StepCosts, path, hint="remove it to have them measured again")
            if path.is_file()
            else _StepCosts()
        )
        if architecture not in costs.costs:
            costs = _StepCosts.model_validate({"costs": costs.costs | {architecture: measure()}})
            write_text(path, costs.model_dump_json(indent=1) + "\n")
    return costs.costs[architecture]


class _StepCosts(Settings):
    """What ``step-costs.json`` holds."""

    costs: dict[str, dict[StudyRegime, PositiveFloat]] = Field(
        default_factory=dict, description="architecture -> kind of labels -> cost of a step"
    )


def measure_step_costs(job: Job, link: Link, *, runs: Mapping[StudyRegime, RunConfig]) -> JobResult:  # noqa: ARG001
    """Measure what a training step costs for each of several kinds of labels, as a job that trains nothing.

    Steps of the kinds take turns, so that what else the machine does slows them alike. ``measured`` holds the medians
    relative to E-F, or to the first kind where there is no E-F.
    """
    setups: dict[StudyRegime, Setup] = {}
    times: dict[str, list[float]] = {regime: [] for regime in runs}
    try:
        for regime, run in runs.items():
            setups[regime] = build(run)
        for number in range(WARMUP + TIMED):
            for regime, setup in setups.items():
                if link.stopping:
                    raise Stopped
                times[regime].append(setup.step.timed(number))
    except (TrainingError, DataError) as error:
        return JobResult(None, reason=str(error))
    finally:
        for setup in setups.values():
            setup.step.close()
    medians = {regime: statistics.median(found[WARMUP:]) for regime, found in times.items()}
    unit = medians.get("E-F") or next(iter(medians.values()))
    return JobResult(unit, measured={regime: seconds / unit for regime, seconds in medians.items()})


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
        elif isinstance(event, Note):
            self.log.line(event.about, event.text)

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
        elif result.measured:
            self.log.line(title, ", ".join(f"{what} {value:.3g}" for what, value in result.measured.items()))
        else:
            what = "Hessian weight" if event.title.stage == "balance" else "score"
            facts = [f"{what} {result.score:.4g}", reached, f"{result.device_seconds:.1f} device-seconds"]
            failure = f"; evaluation failed: {result.reason}" if result.reason else ""
            self.log.line(title, f"finished: {', '.join(filter(None, facts))}{failure}")
