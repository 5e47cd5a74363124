"""Worker processes: a child process for each job, watched by a thread of the parent.

A job that ends its process (out of memory, a fault in native code, ``kill -9``) therefore takes nothing with it but
itself, and leaves no memory behind.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_futures
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import torch

from hessgnn.errors import TrainingError, UserError
from hessgnn.experiments.job import Event, Job, JobFinished, JobProgress, JobResult, Observer, Stopped, Work, run_job
from hessgnn.runtime.allocator import keep_freed_memory
from hessgnn.runtime.files import write_text
from hessgnn.runtime.processes import end_with
from hessgnn.training.run import ValidationPoint

T = TypeVar("T")

_GRACE = 5.0  # seconds that a child has to end by itself
_LISTEN = 0.2  # seconds

Watch = Callable[[ValidationPoint | None], str | None]
"""Asked twice a second, and at each validation, whether a job should end, and why: the reason that is kept."""

PRUNED = "pruned"
"""What a watch says of a job that others promise more than."""


class WorkerDied(TrainingError):
    """A child process ended without a word: killed from outside, or by the system for want of memory."""


class Workers:
    """Runs jobs side by side, each in a process of its own that ends with this one, however it ends.

    Parameters
    ----------
    number
        Processes at a time.
    threads
        CPU threads of each; the cores shared out if absent.
    """

    def __init__(self, number: int, threads: int | None = None) -> None:
        self.threads = threads or shared_threads(number)
        # Children are forked from a server that has imported torch but not used it: as clean as new ones, in no time.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["hessgnn.experiments.job"])
        self._devices = _devices()
        self._lanes: SimpleQueue[int] = SimpleQueue()
        for lane in range(number):
            self._lanes.put(lane)
        self._reports: SimpleQueue[Event] = SimpleQueue()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(number, "worker", _block_interrupts)

    def submit(self, job: Job, watch: Watch | None = None, *, work: Work = run_job) -> Future[JobResult]:
        """Give a job to the next free worker.

        Parameters
        ----------
        job
            What to do.
        watch
            Says when to end it before its time.
        work
            Does it; importable by name.

        Returns
        -------
        Future of JobResult
            Raises :class:`WorkerDied` when the process ended without a word, :class:`Stopped` when all were stopped,
            and what the job raised of :class:`UserError`. Any other error of the job is an outcome with its reason.
        """
        return self._pool.submit(self._supervise, job, watch, work)

    def post(self, event: Event) -> None:
        """Put an event in line behind those of the jobs; for any thread."""
        self._reports.put(event)

    def reports(self) -> Iterator[Event]:
        """Events since the last call, in order."""
        while True:
            try:
                yield self._reports.get_nowait()
            except Empty:
                return

    def close(self) -> None:
        """Let the workers end: there is no more to do."""
        self._pool.shutdown()

    def stop(self) -> None:
        """End the jobs now. What they had saved is what the next start goes on from."""
        self._stopping.set()
        self._pool.shutdown(cancel_futures=True)

    def _supervise(self, job: Job, watch: Watch | None, work: Work) -> JobResult:
        """Start a child, listen to it, and tell how it ended."""
        if self._stopping.is_set():
            raise Stopped
        lane = self._lanes.get()
        ours, its = self._context.Pipe()
        environment = {**os.environ, **_environment(lane, self._devices)}
        process = self._context.Process(target=_child, args=(work, job, its, self.threads, environment))
        process.start()
        its.close()
        result = None
        try:
            result = _listen(process, ours, job, watch, self._stopping, self._reports)
            return result
        finally:
            _end(process)
            ours.close()
            self._lanes.put(lane)
            self._reports.put(JobFinished(job.title, result))


def _listen(
    process: Any,
    connection: Connection,
    job: Job,
    watch: Watch | None,
    stopping: threading.Event,
    reports: SimpleQueue[Event],
) -> JobResult:
    last: ValidationPoint | None = None
    while True:
        point, message = None, None
        with contextlib.suppress(EOFError, ConnectionResetError):
            message = connection.recv() if connection.poll(_LISTEN) else ()
        if message is None:
            process.join()
            raise WorkerDied(_death(process.exitcode), where=job.folder)
        if stopping.is_set():
            _ask_to_stop(process, connection)
            raise Stopped
        if isinstance(message, JobResult):
            return message
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, JobProgress):
            reports.put(message)
            point = message.point
            last = point or last
        why = None if watch is None else watch(point)
        if why is not None:
            _ask_to_stop(process, connection)
            seconds, products = (0.0, 0) if last is None else (last.device_seconds, last.products)
            if why == PRUNED and last is not None:
                return JobResult(last.score, seconds, products, pruned=True)
            return JobResult(None, seconds, products, why)


def _ask_to_stop(process: Any, connection: Connection) -> None:
    with contextlib.suppress(OSError):
        connection.send("stop")
    deadline = time.monotonic() + _GRACE
    while process.is_alive() and time.monotonic() < deadline:
        with contextlib.suppress(OSError, EOFError):  # read on, or a child that writes would wait for ever
            if connection.poll(0.05):
                connection.recv()
        process.join(0.01)


def _end(process: Any) -> None:
    """Leave no child behind."""
    process.join(_GRACE if process.exitcode is None else 0)
    for how in (process.terminate, process.kill):
        if process.is_alive():
            how()
            process.join(_GRACE)


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        why = " (out of memory?)" if -exitcode == signal.SIGKILL else ""
        return f"the process was killed by {name}{why}"
    return f"the process ended with status {exitcode} without a word"


class _Link:
    """The child's side."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stopping = False

    def report(self, report: JobProgress) -> None:
        self._connection.send(report)

    @property
    def stopping(self) -> bool:
        self._stopping = self._stopping or self._connection.poll()
        return self._stopping


