"""Worker processes: each trains one potential at a time on one thread and reports its steps."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import wait as wait_futures
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from queue import Empty
from typing import Any, TypeVar

from hessgnn.benchmark.evaluate import DEFAULT, evaluate, record_failure
from hessgnn.benchmark.record import Cost, Record, Regime, read_record, write_record
from hessgnn.benchmark.tasks import TaskSettings
from hessgnn.errors import TrainingError
from hessgnn.processes import end_with
from hessgnn.training.config import RunConfig
from hessgnn.training.run import Point, Run
from hessgnn.training.trainer import train

T = TypeVar("T")

_GRACE = 3.0  # seconds that a worker has to end by itself


@dataclass(frozen=True)
class Evaluation:
    """How a run is judged."""

    spent: Cost = field(default_factory=Cost)
    """What tuning cost before this run."""
    tasks: tuple[str, ...] = DEFAULT
    settings: TaskSettings = field(default_factory=TaskSettings)
    data: str | None = None
    """Data to judge on; those the run was trained on if absent."""
    regime: Regime | None = None
    """What the labels were, where the loss does not tell."""


@dataclass(frozen=True)
class Job:
    """A run to be trained, and judged if it is a final one."""

    config: RunConfig
    folder: Path
    architecture: str
    label: str
    judge: Evaluation | None = None


@dataclass(frozen=True)
class Report:
    """How far a job is."""

    architecture: str
    label: str
    folder: str
    step: int
    total: int
    point: Point | None


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    score: float | None
    device_seconds: float
    reason: str | None = None


class Stopped(Exception):
    """The sweep was stopped while a job was running."""


def run_job(job: Job) -> Outcome:
    """Train, or go on with, one potential; runs in a worker.

    Parameters
    ----------
    job
        What to do.

    Returns
    -------
    Outcome
        The validation score, or why there is none.
    """

    def observer(step: int, point: Point | None) -> None:
        if _stopping.value:
            raise Stopped
        if step % 5 == 0 or point is not None:
            total = job.config.training.steps
            _queue.put(Report(job.architecture, job.label, str(job.folder), step, total, point))

    try:
        result = train(job.config, job.folder, resume=True, observer=observer)
        if not math.isfinite(result.score):
            raise TrainingError("no validation had finite errors", where=job.folder)
    except TrainingError as error:
        if job.judge is not None:
            how = job.judge
            record_failure(job.folder, job.config, str(error), how.spent, data=how.data, regime=how.regime)
        return Outcome(None, 0.0, str(error))
    if job.judge is not None:
        record = _judge(job.folder, job.judge)
        return Outcome(result.score, result.progress.device_seconds, record.reason)
    return Outcome(result.score, result.progress.device_seconds)


def _judge(folder: Path, how: Evaluation) -> Record:
    """Judge a run once: of one that was judged before, only what tuning cost by now is written again."""
    path, spent = Run(folder).record, how.spent
    if not path.exists():
        return evaluate(folder, tasks=how.tasks, settings=how.settings, sweep=spent, data=how.data, regime=how.regime)
    before = read_record(path)
    tuning = {"sweep_trials": spent.sweep_trials, "sweep_device_seconds": spent.sweep_device_seconds}
    record = before.model_copy(update={"cost": before.cost.model_copy(update=tuning)})
    if record != before:
        write_record(record, path)
    return record


class Workers:
    """A pool of worker processes that end with their parent, however it ends.

    Parameters
    ----------
    number
        Processes.
    """

    def __init__(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
        self._queue = context.Queue()
        self._stopping = context.RawValue("b", 0)  # no lock: a worker that is killed would keep it
        self.pool = ProcessPoolExecutor(number, context, _begin, (self._queue, self._stopping, os.getpid()))

    def reports(self) -> Iterator[Report]:
        """What the workers reported since the last call."""
        while True:
            try:
                yield self._queue.get_nowait()
            except Empty:
                return

    def close(self) -> None:
        """Let the workers end: there is no more to do."""
        self.pool.shutdown()

    def stop(self) -> None:
        """End the workers now. What they had saved is what the next start goes on from."""
        self._stopping.value = 1
        processes = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        alive = {process.sentinel: process for process in processes}
        deadline = time.monotonic() + _GRACE
        while alive and (left := deadline - time.monotonic()) > 0:
            for ended in wait(list(alive), timeout=left):
                del alive[ended]  # type: ignore[arg-type]
        for process in alive.values():
            with contextlib.suppress(OSError):
                process.terminate()


Submit = Callable[[Job], "Future[Outcome]"]
"""Gives a job to the workers."""


def run_chains(
    workers: Workers, chains: Sequence[Callable[[Submit], T]], observer: Callable[[Report], None]
) -> list[T]:
    """Let chains of jobs go on side by side: a thread for each waits for its jobs, the processes do the work.

    Parameters
    ----------
    workers
        The processes; they are stopped if a chain fails.
    chains
        Each gives jobs to the workers and returns what came out.
    observer
        Told what the workers report.

    Returns
    -------
    list
        What the chains returned, in their order.
    """
    stopped = threading.Event()

    def submit(job: Job) -> Future[Outcome]:
        if stopped.is_set():
            raise BrokenProcessPool("stopped")
        return workers.pool.submit(run_job, job)

    # The threads start the workers, which inherit this: Ctrl-C is for the parent alone, who ends them in order.
    block = (signal.SIG_BLOCK, {signal.SIGINT})
    with ThreadPoolExecutor(len(chains), "chain", signal.pthread_sigmask, block) as threads:
        running = [threads.submit(chain, submit) for chain in chains]
        try:
            pending = set(running)
            while pending:
                done, pending = wait_futures(pending, timeout=0.2)
                for report in workers.reports():
                    observer(report)
                for chain in done:
                    chain.result()
        except BaseException:
            stopped.set()
            workers.stop()
            raise
    for report in workers.reports():
        observer(report)
    return [chain.result() for chain in running]


_queue: Any = None
_stopping: Any = None


def _begin(queue: Any, stopping: Any, parent: int) -> None:
    global _queue, _stopping
    _queue, _stopping = queue, stopping
    end_with(parent)
