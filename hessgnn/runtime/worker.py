"""A job's side of the process pool: its link to the parent, and what a worker process does."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from hessgnn.errors import UserError
from hessgnn.runtime.machine import keep_freed_memory

RESULT, ERROR, REPORT = "result", "error", "report"
"""Kinds of messages from a worker."""
STOP = b"stop"
"""Message to a worker, beside pickled jobs."""


class Stopped(Exception):
    """The parent wants the job to end. What it had saved is what the next start resumes from."""


class Link(Protocol):
    """A job's connection to whoever submitted it."""

    def report(self, report: Any) -> None:
        """Send a report, which can be pickled."""

    @property
    def stopping(self) -> bool:
        """Whether the job should raise :class:`Stopped`."""


class LocalLink:
    """The link of a job that runs in the process of its pool.

    ``hear`` is called with each report; what it returns, unless that is ``None``, becomes the result of the job,
    which is then ended. ``stopping`` is set when all jobs are to end.
    """

    def __init__(self, hear: Callable[[Any], Any], stopping: threading.Event) -> None:
        self._hear, self._stopping = hear, stopping
        self.verdict: Any = None

    def report(self, report: Any) -> None:
        """See :class:`Link`."""
        found = self._hear(report)
        self.verdict = found if self.verdict is None else self.verdict

    @property
    def stopping(self) -> bool:
        """See :class:`Link`."""
        return self.verdict is not None or self._stopping.is_set()


class _RemoteLink:
    """The link of a job in a worker process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stopping = False

    def report(self, report: Any) -> None:
        self._connection.send_bytes(pickle.dumps((REPORT, report)))

    @property
    def stopping(self) -> bool:
        self._stopping = self._stopping or self._connection.poll()
        return self._stopping


@dataclass(frozen=True)
class Settings:
    """What a worker process has to know before its first job."""

    environment: dict[str, str]
    threads: int
    keep_memory: bool


def serve(connection: Connection, settings: Settings) -> None:
    """Do jobs in this process until the parent has no more; results and reports go back through the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent alone, who ends its children in order
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()  # a server's are of the moment when it was started
    os.environ.update(settings.environment)
    if settings.keep_memory:
        keep_freed_memory()
    with suppress(EOFError, OSError):  # the parent has closed the connection, or is gone
        while True:
            data = connection.recv_bytes()
            if data != STOP:  # that came after the end of its job
                connection.send_bytes(_answer(data, connection, settings.threads))


def _answer(data: bytes, connection: Connection, threads: int) -> bytes:
    """Do a job; its result or its error, pickled."""
    try:
        job = pickle.loads(data)
        set_torch_threads(threads)  # the job may have imported it
        return pickle.dumps((RESULT, job(_RemoteLink(connection))))
    except Exception as error:
        if not isinstance(error, UserError | Stopped):
            error.add_note(f"\nIn the worker process:\n{traceback.format_exc()}")
        try:
            answer = pickle.dumps((ERROR, error))
            pickle.loads(answer)  # some exceptions take other arguments than those that they keep
        except Exception:
            text = "".join(traceback.format_exception(error))
            answer = pickle.dumps((ERROR, RuntimeError(f"{type(error).__name__}: {error}\n\n{text}")))
        return answer


def _end_with_parent() -> None:
    """End when the parent is gone: an orphan would write into a folder that a new process resumes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def set_torch_threads(number: int) -> int:
    """Set the number of torch's CPU threads if it has been imported, and return their number before."""
    torch = sys.modules.get("torch")
    if torch is None:
        return number
    before: int = torch.get_num_threads()
    torch.set_num_threads(number)
    return before
