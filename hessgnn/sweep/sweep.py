"""The main job: tune each architecture, retrain its best, evaluate it, compare.

::

    runs/quickstart/
    ├── sweep.yaml          the resolved settings; a different sweep is refused here
    ├── study.journal       the Optuna studies: one for each architecture, and one for the work that is fixed
    ├── trials/ani/000/     run folder of each trial; 000 is E-F alone
    ├── transfer/           run folders of each architecture with the weights of another
    ├── final/              run folders of the retraining, with records and predictions
    ├── best/ani.yaml       trains as it is
    ├── trials.csv          every trial: values, score, cost, reason of a failure
    ├── sweep.html          what tuning found: history, importance, slices, contours, transfer
    ├── sweep.md            its tables
    ├── sweep.log           what was finished when
    └── leaderboard/        index.html, leaderboard.md, .csv, .json

Several processes, on one machine or on many, may do the same sweep: a piece of work is done by whoever claims it
first (:mod:`hessgnn.sweep.trial_queue`). Each waits for the others at the end, and has the whole result then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState

from hessgnn.errors import NothingTrained
from hessgnn.evaluation.evaluate import record_failure, record_mean_predictor
from hessgnn.evaluation.record import Budget, Cost, read_record
from hessgnn.experiments.config import folder_name
from hessgnn.experiments.folder import joined
from hessgnn.experiments.job import (
    EvaluationRequest,
    Event,
    Job,
    JobResult,
    Observer,
    Work,
    equal_steps,
    record_job_failure,
    run_job,
    update_tuning_cost,
)
from hessgnn.experiments.workers import JobScheduler, Watch, Workers
from hessgnn.leaderboard.trials import TrialResult, write_trials
from hessgnn.runtime.config import save
from hessgnn.runtime.files import write_text
from hessgnn.runtime.processes import WorkerDied, uninterrupted
from hessgnn.runtime.worker import Stopped
from hessgnn.sweep.config import PAPER_WEIGHTS, SweepConfig
from hessgnn.sweep.heartbeat import Heartbeat
from hessgnn.sweep.measure import measure_balance
from hessgnn.sweep.report import Transferred, write_report
from hessgnn.sweep.storage import create_study, prepare_sweep, storage_of, tuning_study, unusable
from hessgnn.sweep.trial_queue import STALE, STOPPED, TrialQueue, is_open, reason_of
from hessgnn.sweep.tuning import (
    BASELINE,
    PRODUCTS,
    SCORE,
    SECONDS,
    TrialRequest,
    Tuning,
    baseline_key,
    trial_rows,
)
from hessgnn.training.regimes import StudyRegime
from hessgnn.training.run import Run, ValidationPoint

_RECORD = "record"
"""User attribute of a retraining: its record, so that every machine has it."""
_PAUSE = 1.0  # seconds between two looks at what others do


@dataclass(frozen=True)
class TrialFinished(Event):
    """A trial has been closed; it follows the :class:`~hessgnn.experiments.job.JobFinished` of its worker."""

    row: TrialResult
    title: str
    """What messages call it."""


def sweep(config: SweepConfig, folder: Path, observer: Observer) -> list[Path]:
    """Run a sweep, or resume it, or help another process with it.

    The observer is called with every event, in the main thread. Returned are the folders with the records of the
    leaderboard, the mean predictor first.

    Raises
    ------
    ConfigError
        When the folder or the storage holds another sweep, or cannot be used.
    NothingTrained
        When no architecture could be trained.
    """
    with ExitStack() as stack:
        with uninterrupted():
            stack.enter_context(joined(folder, partial(prepare_sweep, config, folder)))
            storage = stack.enter_context(storage_of(config, folder))
            heartbeat = stack.enter_context(Heartbeat(storage, config.heartbeat))
            running = _Sweep(config, folder, storage, heartbeat, observer)
        try:
            finals = running.run()
        except StorageInternalError as error:
            raise unusable(config, folder, error) from error
    mean = folder / "final" / "mean-predictor"
    if not Run(mean).record.exists():
        record_mean_predictor(mean, config.data, sample=config.evaluate.sample)
    return [mean, *finals]


class _Sweep:
    """A sweep as one process does it: a chain for each architecture."""

    def __init__(
        self, config: SweepConfig, folder: Path, storage: Any, heartbeat: Heartbeat, observer: Observer
    ) -> None:
        self.config, self.folder, self.storage, self.observer = config, folder, storage, observer
        self.heartbeat = heartbeat
        self.fixed = TrialQueue(create_study(config.name, storage), heartbeat, config.max_retries)
        self.workers = Workers(config.workers, config.threads)
        self.scheduler = JobScheduler(self.workers)
        self.pause = min(_PAUSE, config.heartbeat / 3)

    def run(self) -> list[Path]:
        """Everything; the folders of the retrained."""
        chains = [partial(self._architecture, architecture) for architecture in self.config.architectures]
        try:
            found = self.scheduler.run(chains, self.observer)
        finally:
            with uninterrupted():
                rows = self._write_trials()
        self.workers.close()
        studies = {architecture: self._tuning(architecture).study for architecture in self.config.architectures}
        write_report(self.config, rows, [item for _, items in found for item in items], studies, self.folder)
        finals = [path for paths, _ in found for path in paths]
        if all(read_record(Run(path).record).status == "failed" for path in finals):
            reasons = sorted({row.reason for row in rows if row.reason})
            raise NothingTrained(
                f"no architecture could be trained ({'; '.join(reasons[:3]) or 'the retraining failed'})",
                where=self.folder / "trials.csv",
                hint="see its column `reason`",
            )
        return finals

    def _architecture(self, architecture: str) -> tuple[list[Path], list[Transferred]]:
        baseline = self._tune(architecture)
        finals = self._retrain(architecture)
        return finals, self._transfer(architecture, baseline) if self.config.transfer else []

    # Tuning

    def _tune(self, architecture: str) -> float:
        """The baseline first, which scores are relative to; then the trials, by several hands if there are enough."""
        baseline = self._baseline(architecture)
        known = self._balance(architecture)
        hands = math.ceil(max(1, self.config.workers) / len(self.config.architectures))
        self.scheduler.beside([partial(self._try_all, architecture, baseline, known)] * hands)
        return baseline

    def _baseline(self, architecture: str) -> float:
        """Score of E-F alone, with the base's settings; 1 where it failed, so that scores are in fixed units."""
        tuning = self._tuning(architecture)
        job = self._trial_job(architecture, BASELINE, tuning.starting_values({}), regime="E-F")
        entry, fresh = self._once(baseline_key(architecture), job)
        if fresh:
            self._post_trial(tuning, BASELINE, job)
        return entry.user_attrs.get(SCORE, 1.0)

    def _balance(self, architecture: str) -> dict[str, float]:
        """The Hessian weight that balances the losses; nothing where it cannot be measured."""
        values = self._tuning(architecture).starting_values({})
        run = self.config.run_config(architecture, values, steps=self.config.budget.steps, seed=self.config.seed)
        job = Job(
            run, self.folder / "trials" / folder_name(architecture) / "balance", architecture, "", stage="balance"
        )
        entry, _ = self._once(f"balance {architecture}", job, work=measure_balance)
        return {} if entry.state != TrialState.COMPLETE else {"loss.hessian": entry.values[0]}

    def _try_all(self, architecture: str, baseline: float, known: dict[str, float]) -> None:
        tuning = self._tuning(architecture)
        while (request := tuning.ask(known)) is not None:
            if not isinstance(request, TrialRequest):
                self.scheduler.pause(self.pause)
                continue
            job = self._trial_job(architecture, request.number, request.values)
            result = self._attempt(tuning.queue, request.trial, job, partial(tuning.prune, request, baseline=baseline))
            if result is not None:
                tuning.tell(request, result, baseline)
                self._post_trial(tuning, request.number, job)

    def _post_trial(self, tuning: Tuning, number: int, job: Job) -> None:
        """Post that a trial was closed; nothing of one that others had marked stale, and do again."""
        for row in trial_rows(self.config, tuning.architecture, self.fixed, tuning):
            if row.trial == number:
                self.workers.post(TrialFinished(row, str(job.title)))

    def _transfer(self, architecture: str, baseline: float) -> list[Transferred]:
        """The architecture with the loss weights of each other, as long as a trial."""
        own, found = self._tuning(architecture).best(), []
        for other in self.config.architectures:
            tuning = self._tuning(other)
            while other != architecture and not tuning.is_done:
                self.scheduler.pause(self.pause)
            best = tuning.best()
            if other == architecture or own is None or best is None:
                continue
            number, trial = best
            values = {**own[1].params, **{key: trial.params[key] for key in PAPER_WEIGHTS if key in trial.params}}
            run = self.config.run_config(architecture, values, steps=self.config.budget.steps, seed=self.config.seed)
            name = f"{folder_name(architecture)}-with-{folder_name(other)}-{own[0]:03d}-{number:03d}"
            job = Job(run, self.folder / "transfer" / name, architecture, f"with weights of {other}", stage="transfer")
            entry, _ = self._once(f"transfer {architecture} {own[0]} {other} {number}", job)
            score = entry.values[0] / baseline if entry.state == TrialState.COMPLETE else None
            found.append(Transferred(architecture, other, values, score))
        return found

    # Retraining

    def _retrain(self, architecture: str) -> list[Path]:
        """The best of the trials again, longer and with fresh seeds, beside its twins without Hessians."""
        config, tuning = self.config, self._tuning(architecture)
        rows = trial_rows(config, architecture, self.fixed, tuning)
        spent = Cost(sweep_trials=len(rows), sweep_device_seconds=sum(row.device_seconds for row in rows))
        best = tuning.best()
        pairs = [(regime, seed) for seed in config.seeds for regime in config.regimes]
        jobs = [self._final_job(architecture, best, regime, seed, spent) for regime, seed in pairs]
        if best is None:
            reason = f"no trial could be trained; the last: {rows[-1].reason if rows else 'none was begun'}"
            for job in jobs:
                record_failure(job.folder, job.config, reason, spent)
            return [job.folder for job in jobs]
        tuned = config.run_config(architecture, best[1].params, steps=config.final_steps, seed=config.seeds[0])
        threads = tuned.training.threads or self.workers.threads  # sums depend on it in their last digits
        training = tuned.training.model_copy(update={"threads": threads})
        path = self.folder / "best" / f"{folder_name(architecture)}.yaml"
        save(tuned.model_copy(update={"training": training}), path)
        self.scheduler.beside([partial(self._final, job) for job in jobs])
        if config.equal_seconds:
            others = [(regime, seed) for regime, seed in pairs if regime != "E-F-H"]
            equal = [self._equal_job(architecture, best, regime, seed, spent) for regime, seed in others]
            again = [job for job in equal if job is not None]
            self.scheduler.beside([partial(self._final, job) for job in again])
            jobs += again
        return [job.folder for job in jobs]

    def _final(self, job: Job) -> None:
        entry, _ = self._once(f"final {job.folder.name}", job)
        path = Run(job.folder).record
        assert job.evaluation is not None
        if not path.exists():
            if (text := entry.user_attrs.get(_RECORD)) is not None:  # made on another machine
                write_text(path, text)
            else:
                record_job_failure(job, reason_of(entry) or "no record was written")
        update_tuning_cost(path, job.evaluation.spent)

    def _final_job(
        self,
        architecture: str,
        best: tuple[int, FrozenTrial] | None,
        regime: StudyRegime,
        seed: int,
        spent: Cost,
        *,
        steps: int | None = None,
    ) -> Job:
        """A retraining. The twins without Hessians were not tuned on their own: they have the other settings of it."""
        config = self.config
        values, chosen = ({}, "failed") if best is None else (best[1].params, f"trial{best[0]:03d}")
        budget: Budget = "steps" if steps is None else "seconds"
        run = config.run_config(
            architecture, values, steps=steps or config.final_steps, seed=seed, regime=regime, budget=budget
        )
        equal = "" if budget == "steps" else "-seconds"
        path = self.folder / "final" / f"{folder_name(architecture)}-{regime}{equal}-{chosen}-seed{seed}"
        tasks = config.tasks if budget == "steps" else config.equal_seconds_tasks
        how = EvaluationRequest(spent, tasks=tasks, settings=config.evaluate, budget=budget)
        label = f"{regime}{' equal time' if equal else ''} seed {seed}"
        return Job(run, path, architecture, label, how, stage="final")

    def _equal_job(
        self, architecture: str, best: tuple[int, FrozenTrial], regime: StudyRegime, seed: int, spent: Cost
    ) -> Job | None:
        """A retraining for the device-seconds of E-F-H; none where one of the two failed."""
        pair = [self._final_job(architecture, best, r, seed, spent).folder for r in (regime, "E-F-H")]
        own, other = (read_record(Run(path).record) for path in pair)
        mine, theirs = own.cost.seconds_per_step, other.cost.seconds_per_step
        if "failed" in (own.status, other.status) or mine is None or theirs is None:
            return None
        steps = equal_steps(other.cost.steps, mine, theirs)
        return self._final_job(architecture, best, regime, seed, spent, steps=steps)

    # Work

    def _once(self, key: str, job: Job, *, work: Work = run_job) -> tuple[FrozenTrial, bool]:
        """Do a piece of fixed work, or wait until another process has done it; and whether it was done here."""
        self.fixed.add([key])
        done_here = False
        while is_open(entry := self.fixed.entries()[key]):
            trial = self.fixed.claim(entry) if entry.state == TrialState.WAITING else None
            if trial is None:
                self.scheduler.pause(self.pause)
                continue
            result = self._attempt(self.fixed, trial, job, work=work)
            if result is None:
                continue
            done_here = True
            if result.score is None:
                self.fixed.fail(trial, result.reason or "no score")
                continue
            facts: dict[str, Any] = {SCORE: result.score, SECONDS: result.device_seconds, PRODUCTS: result.products}
            if job.evaluation is not None:
                facts[_RECORD] = Run(job.folder).record.read_text(encoding="utf-8")
            self.fixed.annotate(trial, facts)
            self.fixed.finish(trial, (result.score,))
        return entry, done_here

    def _attempt(
        self,
        queue: TrialQueue,
        trial: Trial,
        job: Job,
        prune: Callable[[Any], str | None] | None = None,
        work: Work = run_job,
    ) -> JobResult | None:
        """Let a worker do a job; ``None`` where its process died, and the job has been put in again or given up."""
        try:
            return self.scheduler.submit(job, self._watch(trial, prune), work=work)
        except WorkerDied as error:
            queue.retry(trial, error.what, died=True)
            return None
        except Stopped:
            queue.retry(trial, STOPPED, died=False)
            raise
        except BaseException as error:
            queue.retry(trial, f"stopped by {type(error).__name__}: {error}", died=False)
            raise

    def _watch(self, trial: Trial, prune: Callable[[Any], str | None] | None) -> Watch:
        hours = self.config.budget.trial_hours if prune is not None else None
        started: list[float] = []  # when it is first asked: a job may wait for a worker

        def watch(point: ValidationPoint | None) -> str | None:
            if not started:
                started.append(time.monotonic())
            if self.heartbeat.lost(trial._trial_id):
                return STALE
            if hours is not None and time.monotonic() - started[0] > 3600 * hours:
                return f"ran longer than budget.trial_hours = {hours:g}"
            return None if prune is None or point is None else prune(point)

        return watch

    def _tuning(self, architecture: str) -> Tuning:
        """Each thread has its own: the sampler of a study is changed from trial to trial."""
        study = tuning_study(self.config, architecture, self.storage)
        return Tuning(self.config, architecture, study, self.heartbeat)

    def _trial_job(self, architecture: str, number: int, values: dict[str, Any], regime: StudyRegime = "E-F-H") -> Job:
        config = self.config
        run = config.run_config(architecture, values, steps=config.budget.steps, seed=config.seed, regime=regime)
        path = self.folder / "trials" / folder_name(architecture) / f"{number:03d}"
        return Job(run, path, architecture, f"{number + 1}/{config.budget.trials}", stage="trial")

    def _write_trials(self) -> list[TrialResult]:
        rows = [
            row
            for architecture in self.config.architectures
            for row in trial_rows(self.config, architecture, self.fixed, self._tuning(architecture))
        ]
        write_trials(rows, self.config.space, self.folder / "trials.csv")
        return rows
