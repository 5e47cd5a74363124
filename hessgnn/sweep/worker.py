"""Worker processes: each trains one potential at a time on one thread and reports its steps."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from hessgnn.benchmark.evaluate import evaluate, record_failure
from hessgnn.benchmark.record import Cost
from hessgnn.errors import TrainingError
from hessgnn.training.config import RunConfig
from hessgnn.training.run import Point
from hessgnn.training.trainer import train


@dataclass(frozen=True)
class Job:
    """A run to be trained, and judged if it is a final one."""

    config: RunConfig
    folder: Path
    architecture: str
    label: str
    judge: Cost | None = None
    """What the sweep spent before this run, if the run is to be judged."""


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
        if step % 5 == 0 or point is not None:
            total = job.config.training.steps
            _reports().put(Report(job.architecture, job.label, str(job.folder), step, total, point))

    try:
        result = train(job.config, job.folder, resume=True, observer=observer)
    except TrainingError as error:
        if job.judge is not None:
            record_failure(job.folder, job.config, str(error), job.judge)
        return Outcome(None, 0.0, str(error))
    if job.judge is not None:
        record = evaluate(job.folder, sweep=job.judge)
        return Outcome(result.score, result.progress.device_seconds, record.reason)
    return Outcome(result.score, result.progress.device_seconds)


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
        self.pool = ProcessPoolExecutor(number, context, _begin, (self._queue, os.getpid()))

    def reports(self) -> Iterator[Report]:
        """What the workers reported since the last call."""
        while True:
            try:
                yield self._queue.get_nowait()
            except Empty:
                return

    def stop(self) -> None:
        """End the workers now. What they had saved is what the next start goes on from."""
        processes = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            with contextlib.suppress(OSError):
                process.terminate()


_queue: Any = None


def _reports() -> Any:
    assert _queue is not None, "run_job belongs into a worker"
    return _queue


def _begin(queue: Any, parent: int) -> None:
    global _queue
    _queue = queue
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent was killed: an orphan would write into a folder that a new sweep resumes."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
