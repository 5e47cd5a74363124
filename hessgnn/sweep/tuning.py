"""Tuning of one architecture on one kind of labels: an Optuna study with a budget, used by ask and tell.

The trials of a budget are numbered. The sampler of each is seeded by its number, its architecture and its kind of
labels, so that no two studies share draws. An interrupted trial resumes with the values that it was given. So where the
trials of a study run one after the other, a sweep that was killed and resumed tries the same values as an uninterrupted
one.
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, Trial, TrialState

from hessgnn.experiments.job import JobResult
from hessgnn.experiments.workers import PRUNED
from hessgnn.leaderboard.trials import TrialResult
from hessgnn.runtime.config import get_dotted
from hessgnn.runtime.imports import require
from hessgnn.sweep.config import DISPLACEMENT, PAPER_WEIGHTS, Choice, Range, Subject, SweepConfig, Values, several
from hessgnn.sweep.heartbeat import Heartbeat
from hessgnn.sweep.trial_queue import KIND, TrialQueue, attempts_of, is_open, reason_of
from hessgnn.training.run import ValidationPoint

TrialKind = Literal["paper", "balance", "sampled"]
"""Where the values of a trial come from: the paper's weights, the balance of the losses, the sampler."""

SECONDS, PRODUCTS = "device_seconds", "products"
"""User attributes of a trial."""

PAPER, BALANCE = 0, 1
"""Numbers of the trials with known values."""

_QUIET = threading.Lock()  # filters of warnings belong to the process: two threads would restore each other's
WAIT = "wait"
"""What :meth:`Tuning.ask` returns while others work on what must come first."""


@dataclass(frozen=True)
class TrialRequest:
    """A trial to be run."""

    number: int
    kind: TrialKind
    values: dict[str, Any]
    trial: Trial


class Tuning:
    """The trials of one architecture on one kind of labels."""

    def __init__(self, config: SweepConfig, subject: Subject, study: Study, heartbeat: Heartbeat) -> None:
        self.config, self.subject, self.study = config, subject, study
        self.space = config.space_of(subject.regime)
        self.study.pruner = _pruner(config, subject)
        self.queue = TrialQueue(study, heartbeat, config.max_retries)
        self.queue.add(map(str, range(config.budget.trials)))

    def ask(self, known: Mapping[str, float]) -> TrialRequest | str | None:
        """Claim the next trial.

        Parameters
        ----------
        known
            Values found by measurement, for the trial that tries the balance of the losses.

        Returns
        -------
        TrialRequest, str or None
            :data:`WAIT` while others work on what is left; ``None`` when all is done or the budget is spent.
        """
        entries = self._numbered()
        spent = self._is_spent(entries)
        for number, entry in entries.items():
            if entry.state == TrialState.WAITING and not spent:
                trial = self._claim(number, entry, known)
                if trial is not None:
                    return trial
                return WAIT
        running = any(entry.state == TrialState.RUNNING for entry in entries.values())
        return WAIT if running else None

    def tell(self, request: TrialRequest, result: JobResult) -> None:
        """Close a trial with its result."""
        self.queue.annotate(request.trial, {SECONDS: result.device_seconds, PRODUCTS: result.products})
        if result.score is None:
            self.queue.fail(request.trial, result.reason or "no score")
            return
        cost = {"device_seconds": result.device_seconds, "products": float(result.products)}
        second = () if self.config.objective.cost is None else (cost[self.config.objective.cost],)
        self.queue.finish(request.trial, (result.score, *second), pruned=result.pruned)

    def prune(self, request: TrialRequest, point: ValidationPoint) -> str | None:
        """Report a validation; return :data:`PRUNED` if the trial should end."""
        # Step 0 is the validation of what all trials start from.
        if self.config.pruner.kind == "none" or point.step < max(1, self.config.pruner.warmup):
            return None
        if point.step not in request.trial.storage.get_trial(request.trial._trial_id).intermediate_values:
            request.trial.report(point.score, point.step)
        sampled = request.kind == "sampled"  # the known weights are what the others are compared with
        last = point.step >= self.config.budget.steps
        return PRUNED if sampled and not last and request.trial.should_prune() else None

    def trials(self) -> dict[int, FrozenTrial]:
        """Finished trials within the budget: number -> trial, in order."""
        return {number: entry for number, entry in self._numbered().items() if not is_open(entry)}

    def ranked(self) -> list[tuple[int, FrozenTrial]]:
        """Complete trials with their numbers, the one with the lowest error first; of equals the earlier."""
        complete = [item for item in self.trials().items() if item[1].state == TrialState.COMPLETE]
        return sorted(complete, key=lambda item: (item[1].values[0], item[0]))

    def best(self) -> tuple[int, FrozenTrial] | None:
        """The trial with the lowest error, and its number; ``None`` if none came to its end."""
        return next(iter(self.ranked()), None)

    @property
    def is_done(self) -> bool:
        """Whether no trial is left to be run or waited for."""
        entries = self._numbered()
        if any(entry.state == TrialState.RUNNING for entry in entries.values()):
            return False
        return self._is_spent(entries) or not any(is_open(entry) for entry in entries.values())

    def _numbered(self) -> dict[int, FrozenTrial]:
        numbered = {int(key): entry for key, entry in self.queue.entries().items()}
        return {number: numbered[number] for number in sorted(numbered) if number < self.config.budget.trials}

    def _is_spent(self, entries: Mapping[int, FrozenTrial]) -> bool:
        budget = self.config.budget
        finished = [entry for entry in entries.values() if not is_open(entry)]
        seconds = sum(device_seconds_of(entry) for entry in finished)
        hours = sum(entry.duration.total_seconds() for entry in finished if entry.duration is not None) / 3600
        return seconds >= (budget.device_seconds or float("inf")) or hours >= (budget.hours or float("inf"))

    def _claim(self, number: int, entry: FrozenTrial, known: Mapping[str, float]) -> TrialRequest | None:
        begun: TrialKind | None = entry.user_attrs.get(KIND)  # which a trial that is tried again stays
        kind = begun or self._kind(number, known)
        fixed = {} if kind == "sampled" else self.starting_values(known if kind == "balance" else {})
        self.study.sampler = self._sampler(number, fixed)
        trial = self.queue.claim(entry)
        if trial is None:
            return None
        values = draw(trial, self.space)
        self.queue.annotate(trial, {KIND: kind})
        return TrialRequest(number, kind, values, trial)

    def _kind(self, number: int, known: Mapping[str, float]) -> TrialKind:
        """What a trial is; one with measured values only if these lie inside the space."""
        inside = [key for key in set(known) & set(self.space) if self.space[key].nearest(known[key]) == known[key]]
        return "paper" if number == PAPER else "balance" if number == BALANCE and inside else "sampled"

    def starting_values(self, known: Mapping[str, float]) -> dict[str, Any]:
        """The paper's weights and the base's other values, or what is allowed nearest to them.

        Values in ``known`` replace these. Keys without any value are left out.
        """
        defaults = self.config.trial_config(self.subject, PAPER_WEIGHTS).model_dump()
        measured = {DISPLACEMENT: self.config.labels.displacement, **known}
        values = {}
        for key, allowed in self.space.items():
            value = allowed.nearest(measured[key] if key in measured else get_dotted(defaults, key))
            if value is not None:
                values[key] = value
        return values

    def _sampler(self, number: int, fixed: dict[str, Any]) -> BaseSampler:
        settings, seed = self.config.sampler, _seed(self.config.seed, self.subject, number)
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if fixed:
                return PartialFixedSampler(fixed, RandomSampler(seed))
            if settings.kind == "random":
                return RandomSampler(seed)
            if settings.kind == "qmc":  # the sequence is one, whoever takes its next point
                first = _seed(self.config.seed, self.subject)
                return QMCSampler(seed=first, scramble=True, warn_independent_sampling=False)
            if settings.kind == "gp":
                return GPSampler(seed=seed, n_startup_trials=settings.startup)
            if settings.kind == "cmaes":
                require("cmaes", package="cmaes", extra="cmaes", purpose="the sampler 'cmaes'")
                return CmaEsSampler(seed=seed, n_startup_trials=settings.startup, warn_independent_sampling=False)
            return TPESampler(
                seed=seed,
                n_startup_trials=settings.startup,
                multivariate=True,
                group=True,  # keys with a condition
                constant_liar=True,  # others may be trying values nearby at this moment
            )


