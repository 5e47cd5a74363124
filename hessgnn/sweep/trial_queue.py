"""Pieces of work, each done once by whoever claims it first, kept as the trials of an Optuna study.

Optuna alone gives no such promise: a trial of a killed process runs for ever in its books, and a budget counted by
several processes is overdrawn. Here each piece of work has a key. It is put into the study as a waiting trial, and a
storage hands a waiting trial to one process only. What died is closed with its reason, and a new attempt at the same
key is put in. Two processes may put in the same attempt at the same time: the one with the lower number counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from hessgnn.sweep.life import Heart

KEY, ATTEMPT, LOST, REASON, AGAIN = "key", "attempt", "lost", "reason", "again"
"""User attributes of a trial. ``lost``: attempts before it whose process died; ``again``: there is another after it."""

DIED = "the process that worked on it ended without a word (killed, or the machine went down)"
GIVEN_UP = "others had given it up, having seen no sign of life"
STOPPED = "stopped by the user"


class Ledger:
    """Work of one Optuna study.

    Parameters
    ----------
    study
        Holds nothing else.
    heart
        Of this process.
    max_retries
        Attempts after the first at what dies.
    """

    def __init__(self, study: Study, heart: Heart, max_retries: int) -> None:
        self.study, self.heart, self.max_retries = study, heart, max_retries
        self._storage = study._storage  # Optuna has no public way to claim a given trial, or to annotate a running one

    def entries(self) -> dict[str, FrozenTrial]:
        """The last attempt at each key, after what died has been closed."""
        found = self._entries()
        if self._close_dead(found):
            found = self._entries()
        return found

    def _entries(self) -> dict[str, FrozenTrial]:
        found: dict[str, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            key = trial.user_attrs.get(KEY)
            if key is not None and (key not in found or _attempt(trial) > _attempt(found[key])):
                found[key] = trial
        return found

    def add(self, keys: Iterable[str]) -> None:
        """Put in what is not there.

        Parameters
        ----------
        keys
            Of the work.
        """
        known = self._entries()
        for key in keys:
            if key not in known:
                self.study.enqueue_trial({}, user_attrs={KEY: key, ATTEMPT: 1, LOST: 0})

    def claim(self, entry: FrozenTrial) -> Trial | None:
        """Take a piece of work, unless another was faster.

        Parameters
        ----------
        entry
            A waiting one.

        Returns
        -------
        Trial or None
            Running, and this process's own.
        """
        try:
            if not self._storage.set_trial_state_values(entry._trial_id, state=TrialState.RUNNING):
                return None
        except UpdateFinishedTrialError:
            return None
        self.heart.keep(entry._trial_id)
        return Trial(self.study, entry._trial_id)

    def note(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        """Keep facts with a trial.

        Parameters
        ----------
        trial
            Of this process.
        facts
            Name -> what can be written as JSON.
        """
        with suppress(UpdateFinishedTrialError):  # given up by others, who will do it again
            for name, value in facts.items():
                trial.set_user_attr(name, value)

    def finish(self, trial: Trial, values: tuple[float, ...], *, pruned: bool = False) -> None:
        """Close what was done.

        Parameters
        ----------
        trial
            Of this process.
        values
            Of the objectives.
        pruned
            Whether it was stopped early.
        """
        with suppress(ValueError, UpdateFinishedTrialError):
            if pruned:
                self.study.tell(trial.number, state=TrialState.PRUNED)
            else:
                self.study.tell(trial.number, values)
        self.heart.release(trial._trial_id)

    def fail(self, trial: Trial, reason: str) -> None:
        """Close what cannot be done.

        Parameters
        ----------
        trial
            Of this process.
        reason
            Why, in one line.
        """
        self._close(trial._trial_id, trial.number, reason)
        self.heart.release(trial._trial_id)

    def interrupt(self, trial: Trial, reason: str, *, died: bool) -> None:
        """Close an attempt that did not come to its end, and put in another.

        Parameters
        ----------
        trial
            Of this process.
        reason
            Why, in one line.
        died
            Whether its process died, which is retried a few times only.
        """
        (entry,) = (t for t in self.study.get_trials(deepcopy=False) if t.number == trial.number)
        self._again(entry, reason, died=died)
        self.heart.release(trial._trial_id)

    def _close_dead(self, entries: Mapping[str, FrozenTrial]) -> bool:
        changed = False
        for trial in entries.values():
            if trial.state == TrialState.RUNNING and self.heart.is_dead(trial):
                self._again(trial, DIED, died=True)
                changed = True
            elif trial.state == TrialState.FAIL and AGAIN in trial.user_attrs:
                self._put_in_again(trial)  # who closed it died before it could
                changed = True
        return changed

    def _again(self, entry: FrozenTrial, reason: str, *, died: bool) -> None:
        lost = entry.user_attrs[LOST] + died
        if lost > self.max_retries:
            self._close(entry._trial_id, entry.number, f"{reason}; given up after {lost} attempts")
            return
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(entry._trial_id, AGAIN, lost)
        self._close(entry._trial_id, entry.number, reason)
        last = self._entries()[entry.user_attrs[KEY]]
        if last.number == entry.number and AGAIN in last.user_attrs:  # else another process was faster
            self._put_in_again(last)

    def _put_in_again(self, entry: FrozenTrial) -> None:
        fixed = {**entry.system_attrs.get("fixed_params", {}), **entry.params}
        attributes = {KEY: entry.user_attrs[KEY], ATTEMPT: _attempt(entry) + 1, LOST: entry.user_attrs[AGAIN]}
        self.study.enqueue_trial(fixed, user_attrs=attributes)

    def _close(self, trial_id: int, number: int, reason: str) -> None:
        with suppress(ValueError, UpdateFinishedTrialError):  # another was faster
            self._storage.set_trial_user_attr(trial_id, REASON, reason)
            self.study.tell(number, state=TrialState.FAIL)


def is_open(entry: FrozenTrial) -> bool:
    """Whether work is still to be done."""
    return not entry.state.is_finished() or (entry.state == TrialState.FAIL and AGAIN in entry.user_attrs)


def reason_of(entry: FrozenTrial) -> str | None:
    """Why a piece of work failed."""
    return entry.user_attrs.get(REASON)


def attempts_of(entry: FrozenTrial) -> int:
    """How often it was tried."""
    return _attempt(entry)


def _attempt(entry: FrozenTrial) -> int:
    return entry.user_attrs[ATTEMPT]
