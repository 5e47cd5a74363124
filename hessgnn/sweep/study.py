"""One Optuna study for each architecture, asked and told in a way that an interruption does not change.

A study is divided into slots, one for each trial of the budget. The sampler of a slot is seeded by the slot, and a
trial that was interrupted goes on in its slot with the values it was given. So a sweep that was killed and started
again tries the same values as one that was not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from hessgnn.config import get_dotted
from hessgnn.errors import ConfigError
from hessgnn.sweep.config import Range, Regime, SweepConfig

PAPER_WEIGHTS = {"loss.forces": 0.30, "loss.hessian": 0.09}
"""Å² and Å⁴, of arXiv 2503.07839."""

_SLOT, _REGIME, _REASON, _SECONDS = "slot", "regime", "reason", "device_seconds"
_SETTINGS = "settings"
_JOURNAL = "study.journal"


@dataclass(frozen=True)
class Task:
    """What a slot tries."""

    number: int
    slot: int
    regime: Regime
    values: dict[str, Any]


class Study:
    """The trials of one architecture.

    Parameters
    ----------
    config
        The sweep.
    architecture
        Its label.
    folder
        Of the sweep; holds the journal file unless the sweep names a storage.

    Raises
    ------
    ConfigError
        When the storage cannot be reached, or holds a study of that name with other settings.
    """

    def __init__(self, config: SweepConfig, architecture: str, folder: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.config, self.architecture = config, architecture
        untuned = config.run_config(architecture, PAPER_WEIGHTS, steps=config.trial_steps, seed=config.seed)
        self.defaults = {key: get_dotted(untuned.model_dump(), key) for key in config.space}
        self.distributions = {key: values.distribution() for key, values in config.space.items()}
        name = f"{config.name}-{architecture}"
        try:
            self.study = optuna.create_study(
                study_name=name, storage=_storage(config, folder), direction="minimize", load_if_exists=True
            )
            known = self.study.user_attrs.get(_SETTINGS)
            if known is None:
                self.study.set_user_attr(_SETTINGS, config.identity())
        except Exception as error:  # each storage raises errors of its own driver
            raise ConfigError(
                f"the storage cannot be used ({' '.join(str(error).split())})",
                where=config.storage or folder,
                remedy="check the URL, or leave `storage` out for a journal file",
            ) from error
        if known is not None and known != config.identity():
            changed = sorted(
                key for key in {*known, *config.identity()} if known.get(key) != config.identity().get(key)
            )
            raise ConfigError(
                f"the storage holds a study {name!r} with other settings ({', '.join(changed)})",
                where=config.storage or folder,
                remedy="give the sweep another `name`",
            )

    def next(self) -> Task | None:
        """The trial to run now: the one that was interrupted, or a new one, or ``None`` when the budget is spent."""
        trials = self._by_slot()
        for slot in range(self.config.trials):
            trial = trials.get(slot)
            if trial is None:
                return self._ask(slot)
            if trial.state == TrialState.RUNNING:
                return _task(trial)
        return None

    def complete(self, task: Task, score: float, device_seconds: float) -> None:
        """Tell the score of a trial.

        Parameters
        ----------
        task
            From :meth:`next`.
        score
            Lower is better.
        device_seconds
            What it cost.
        """
        self._annotate(task, _SECONDS, device_seconds)
        self.study.tell(task.number, score)

    def fail(self, task: Task, reason: str) -> None:
        """Tell that a trial failed, and why. It counts as one of the budget.

        Parameters
        ----------
        task
            From :meth:`next`.
        reason
            One line.
        """
        self._annotate(task, _REASON, reason)
        self.study.tell(task.number, state=TrialState.FAIL)

    def trials(self) -> list[FrozenTrial]:
        """Finished trials within the budget, in order."""
        trials = self._by_slot()
        return [
            trials[slot] for slot in range(self.config.trials) if slot in trials and trials[slot].state.is_finished()
        ]

    def best(self) -> FrozenTrial | None:
        """The best trial that saw Hessians; ``None`` if all of them failed."""
        complete = [
            trial
            for trial in self.trials()
            if trial.state == TrialState.COMPLETE and trial.user_attrs[_REGIME] == "E-F-H"
        ]
        return min(complete, key=lambda trial: (trial.value, trial.number), default=None)

    def _ask(self, slot: int) -> Task:
        """A new trial: E-F alone first, then the paper's weights, then what the sampler proposes."""
        regime: Regime = "E-F" if slot == 0 else "E-F-H"
        space = {
            key: distribution
            for key, distribution in self.distributions.items()
            if not (regime == "E-F" and key == "loss.hessian")
        }
        self.study.sampler = self._sampler(slot, space)
        trial = self.study.ask(space)
        trial.set_user_attr(_REGIME, regime)
        trial.set_user_attr(_SLOT, slot)  # last: a trial without a slot was interrupted before it was whole
        return Task(trial.number, slot, regime, trial.params)

    def _sampler(self, slot: int, space: Iterable[str]) -> BaseSampler:
        """Known values in the first slots. Optuna's queue would give them to the wrong slot after an interruption."""
        seed = 1000 * self.config.seed + slot
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if slot < 2:
                return PartialFixedSampler(self._known_values(space), RandomSampler(seed))
            return TPESampler(
                seed=seed,
                n_startup_trials=self.config.startup,
                multivariate=True,
                group=True,  # E-F trials have no Hessian weight
            )

    def _known_values(self, space: Iterable[str]) -> dict[str, Any]:
        """The paper's weights and the base's other values where they lie inside the ranges, else the nearest bound."""
        values = {}
        for key in space:
            allowed, value = self.config.space[key], self.defaults[key]
            if isinstance(allowed, Range):
                if isinstance(value, int | float):  # else it is switched off in the base
                    lowest, highest = allowed.extremes()
                    values[key] = min(max(value, lowest), highest)
            elif value in allowed.choices:
                values[key] = value
        return values

    def _by_slot(self) -> dict[int, FrozenTrial]:
        trials = {}
        for trial in self.study.get_trials(deepcopy=False):
            if _SLOT in trial.user_attrs:
                trials[trial.user_attrs[_SLOT]] = trial
            elif trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)  # interrupted before it was whole
        return trials

    def _annotate(self, task: Task, key: str, value: Any) -> None:
        frozen = self.study.get_trials(deepcopy=False)[task.number]
        Trial(self.study, frozen._trial_id).set_user_attr(key, value)  # Optuna has no public way to a running trial


