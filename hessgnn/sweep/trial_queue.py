"""Pieces of work, each done once by whoever claims it first, kept as the trials of an Optuna study.

Optuna alone gives no such promise: a trial whose process was killed stays "running" for ever, and several processes
overrun a budget that each of them counts. Here each piece of work has a key. It is enqueued in the study as a waiting
trial, and a storage hands a waiting trial to one process only. A trial whose process died is closed with its reason,
and a new attempt at the same key is enqueued. Two processes may enqueue the same attempt at the same time: the one with
the lower number counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from hessgnn.sweep.heartbeat import Heartbeat

KEY, ATTEMPT, LOST, REASON, AGAIN, KIND = "key", "attempt", "lost", "reason", "again", "kind"
"""User attributes of a trial. ``lost``: attempts before it whose process died; ``again``: there is another after it."""

DIED = "the process exited without reporting an error (killed, or the machine went down)"
STALE = "marked stale by another worker (missed heartbeats)"
STOPPED = "stopped by the user"


class TrialQueue:
    """Work of one Optuna study, which holds nothing else; what dies is retried at most ``max_retries`` times."""

    def __init__(self, study: Study, heartbeat: Heartbeat, max_retries: int) -> None:
        self.study, self.heartbeat, self.max_retries = study, heartbeat, max_retries
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
            if key is not None and (key not in found or attempts_of(trial) > attempts_of(found[key])):
                found[key] = trial
        return found

    def add(self, keys: Iterable[str]) -> None:
        """Enqueue what is not there yet."""
        known = self._entries()
        for key in keys:
            if key not in known:
                self.study.enqueue_trial({}, user_attrs={KEY: key, ATTEMPT: 1, LOST: 0})

    def claim(self, entry: FrozenTrial) -> Trial | None:
        """Claim waiting work; None if another process was faster. The trial is running then, and this process's own."""
        try:
            if not self._storage.set_trial_state_values(entry._trial_id, state=TrialState.RUNNING):
                return None
        except UpdateFinishedTrialError:
            return None
        self.heartbeat.start(entry._trial_id)
        return Trial(self.study, entry._trial_id)

    def annotate(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        """Store facts, which must be valid JSON, with a trial of this process."""
        with suppress(UpdateFinishedTrialError):  # marked stale by others, who will do it again
            for name, value in facts.items():
                trial.set_user_attr(name, value)

    def finish(self, trial: Trial, values: tuple[float, ...], *, pruned: bool = False) -> None:
        """Close a trial that was done."""
        with suppress(ValueError, UpdateFinishedTrialError):
            if pruned:
                self.study.tell(trial.number, state=TrialState.PRUNED)
            else:
                self.study.tell(trial.number, values)
        self.heartbeat.stop(trial._trial_id)

    def fail(self, trial: Trial, reason: str) -> None:
        """Close a trial that cannot be done."""
        self._close(trial._trial_id, trial.number, reason)
        self.heartbeat.stop(trial._trial_id)

    def retry(self, trial: Trial, reason: str, *, died: bool) -> None:
        """Close an attempt that did not reach its end, and enqueue another.

        ``died``: its process died, which is retried at most ``max_retries`` times.
        """
        (entry,) = (t for t in self.study.get_trials(deepcopy=False) if t.number == trial.number)
        self._close_and_retry(entry, reason, died=died)
        self.heartbeat.stop(trial._trial_id)

    def _close_dead(self, entries: Mapping[str, FrozenTrial]) -> bool:
        changed = False
        for trial in entries.values():
            if trial.state == TrialState.RUNNING and self.heartbeat.is_dead(trial):
                self._close_and_retry(trial, DIED, died=True)
                changed = True
            elif trial.state == TrialState.FAIL and AGAIN in trial.user_attrs:
                self._enqueue_again(trial)  # who closed it died before it could
                changed = True
        return changed

    def _close_and_retry(self, entry: FrozenTrial, reason: str, *, died: bool) -> None:
        lost = entry.user_attrs[LOST] + died
        if lost > self.max_retries:
            self._close(entry._trial_id, entry.number, f"{reason}; given up after {lost} attempts")
            return
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(entry._trial_id, AGAIN, lost)
        self._close(entry._trial_id, entry.number, reason)
        last = self._entries()[entry.user_attrs[KEY]]
        if last.number == entry.number and AGAIN in last.user_attrs:  # else another process was faster
            self._enqueue_again(last)

    def _enqueue_again(self, entry: FrozenTrial) -> None:
        fixed = {**entry.system_attrs.get("fixed_params", {}), **entry.params}
        attributes = {KEY: entry.user_attrs[KEY], ATTEMPT: attempts_of(entry) + 1, LOST: entry.user_attrs[AGAIN]}
        kind = {KIND: entry.user_attrs[KIND]} if KIND in entry.user_attrs else {}
        self.study.enqueue_trial(fixed, user_attrs={**attributes, **kind})

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
    return entry.user_attrs[ATTEMPT]
