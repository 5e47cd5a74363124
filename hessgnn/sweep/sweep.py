"""The main job: tune each architecture for each kind of labels, retrain the best of each, evaluate it, compare.

::

    runs/quickstart/
    ├── sweep.yaml          the resolved settings; a different sweep is refused here
    ├── study.journal       the Optuna studies: one for each architecture and kind of labels, one for fixed work
    ├── data/               training sets: parts of the training split, displaced frames
    ├── trials/ani/E-F-H/000/  run folder of each trial; 000 has the paper's weights
    ├── transfer/           run folders of each architecture with the weights of another
    ├── ranking/            run folders of trials that were trained for as long as the retraining
    ├── final/              run folders of the retraining, with records and predictions
    ├── best/ani E-F-H.yaml trains as it is
    ├── trials.csv          every trial: values, score, cost, reason of a failure
    ├── sweep.html          what tuning found: history, ranking, importance, slices, contours, transfer
    ├── sweep.md            its tables
    ├── sweep.log           what was finished when
    └── leaderboard/        index.html, leaderboard.md, .csv, .json

Several processes, on one machine or on many, may do the same sweep: a piece of work is done by whoever claims it
first (:mod:`hessgnn.sweep.trial_queue`). Each waits for the others at the end, and has the whole result then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState

from hessgnn.data.store.store import Store
from hessgnn.errors import NothingTrained, TrainingError
from hessgnn.evaluation.evaluate import record_mean_predictor
from hessgnn.evaluation.record import Budget, Cost, read_record
from hessgnn.experiments.config import folder_name
from hessgnn.experiments.folder import joined
from hessgnn.experiments.job import (
    EvaluationRequest,
    Event,
    Job,
    JobResult,
    Note,
    Observer,
    Work,
    equal_steps,
    frozen_step_costs,
    measure_step_costs,
    record_job_failure,
    run_job,
    update_tuning_cost,
)
from hessgnn.experiments.labels import TrainingSets
from hessgnn.experiments.workers import JobScheduler, Watch, Workers
from hessgnn.leaderboard.trials import TrialResult, write_trials
from hessgnn.runtime.config import save
from hessgnn.runtime.files import write_text
from hessgnn.runtime.processes import WorkerDied, uninterrupted
from hessgnn.runtime.worker import Stopped
from hessgnn.sweep.config import DISPLACEMENT, PAPER_WEIGHTS, Choice, Subject, SweepConfig, run_values
from hessgnn.sweep.heartbeat import Heartbeat
from hessgnn.sweep.measure import measure_balance
from hessgnn.sweep.report import Transferred, write_report
from hessgnn.sweep.storage import create_study, prepare_sweep, storage_of, tuning_study, unusable
from hessgnn.sweep.trial_queue import STALE, STOPPED, TrialQueue, is_open, reason_of
from hessgnn.sweep.tuning import BALANCE, PRODUCTS, SECONDS, TrialRequest, Tuning, ranking_key, trial_rows
from hessgnn.training.config import RunConfig
from hessgnn.training.regimes import StudyRegime, label_set
from hessgnn.training.run import Run, ValidationPoint

_RECORD = "record"
"""User attribute of a retraining: its record, so that every machine has it."""
_MEASURED = "measured"
"""User attribute of a job that trains nothing: what it found."""
_RUNS = ("ranking ", "transfer ", "final ")  # what keys of fixed work begin with where it is a run
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
    """A sweep as one process does it: a chain for each architecture and kind of labels."""

    def __init__(
        self, config: SweepConfig, folder: Path, storage: Any, heartbeat: Heartbeat, observer: Observer
    ) -> None:
        self.config, self.folder, self.storage, self.observer = config, folder, storage, observer
        self.heartbeat = heartbeat
        self.fixed = TrialQueue(create_study(config.name, storage), heartbeat, config.max_retries)
        self.workers = Workers(config.workers, config.threads)
        self.scheduler = JobScheduler(self.workers)
        self.pause = min(_PAUSE, config.heartbeat / 3)
        self.sets = TrainingSets(config, Store.open(config.data.path), folder / "data", self._post)

    def run(self) -> list[Path]:
        """Everything; the folders of the retrained."""
        chains = [partial(self._subject, subject) for subject in self.config.subjects]
        done = sum(key.startswith(_RUNS) and not is_open(entry) for key, entry in self.fixed.entries().items())
        if done := done + sum(len(self._tuning(subject).trials()) for subject in self.config.subjects):
            self.observer(Note("resumed", f"{done} of {self.config.count_runs().runs} runs were finished"))
        try:
            self.scheduler.run([self._label], self.observer)
            found = self.scheduler.run(chains, self.observer)
            equal = [partial(self._equal, *item) for item in self._equal_runs()]
            again = self.scheduler.run(equal, self.observer) if equal else []
        finally:
            with uninterrupted():
                rows = self._write_trials()
        self.workers.close()
        studies = {str(subject): self._tuning(subject).study for subject in self.config.subjects}
        write_report(self.config, rows, [item for _, items in found for item in items], studies, self.folder)
        finals = [path for paths, _ in found for path in paths] + [path for path in again if path is not None]
        if all(read_record(Run(path).record).status == "failed" for path in finals):
            reasons = sorted({row.reason for row in rows if row.reason})
            raise NothingTrained(
                f"no architecture could be trained ({'; '.join(reasons[:3]) or 'the retraining failed'})",
                where=self.folder / "trials.csv",
                hint="see its column `reason`",
            )
        return finals

    def _subject(self, subject: Subject) -> tuple[list[Path], list[Transferred]]:
        self._tune(subject)
        finals = self._retrain(subject)
        self._check_ranking(subject)
        return finals, self._transfer(subject) if self.config.transfer and subject.has_hessians else []

    # Labels

    def _post(self, event: Event) -> None:
        """Pass on what happens in the thread of a chain; what it does ends when all is to end."""
        self.scheduler.pause(0)
        self.workers.post(event)

    def _label(self) -> None:
        """Label the displaced frames of the trials before anything is trained, where it is known which ones."""
        if self.config.labels.hessian_gradients == "measured":
            self._post(Note("labels", self.sets.hessian_cost()))
        known = self.config.space.get(DISPLACEMENT, Choice(choices=(self.config.labels.displacement,)))
        for regime in self.config.regimes:
            if label_set(regime).needs_engine and isinstance(known, Choice):
                for displacement in known.choices:
                    self._training_set(regime, {DISPLACEMENT: displacement}, self.config.seed)

    def _training_set(self, regime: StudyRegime, values: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """What the training set of a run changes in its configuration; each seed draws its own part of the data."""
        fraction, displacement = self.config.fraction, values.get(DISPLACEMENT)
        path = self.sets.path(regime, fraction=fraction, draw=seed, displacement=displacement)
        return {"data.path": str(path), **self.sets.changes(fraction=fraction, draw=seed)}

    # Tuning

    def _tune(self, subject: Subject) -> None:
        """The trials, by several hands if there are more workers than studies."""
        known = self._balance(subject)
        hands = math.ceil(max(1, self.config.workers) / len(self.config.subjects))
        self.scheduler.beside([partial(self._try_all, subject, known)] * hands)

    def _balance(self, subject: Subject) -> dict[str, float]:
        """The Hessian weight that balances the losses; nothing where it cannot be measured, or is not tuned."""
        tuning = self._tuning(subject)
        if "loss.hessian" not in tuning.space or self.config.budget.trials <= BALANCE:
            return {}
        run = self._trial_run(subject, tuning.starting_values({}))
        job = Job(run, self.folder / "trials" / subject.folder / "balance", str(subject), "", stage="balance")
        entry, _ = self._once(f"balance {subject}", job, work=measure_balance)
        return {} if entry.state != TrialState.COMPLETE else {"loss.hessian": entry.values[0]}

    def _try_all(self, subject: Subject, known: dict[str, float]) -> None:
        tuning = self._tuning(subject)
        while (request := tuning.ask(known)) is not None:
            if not isinstance(request, TrialRequest):
                self.scheduler.pause(self.pause)
                continue
            path = self.folder / "trials" / subject.folder / f"{request.number:03d}"
            job = Job(self._trial_run(subject, request.values), path, str(subject), f"{request.number}", stage="trial")
            result = self._attempt(tuning.queue, request.trial, job, partial(tuning.prune, request))
            if result is not None:
                tuning.tell(request, result)
                self._post_trial(tuning, request.number, job)

    def _post_trial(self, tuning: Tuning, number: int, job: Job) -> None:
        """Post that a trial was closed; nothing of one that others had marked stale, and do again."""
        for row in trial_rows(tuning, self.fixed):
            if row.trial == number:
                self.workers.post(TrialFinished(row, str(job.title)))

    def _trial_run(self, subject: Subject, values: dict[str, Any], *, steps: int | None = None) -> RunConfig:
        """The configuration of a trial on the training set of its kind of labels."""
        data = self._training_set(subject.regime, values, self.config.seed)
        return self.config.trial_config(subject, {**data, **values}, steps=steps)

    def _check_ranking(self, subject: Subject) -> None:
        """Train the best trials and the worst one for as long as the retraining, to see whether the choice holds."""
        number = self.config.check_ranking.trials
        ranked = self._tuning(subject).ranked() if number else []
        checked = [*ranked[:number], *ranked[number:][-1:]]
        if len(checked) > 1:
            self.scheduler.beside([partial(self._train_longer, subject, *item) for item in checked])

    def _train_longer(self, subject: Subject, number: int, trial: FrozenTrial) -> None:
        run = self._trial_run(subject, trial.params, steps=self.config.final_steps)
        path = self.folder / "ranking" / subject.folder / f"{number:03d}"
        self._once(ranking_key(subject, number), Job(run, path, str(subject), f"trial {number}", stage="ranking"))

    def _transfer(self, subject: Subject) -> list[Transferred]:
        """The architecture with the loss weights of each other on the same labels, as long as a trial."""
        own, found = self._tuning(subject).best(), []
        for other in self.config.architectures:
            tuning = self._tuning(Subject(other, subject.regime))
            while other != subject.architecture and not tuning.is_done:
                self.scheduler.pause(self.pause)
            best = tuning.best()
            if other == subject.architecture or own is None or best is None:
                continue
            number, trial = best
            values = {**own[1].params, **{key: trial.params[key] for key in PAPER_WEIGHTS if key in trial.params}}
            name = f"{subject.file}-with-{folder_name(other)}-{own[0]:03d}-{number:03d}"
            run, path = self._trial_run(subject, values), self.folder / "transfer" / name
            job = Job(run, path, str(subject), f"with weights of {other}", stage="transfer")
            entry, _ = self._once(f"transfer {subject} {own[0]} {other} {number}", job)
            score = entry.values[0] if entry.state == TrialState.COMPLETE else None
            found.append(Transferred(str(subject), other, values, score))
        return found

    # Retraining

    def _retrain(self, subject: Subject) -> list[Path]:
        """The best of the trials again, longer and with fresh seeds."""
        config, best = self.config, self._tuning(subject).best()
        jobs = [self._final_job(subject, best, seed) for seed in config.seeds]
        if best is None:
            rows = trial_rows(self._tuning(subject), self.fixed)
            reason = f"no trial could be trained; the last: {rows[-1].reason if rows else 'none was begun'}"
            for job in jobs:
                record_job_failure(job, reason)
            return [job.folder for job in jobs]
        tuned = jobs[0].config
        threads = tuned.training.threads or self.workers.threads  # sums depend on it in their last digits
        training = tuned.training.model_copy(update={"threads": threads})
        path = self.folder / "best" / f"{subject.file}.yaml"
        save(tuned.model_copy(update={"training": training}), path)
        self.scheduler.beside([partial(self._final, job) for job in jobs])
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
        self, subject: Subject, best: tuple[int, FrozenTrial] | None, seed: int, *, steps: int | None = None
    ) -> Job:
        """A retraining with the best values that were found for its own kind of labels."""
        config, regime = self.config, subject.regime
        values, chosen = ({}, "failed") if best is None else (best[1].params, f"trial{best[0]:03d}")
        budget: Budget = "steps" if steps is None else "seconds"
        run = config.run_config(
            subject.architecture,
            {**self._training_set(regime, values, seed), **run_values(values)},
            steps=steps or config.final_steps,
            seed=seed,
            regime=regime,
            budget=budget,
        )
        equal = "" if budget == "steps" else "-seconds"
        name = f"{folder_name(subject.architecture)}-{label_set(regime).file_name}{equal}-{chosen}-seed{seed}"
        tasks = config.tasks if budget == "steps" else config.equal_seconds_tasks
        how = EvaluationRequest(
            self._spent(subject, values, seed),
            tasks=tasks,
            settings=config.evaluate,
            data=str(self.sets.store.path),
            regime=regime,
            budget=budget,
            demonstration=config.demonstration,
        )
        label = f"{'equal time ' if equal else ''}seed {seed}"
        return Job(run, self.folder / "final" / name, str(subject), label, how, stage="final")

    def _spent(self, subject: Subject, values: Mapping[str, Any], seed: int) -> Cost:
        """What its own tuning and its labels cost before a retraining."""
        config, rows = self.config, trial_rows(self._tuning(subject), self.fixed)
        labels = self.sets.cost(subject.architecture, subject.regime, fraction=config.fraction, draw=seed)
        seen, own = [(config.seed, row.values.get(DISPLACEMENT)) for row in rows], (seed, values.get(DISPLACEMENT))
        beyond = self.sets.tuning_gradients(subject.regime, seen, own, fraction=config.fraction)
        spent = {"sweep_trials": len(rows), "sweep_device_seconds": sum(row.device_seconds for row in rows)}
        return labels.model_copy(update={**spent, "tuning_gradients": beyond})

    def _equal_runs(self) -> list[tuple[Subject, int]]:
        """What is trained again for the device-seconds of E-F-H, when all have been retrained."""
        again = self.config.retrained
        return [(s, seed) for s in self.config.subjects if s.regime in again for seed in self.config.seeds]

    def _equal(self, subject: Subject, seed: int) -> Path | None:
        """A retraining for the device-seconds of E-F-H, by frozen costs of a step; none where one of the two failed."""
        twin = Subject(subject.architecture, "E-F-H")
        best = self._tuning(subject).best()
        paths = [self._final_job(s, self._tuning(s).best(), seed).folder for s in (subject, twin)]
        own, other = (read_record(Run(path).record) for path in paths)
        if "failed" in (own.status, other.status):
            return None
        try:
            costs = self._step_costs(subject.architecture)
        except TrainingError:  # its runs say why
            return None
        steps = equal_steps(other.cost.steps, costs[subject.regime], costs["E-F-H"])
        job = self._final_job(subject, best, seed, steps=steps)
        self._final(job)
        return job.folder

    def _step_costs(self, architecture: str) -> dict[StudyRegime, float]:
        """What a step costs on each kind of labels with its best settings, measured once for all processes."""
        config, seed = self.config, self.config.seeds[0]

        def measure() -> dict[str, float]:
            runs = {}
            for regime in config.timed:
                subject = Subject(architecture, regime)
                runs[regime] = self._final_job(subject, self._tuning(subject).best(), seed).config
            path = self.folder / "data" / "step-costs" / folder_name(architecture)
            job = Job(runs["E-F-H"], path, architecture, "", stage="step costs")
            entry, _ = self._once(f"step costs {architecture}", job, work=partial(measure_step_costs, runs=runs))
            if entry.state != TrialState.COMPLETE:
                raise TrainingError(reason_of(entry) or "no step could be taken", where=path)
            return entry.user_attrs[_MEASURED]

        given = config.step_costs.get(architecture)
        return frozen_step_costs(given, architecture, self.folder / "data" / "step-costs.json", measure)

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
            facts: dict[str, Any] = {SECONDS: result.device_seconds, PRODUCTS: result.products}
            if result.measured:
                facts[_MEASURED] = result.measured
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

    def _tuning(self, subject: Subject) -> Tuning:
        """Each thread has its own: the sampler of a study is changed from trial to trial."""
        return Tuning(self.config, subject, tuning_study(self.config, subject, self.storage), self.heartbeat)

    def _write_trials(self) -> list[TrialResult]:
        rows = [row for subject in self.config.subjects for row in trial_rows(self._tuning(subject), self.fixed)]
        write_trials(rows, self.config.space, self.folder / "trials.csv")
        return rows