def regime_of(trial: FrozenTrial) -> Regime:
    """Which labels a trial saw."""
    return trial.user_attrs[_REGIME]


def slot_of(trial: FrozenTrial) -> int:
    """Place of a trial in the budget."""
    return trial.user_attrs[_SLOT]


def reason_of(trial: FrozenTrial) -> str | None:
    """Why a trial failed."""
    return trial.user_attrs.get(_REASON)


def device_seconds_of(trial: FrozenTrial) -> float:
    """What a trial cost."""
    return trial.user_attrs.get(_SECONDS, 0.0)


def _task(trial: FrozenTrial) -> Task:
    return Task(trial.number, slot_of(trial), regime_of(trial), trial.params)


def _storage(config: SweepConfig, folder: Path) -> Any:
    if config.storage is not None:
        return config.storage
    folder.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(folder / _JOURNAL)))


def mend_journal(folder: Path) -> None:
    """Take away what a killed process may have left: the journal's lock, and a line that was not finished.

    Parameters
    ----------
    folder
        Of the sweep, which no other process may be using.
    """
    for lock in folder.glob(f"{_JOURNAL}.lock*"):
        lock.unlink()
    journal = folder / _JOURNAL
    if journal.exists():
        whole = journal.read_bytes().rfind(b"\n") + 1
        with journal.open("r+b") as file:
            file.truncate(whole)
