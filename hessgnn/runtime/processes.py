"""The process pool: jobs in child processes that are watched, report while they run, and end with their parent.

A job that ends its process (out of memory, a fault in native code, ``kill -9``) takes nothing with it but itself, and
leaves no memory behind.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait as wait_for_sentinels
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from hessgnn.errors import UserError
from hessgnn.runtime.machine import shared_threads
from hessgnn.runtime.worker import (
    ERROR,
    REPORT,
    RESULT,
    STOP,
    Link,
    LocalLink,
    Settings,
    Stopped,
    serve,
    set_torch_threads,
)

X = TypeVar("X")
Y = TypeVar("Y")

GRACE = 5.0
"""Seconds that a job has to end by itself when it is asked to."""
_LISTEN = 0.2  # seconds between two looks at what else has happened
_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PROCESSES = threading.Lock()  # multiprocessing reads the exit status of all children wherever one is started

Watch = Callable[[Any], Any]
"""Called with each report, and with ``None`` several times a second; what it returns, unless that is ``None``, is taken
as the result of the job, which is ended."""


class WorkerDied(UserError):
    """A worker process ended without reporting an error: killed from outside, or by the system for want of memory."""


class Pool:
    """Runs jobs side by side in child processes, each watched by a thread of this one.

    Children ignore Ctrl-C: the parent, who gets it as well, ends them in order. They end with the parent, however it
    ends, and keep freed memory for their next tensors.

    Parameters
    ----------
    number
        Processes at a time. With 0 there are none: jobs run one after the other in a thread of this process, for
        debugging and for tests. Such a job ends early only where it looks at its link.
    threads
        CPU threads of each; the cores shared out if absent.
    reuse
        Whether a process does one job after the other, instead of a fresh one each.
    preload
        Modules that are imported once, by a server that children are forked from; the first pool of this process that
        names some decides. Without any, each child is a new interpreter.
    gpus
        CUDA devices to share out: each worker sees one of them.
    keep_memory
        See :func:`~hessgnn.runtime.machine.keep_freed_memory`.
    grace
        Seconds that a job has to end by itself when it is asked to.
    """

    def __init__(
        self,
        number: int,
        *,
        threads: int | None = None,
        reuse: bool = False,
        preload: Sequence[str] = (),
        gpus: Sequence[str] = (),
        keep_memory: bool = True,
        grace: float | None = None,
    ) -> None:
        self.number, self.threads, self.reuse = number, threads or shared_threads(number), reuse
        self.gpus, self.keep_memory, self.grace = gpus, keep_memory, GRACE if grace is None else grace
        forked = preload and "forkserver" in multiprocessing.get_all_start_methods()
        # Never a plain fork, which would copy locks that threads of torch hold.
        self._context: Any = multiprocessing.get_context("forkserver" if forked else "spawn")
        if forked:
            self._context.set_forkserver_preload(list(preload))
        self._lanes: SimpleQueue[int] = SimpleQueue()
        for lane in range(number):
            self._lanes.put(lane)
        self._idle: dict[int, _Child] = {}
        weakref.finalize(self, _end_all, self._idle)  # also when the interpreter ends: multiprocessing waits for them
        self._reports: SimpleQueue[Any] = SimpleQueue()
        self._stopping = threading.Event()
        self._supervisors = ThreadPoolExecutor(max(1, number), "worker", block_interrupts)

    def submit(
        self,
        job: Callable[[Link], X],
        *,
        watch: Watch | None = None,
        last: Callable[[X | None], Any] | None = None,
        where: object = None,
        hint: str | None = None,
    ) -> Future[X]:
        """Give a job to the next free worker.

        Parameters
        ----------
        job
            What to do. It, its result and what it raises can be pickled.
        watch
            Says when to end it before its time.
        last
            Makes the last report, when the job has left its worker, of its result; of ``None`` where it has none.
        where, hint
            Part of the error if the worker dies.

        Returns
        -------
        Future
            What the job returns or raises. It raises :class:`WorkerDied` when the process ended without an answer, and
            :class:`Stopped` when the pool was stopped.
        """
        return self._supervisors.submit(self._supervise, job, watch, last, where, hint)

    def reports(self) -> Iterator[Any]:
        """What the jobs reported since the last call."""
        while True:
            try:
                yield self._reports.get_nowait()
            except Empty:
                return

    def reports_until(self, futures: Iterable[Future[Any]]) -> Iterator[Any]:
        """What the jobs report until some futures are done, of this pool or not; the first failure is raised."""
        pending = set(futures)
        while pending:
            done, pending = wait(pending, _LISTEN, FIRST_COMPLETED)
            yield from self.reports()
            for future in done:
                future.result()
        yield from self.reports()

    def close(self) -> None:
        """Wait for the jobs, and let the workers end."""
        self._supervisors.shutdown()
        _end_all(self._idle)

    def stop(self) -> None:
        """End the jobs now, and begin none of those that wait."""
        self._stopping.set()
        self._supervisors.shutdown(cancel_futures=True)
        _end_all(self._idle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.stop()

    def _supervise(
        self,
        job: Callable[[Link], X],
        watch: Watch | None,
        last: Callable[[X | None], Any] | None,
        where: object,
        hint: str | None,
    ) -> X:
        if self._stopping.is_set():
            raise Stopped
        hear, result = partial(self._hear, watch), None
        try:
            result = self._in_child(job, hear, where, hint) if self.number else self._here(job, hear)
            return result
        finally:
            if last is not None:
                self.post(last(result))

    def post(self, report: Any) -> None:
        """Put a report in line behind those of the jobs; for any thread."""
        self._reports.put(report)

    def _hear(self, watch: Watch | None, report: Any) -> Any:
        """Keep a report; the result that the watch wants the job to end with, if it wants that."""
        if report is not None:
            self._reports.put(report)
        return None if watch is None else watch(report)

    def _in_child(self, job: Callable[[Link], X], hear: Watch, where: object, hint: str | None) -> X:
        lane = self._lanes.get()
        try:
            child = self._idle.pop(lane, None) or _Child(self._context, self._settings(lane))
            try:
                return child.do(job, hear, self._stopping, self.grace)
            except _Lost:
                raise WorkerDied(child.death(), where=where, hint=hint) from None
            finally:
                if self.reuse and not child.busy:
                    self._idle[lane] = child
                else:
                    child.end()
        finally:
            self._lanes.put(lane)

    def _settings(self, lane: int) -> Settings:
        environment = {**os.environ, **dict.fromkeys(_LIBRARIES, str(self.threads))}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[lane % len(self.gpus)]
        return Settings(environment, self.threads, self.keep_memory)

    def _here(self, job: Callable[[Link], X], hear: Watch) -> X:
        link = LocalLink(hear, self._stopping)
        before = set_torch_threads(self.threads)
        try:
            result = job(link)
        except Stopped:
            if link.verdict is None:
                raise
        finally:
            set_torch_threads(before)
        return result if link.verdict is None else link.verdict


def each(
    function: Callable[[X], Y],
    items: Sequence[X],
    processes: int,
    *,
    where: object = None,
    hint: str = "run the same command again: what is finished is kept; use fewer processes",
    preload: Sequence[str] = (),
) -> Iterator[Y]:
    """Call a function for each of some items, in processes of one thread each, and yield the results as they come.

    The function, its results and the items can be pickled. What the function raises is raised here;
    :class:`WorkerDied`, with ``where`` and ``hint``, when a process dies.
    """
    number = min(processes, len(items))
    with Pool(number, threads=1, reuse=True, preload=preload, grace=0.0) as pool:
        jobs = (partial(_without_link, function, item) for item in items)
        running = [pool.submit(job, where=where, hint=hint) for job in jobs]
        for done in as_completed(running):
            yield done.result()


def _without_link(function: Callable[[X], Y], item: X, _link: Link) -> Y:
    return function(item)


class _Lost(Exception):
    """The process at the other end of a connection has ended."""


class _Child:
    """A worker process, as its parent sees it."""

    def __init__(self, context: Any, settings: Settings) -> None:
        self.busy = False
        self._connection, its = context.Pipe()
        self._process = context.Process(target=serve, args=(its, settings))
        with _PROCESSES:
            try:
                self._process.start()
            except EOFError as error:  # the server that forks them was killed; the next start makes a new one
                raise WorkerDied("the server of the workers was killed (out of memory?)") from error
        its.close()  # so that the end of the process is the end of the connection

    def do(self, job: Callable[[Link], X], hear: Watch, stopping: threading.Event, grace: float) -> X:
        """Let it do a job, and listen."""
        # Pickled by value: multiprocessing would pass tensors as shared memory, of which a process can hold few.
        data = pickle.dumps(job)
        self.busy = True
        self._send(data)
        while True:
            kind, content = self._receive()
            if kind == RESULT:
                return content
            if kind == ERROR:
                raise content
            if stopping.is_set():
                self._ask_to_stop(grace)
                raise Stopped
            if (verdict := hear(content)) is not None:
                self._ask_to_stop(grace)
                return verdict

    def death(self) -> str:
        """How the process ended."""
        wait_for_sentinels([self._process.sentinel])
        with _PROCESSES:
            self._process.join()
        status = self._process.exitcode
        if status is not None and status < 0:
            known = {one.value: one.name for one in signal.Signals}
            name = known.get(-status, f"signal {-status}")
            return f"worker was killed by {name}{' (out of memory?)' if -status == signal.SIGKILL else ''}"
        return f"worker exited with status {status} without reporting an error"

    def end(self) -> None:
        """Leave no process behind."""
        if not self.busy:
            self._connection.close()  # no more to do
            self._has_ended(GRACE)
        for end in (self._process.terminate, self._process.kill):
            if not self._has_ended(0):
                end()
                self._has_ended(GRACE)
        self._connection.close()

    def _send(self, data: bytes) -> None:
        try:
            self._connection.send_bytes(data)
        except OSError as error:
            raise _Lost from error

    def _receive(self) -> tuple[str, Any]:
        """The next message; a report of nothing if none comes for a while."""
        try:
            if not self._connection.poll(_LISTEN):
                return REPORT, None
            data = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise _Lost from error
        kind, content = pickle.loads(data)
        self.busy = kind == REPORT
        return kind, content

    def _ask_to_stop(self, grace: float) -> None:
        deadline = time.monotonic() + grace
        with suppress(_Lost):
            self._send(STOP)
            while self.busy and time.monotonic() < deadline:
                self._receive()  # read on, or a child that writes would wait for ever

    def _has_ended(self, timeout: float) -> bool:
        ended = bool(wait_for_sentinels([self._process.sentinel], timeout))
        if ended:
            with _PROCESSES:
                self._process.join()
        return ended


def _end_all(idle: dict[int, _Child]) -> None:
    while idle:
        idle.popitem()[1].end()


def block_interrupts() -> None:
    """Leave Ctrl-C to other threads than this one, and than those that it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until something short is done, such as a write that takes a lock.

    Raises :class:`KeyboardInterrupt` at the end, if it was pressed meanwhile.
    """
    elsewhere = threading.current_thread() is not threading.main_thread()  # Ctrl-C is for the main thread alone
    if elsewhere or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
        yield
        return
    pressed: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
