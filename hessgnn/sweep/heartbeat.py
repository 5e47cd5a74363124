"""Heartbeats: which process works on a trial, and whether it still runs.

Optuna's heartbeat does not work with ask and tell, and a journal file has none, so the sweep has its own. A process on
the same machine is looked up. One on another machine counts as dead when its heartbeat stops changing, by the clock of
whoever waits for it: the clocks of two machines need not agree.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

OWNER, BEAT = "owner", "beat"
"""User attributes of a trial."""

_MISSED = 3  # heartbeats in a row, after which their process counts as dead


@cache
def _machine() -> str:
    """Name this machine, until it is started again, as its processes see it."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(str(Path(path).readlink()) if "ns" in path else Path(path).read_text().strip())
        except OSError:  # not Linux
            continue
    return ":".join(parts)


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks: ids are used again. ``None`` if it is gone."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return ""
        return ""
    return None if state in "ZX" else rest[18]


@dataclass(frozen=True)
class Owner:
    """A process that works on trials."""

    machine: str
    """Where it runs."""
    pid: int
    started: str
    """When, since process ids are used again."""

    @classmethod
    def here(cls) -> Owner:
        """Describe the process that calls."""
        return cls(_machine(), os.getpid(), _started(os.getpid()) or "")

    @classmethod
    def of(cls, trial: FrozenTrial) -> Owner | None:
        """Who works on a trial; ``None`` if nobody has said so."""
        token = trial.user_attrs.get(OWNER)
        return None if token is None else cls(token["machine"], token["pid"], token["started"])

    def token(self) -> dict[str, str | int]:
        """Its form in the storage."""
        return {"machine": self.machine, "pid": self.pid, "started": self.started}

    @property
    def is_near(self) -> bool:
        """Whether it runs on this machine, where it can be looked up."""
        return self.machine == _machine()

    @property
    def lives(self) -> bool:
        """Whether it is running, if it is near."""
        return _started(self.pid) == self.started


@dataclass
class Heartbeat:
    """Sends heartbeats for the trials of this process, from a thread, every ``interval`` seconds."""

    storage: BaseStorage
    interval: float
    owner: Owner = field(default_factory=Owner.here)
    _mine: set[int] = field(default_factory=set)
    _lost: set[int] = field(default_factory=set)
    _seen: dict[int, tuple[int | None, float]] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Heartbeat:
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def start(self, trial_id: int) -> None:
        """Become the owner of a trial, and send heartbeats for it from now on."""
        self._mine.add(trial_id)
        self.storage.set_trial_user_attr(trial_id, OWNER, self.owner.token())

    def stop(self, trial_id: int) -> None:
        """Send no more heartbeats for a trial."""
        self._mine.discard(trial_id)
        self._lost.discard(trial_id)

    def lost(self, trial_id: int) -> bool:
        """Whether others have marked a trial of this process as stale, after missed heartbeats."""
        return trial_id in self._lost

    def is_dead(self, trial: FrozenTrial) -> bool:
        """Whether the process of a running trial, as the storage has it now, has ended."""
        owner = Owner.of(trial)
        if owner == self.owner:
            return trial._trial_id not in self._mine
        if owner is not None and owner.is_near:
            return not owner.lives
        beat, now = trial.user_attrs.get(BEAT), time.monotonic()
        seen, since = self._seen.setdefault(trial._trial_id, (beat, now))
        if seen != beat:
            self._seen[trial._trial_id] = (beat, now)
            return False
        return now - since > _MISSED * self.interval

    def _beat(self) -> None:
        count = 0
        while not self._stopped.wait(self.interval):
            count += 1
            for trial_id in list(self._mine):
                try:
                    self.storage.set_trial_user_attr(trial_id, BEAT, count)
                except (UpdateFinishedTrialError, KeyError):  # finished by others
                    if trial_id in self._mine:
                        self._lost.add(trial_id)
                except Exception:  # the storage is away for a moment; work goes on without it
                    continue
