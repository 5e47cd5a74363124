"""Worker processes: each trains one potential at a time on one thread and reports its steps."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from queue import Empty
from typing import Any

from hessgnn.benchmark.evaluate import evaluate, record_failure
from hessgnn.benchmark.record import Cost, Record, read_record, write_record
from hessgnn.errors import TrainingError
from hessgnn.training.config import RunConfig
from hessgnn.training.run import Point, Run
from hessgnn.training.trainer import train

_GRACE = 3.0  # seconds that a worker has to end by itself


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
            record_failure(job.folder, job.config, str(error), job.judge)
        return Outcome(None, 0.0, str(error))
    if job.judge is not None:
        record = _judge(job.folder, job.judge)
        return Outcome(result.score, result.progress.device_seconds, record.reason)
    return Outcome(result.score, result.progress.device_seconds)


def _judge(folder: Path, spent: Cost) -> Record:
    """Judge a run once: of one that was judged before, only what tuning cost by now is written again."""
    path = Run(folder).record
    if not path.exists():
        return evaluate(folder, sweep=spent)
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


_queue: Any = None
_stopping: Any = None


def _begin(queue: Any, stopping: Any, parent: int) -> None:
    global _queue, _stopping
    _queue, _stopping = queue, stopping
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent was killed: an orphan would write into a folder that a new sweep resumes."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