def _child(work: Work, job: Job, connection: Connection, threads: int, environment: dict[str, str]) -> None:
    """Do a job in this process, and tell the parent how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent alone, who ends its children in order
    end_with(os.getppid())
    os.environ.update(environment)  # those of the server are of the moment when it was started
    torch.set_num_threads(threads)
    keep_freed_memory()  # it goes back when the job, and this process, end
    message: JobResult | UserError | None
    try:
        message = work(job, _Link(connection))
    except UserError as error:
        message = error
    except Stopped:
        message = None
    except Exception as error:
        log = job.folder / "error.log"
        reason = f"{type(error).__name__}: {' '.join(str(error).split())} (traceback in {log})"
        with contextlib.suppress(OSError):
            write_text(log, traceback.format_exc())
        message = JobResult(None, reason=reason)
    with contextlib.suppress(OSError):  # the parent may be gone
        connection.send(message)
    connection.close()


def shared_threads(number: int) -> int:
    """CPU threads for each of so many processes.

    Parameters
    ----------
    number
        Processes.

    Returns
    -------
    int
        The cores that this process may use, shared out.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // number)


def _devices() -> list[str]:
    """CUDA devices that may be used, as CUDA names them."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return named.split(",")
    return [str(index) for index in range(torch.cuda.device_count())]


def _environment(lane: int, devices: Sequence[str]) -> dict[str, str]:
    """Share out the GPUs: a worker sees one of them."""
    return {"CUDA_VISIBLE_DEVICES": devices[lane % len(devices)]} if devices else {}


def _block_interrupts() -> None:
    """Ctrl-C is for the main thread; what these threads start inherits it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


class Chains:
    """Chains of jobs side by side: a thread for each waits for its jobs, the workers do them.

    Parameters
    ----------
    workers
        The processes; they are stopped if a chain fails.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self._stopped = threading.Event()

    def submit(self, job: Job, watch: Watch | None = None, *, work: Work = run_job) -> JobResult:
        """Do a job, and wait for it.

        Parameters
        ----------
        job, watch, work
            See :meth:`Workers.submit`.

        Returns
        -------
        JobResult
            How it ended.
        """
        if self._stopped.is_set():
            raise Stopped
        try:
            return self.workers.submit(job, watch, work=work).result()
        except CancelledError:  # it had not begun
            raise Stopped from None

    def pause(self, seconds: float) -> None:
        """Wait for what others do.

        Parameters
        ----------
        seconds
            How long at most.

        Raises
        ------
        Stopped
            When all is to end.
        """
        if self._stopped.wait(seconds):
            raise Stopped

    def run(self, chains: Sequence[Callable[[], T]], observer: Observer) -> list[T]:
        """Run chains to their end, and hand on what the workers report.

        Parameters
        ----------
        chains
            Each submits jobs and returns what came out.
        observer
            Told what the workers report.

        Returns
        -------
        list
            What the chains returned, in their order.
        """
        with ThreadPoolExecutor(len(chains), "chain", _block_interrupts) as threads:
            running = [threads.submit(chain) for chain in chains]
            try:
                pending = set(running)
                while pending:
                    done, pending = wait_futures(pending, timeout=_LISTEN)
                    for report in self.workers.reports():
                        observer(report)
                    for chain in done:
                        chain.result()
            except BaseException:
                self._stopped.set()
                self.workers.stop()
                raise
        for report in self.workers.reports():
            observer(report)
        return [chain.result() for chain in running]

    def beside(self, chains: Sequence[Callable[[], T]]) -> list[T]:
        """Run chains side by side inside a chain.

        Parameters
        ----------
        chains
            See :meth:`run`.

        Returns
        -------
        list
            What they returned, in their order.
        """
        with ThreadPoolExecutor(max(1, len(chains)), "chain", _block_interrupts) as threads:
            return [future.result() for future in [threads.submit(chain) for chain in chains]]