def _seed(*parts: object) -> int:
    """A seed of its own for each sweep's seed, architecture, kind of labels and number of the trial."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def kind_of(entry: FrozenTrial) -> str:
    """Where the values of a trial come from."""
    return entry.user_attrs.get(KIND, "sampled")


def device_seconds_of(entry: FrozenTrial) -> float:
    """What a trial cost."""
    return entry.user_attrs.get(SECONDS, 0.0)


def describe_state(entry: FrozenTrial) -> str:
    """How a trial ended: ``complete``, ``pruned`` or ``failed``."""
    return "failed" if entry.state == TrialState.FAIL else entry.state.name.lower()


def _pruner(config: SweepConfig, subject: Subject) -> BasePruner:
    settings = config.pruner
    if settings.kind == "median":
        return MedianPruner(settings.startup, settings.warmup)
    if settings.kind == "hyperband":
        every = config.trial_config(subject, {}).validation.every
        fewest = 1 if every == "epoch" else every  # an epoch's number of steps is not known without the data
        shortest = min(max(fewest, settings.warmup), config.budget.steps)
        return HyperbandPruner(shortest, config.budget.steps, settings.reduction)
    return NopPruner()


def draw(trial: Trial, space: Mapping[str, Range | Choice]) -> dict[str, Any]:
    """Let a trial's sampler choose a value for each dotted key whose condition is met."""
    drawn: dict[str, Any] = {}
    for key, values in space.items():
        if all(other in drawn and drawn[other] in several(wanted) for other, wanted in values.when.items()):
            drawn[key] = _suggest(trial, key, values)
    return drawn


def _suggest(trial: Trial, key: str, values: Values) -> Any:
    if isinstance(values, Choice):
        return trial.suggest_categorical(key, values.choices)
    assert isinstance(values, Range)
    low, high = values.extremes()
    if values.integer:
        return trial.suggest_int(key, low, high, log=values.log)
    return trial.suggest_float(key, low, high, log=values.log)


def ranking_key(subject: Subject, number: int) -> str:
    """Key of a trial that is trained for ``final_steps``, among the fixed work."""
    return f"ranking {subject} {number}"


def trial_rows(tuning: Tuning, works: TrialQueue) -> list[TrialResult]:
    """List the finished trials of a study in order; ``works`` holds those that were trained for longer."""
    entries = works.entries()
    rows = []
    for number, entry in tuning.trials().items():
        longer = entries.get(ranking_key(tuning.subject, number))
        known = longer is not None and longer.state == TrialState.COMPLETE
        rows.append(
            TrialResult(
                architecture=tuning.subject.architecture,
                trial=number,
                kind=kind_of(entry),
                regime=tuning.subject.regime,
                values=entry.params,
                score=entry.values[0] if entry.values else None,
                device_seconds=device_seconds_of(entry),
                products=entry.user_attrs.get(PRODUCTS, 0),
                attempts=attempts_of(entry),
                state=describe_state(entry),
                reason=reason_of(entry),
                final_score=longer.values[0] if known and longer is not None else None,
            )
        )
    return rows
