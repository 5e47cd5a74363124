"""Workers that train: a child process for each job, which may be ended early; and chains of jobs side by side."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from hessgnn.errors import UserError
from hessgnn.experiments.job import (
    Event,
    Job,
    JobFinished,
    JobProgress,
    JobResult,
    Observer,
    Work,
    record_job_failure,
    run_job,
)
from hessgnn.runtime.files import write_text
from hessgnn.runtime.machine import visible_gpus
from hessgnn.runtime.processes import Pool, WorkerDied, block_interrupts
from hessgnn.runtime.worker import Link, Stopped
from hessgnn.training.run import Run, ValidationPoint

T = TypeVar("T")

PRELOAD = ("hessgnn.experiments.job",)
"""What the server imports that workers are forked from: it has torch, but has not used it."""

Watch = Callable[[ValidationPoint | None], str | None]
"""Asked several times a second, and at each validation, whether a job should end, and why: the reason that is kept."""

PRUNED = "pruned"
"""What a watch says of a job that others promise more than."""


class Workers:
    """Runs jobs side by side, see :class:`~hessgnn.runtime.processes.Pool`.

    With ``number`` 0, jobs run in this process, one after the other. The cores are divided if ``threads`` is absent.
    """

    def __init__(self, number: int, threads: int | None = None) -> None:
        self._pool = Pool(number, threads=threads, preload=PRELOAD, gpus=visible_gpus())
        self.threads = self._pool.threads
        self.reports, self.reports_until = self._pool.reports, self._pool.reports_until
        self.close, self.stop, self.post = self._pool.close, self._pool.stop, self._pool.post

    def submit(self, job: Job, watch: Watch | None = None, *, work: Work = run_job) -> Future[JobResult]:
        """Give a job to the next free worker; ``watch`` may end it early, ``work`` must be importable by name.

        The future raises what the job raised of :class:`UserError`; any other error of the job is a result with its
        reason. See :meth:`Pool.submit`.
        """
        folder = str(job.folder)
        return self._pool.submit(
            partial(_do, work, job), watch=_Watched(watch), last=partial(JobFinished, job.title), where=folder
        )


class _Watched:
    """Asks the watch of a job, and makes a result of its reason."""

    def __init__(self, watch: Watch | None) -> None:
        self._watch = watch
        self._last: ValidationPoint | None = None

    def __call__(self, report: Event | None) -> JobResult | None:
        point = report.point if isinstance(report, JobProgress) else None
        self._last = last = point or self._last
        why = None if self._watch is None else self._watch(point)
        if why is None:
            return None
        seconds, products = (0.0, 0) if last is None else (last.device_seconds, last.products)
        if why == PRUNED and last is not None:
            return JobResult(last.score, seconds, products, pruned=True)
        return JobResult(None, seconds, products, why)


def _do(work: Work, job: Job, link: Link) -> JobResult:
    """Do a job; keep the traceback of what is a bug."""
    try:
        return work(job, link)
    except (UserError, Stopped):
        raise
    except Exception as error:
        log = job.folder / "error.log"
        reason = f"{type(error).__name__}: {' '.join(str(error).split())} (traceback in {log})"
        with contextlib.suppress(OSError, UserError):
            write_text(log, traceback.format_exc())
        return JobResult(None, reason=reason)


class JobScheduler:
    """Runs chains of jobs side by side: a thread for each waits for its jobs, the workers do them.

    The workers are stopped if a chain fails.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self._stopped = threading.Event()

    def submit(self, job: Job, watch: Watch | None = None, *, work: Work = run_job) -> JobResult:
        """Do a job, and wait for it; see :meth:`Workers.submit`."""
        if self._stopped.is_set():
            raise Stopped
        try:
            return self.workers.submit(job, watch, work=work).result()
        except CancelledError:  # it had not begun
            raise Stopped from None

    def submit_recorded(self, job: Job, *, work: Work = run_job) -> None:
        """Do a job that is evaluated, and wait for it; where it gave nothing, its record says why."""
        try:
            result = self.submit(job, work=work)
        except WorkerDied as error:
            record_job_failure(job, error.what)
        else:
            if result.score is None and not Run(job.folder).record.exists():
                record_job_failure(job, result.reason or "no score")

    def pause(self, seconds: float) -> None:
        """Wait for others, at most so many seconds.

        Raises
        ------
        Stopped
            When all is to end.
        """
        if self._stopped.wait(seconds):
            raise Stopped

    def run(self, chains: Sequence[Callable[[], T]], observer: Observer) -> list[T]:
        """Run chains to their end, and pass what the workers report to ``observer``; the results are in order."""
        with ThreadPoolExecutor(len(chains), "chain", block_interrupts) as threads:
            running = [threads.submit(chain) for chain in chains]
            try:
                for report in self.workers.reports_until(running):
                    observer(report)
            except BaseException:
                self._stopped.set()
                self.workers.stop()
                raise
        return [chain.result() for chain in running]

    def beside(self, chains: Sequence[Callable[[], T]]) -> list[T]:
        """Run chains side by side inside a chain; the results are in order."""
        with ThreadPoolExecutor(max(1, len(chains)), "chain", block_interrupts) as threads:
            return [future.result() for future in [threads.submit(chain) for chain in chains]]
