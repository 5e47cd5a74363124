"""Workers of a sweep as one thread of this process: the same jobs without seconds of starting Python."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue

import torch

from hessgnn.experiments.job import Event, Job, JobFinished, JobProgress, JobResult, Stopped, Work, run_job
from hessgnn.experiments.workers import PRUNED, Watch
from hessgnn.training.run import ValidationPoint


class InlineLink:
    """What a job sees of its parent."""

    def __init__(self, workers: InlineWorkers, watch: Watch | None) -> None:
        self._workers, self._watch = workers, watch
        self.why: str | None = None
        self.last: ValidationPoint | None = None

    def report(self, report: JobProgress) -> None:
        self._workers.queue.put(report)
        self.last = report.point or self.last
        if self._watch is not None:
            self.why = self.why or self._watch(report.point)

    @property
    def stopping(self) -> bool:
        return self._workers.stopped or self.why is not None


class InlineWorkers:
    """One thread, since torch's generator is the process's. Job for job in the order in which they are asked for."""

    def __init__(self, number: int, threads: int | None = None) -> None:
        self.threads = threads or 1
        self.queue: SimpleQueue[Event] = SimpleQueue()
        self.stopped = False
        self._thread = ThreadPoolExecutor(1)

    def submit(self, job: Job, watch: Watch | None = None, *, work: Work = run_job) -> Future[JobResult]:
        return self._thread.submit(self._do, job, watch, work)

    def _do(self, job: Job, watch: Watch | None, work: Work) -> JobResult:
        if self.stopped:
            raise Stopped
        link = InlineLink(self, watch)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        result = None
        try:
            result = work(job, link)
            return result
        except Stopped:
            if link.why is None:
                raise
            if link.why == PRUNED and link.last is not None:
                return JobResult(link.last.score, link.last.device_seconds, link.last.products, pruned=True)
            return JobResult(None, reason=link.why)
        finally:
            self.queue.put(JobFinished(job.title, result))
            torch.set_num_threads(before)

    def post(self, event: Event) -> None:
        self.queue.put(event)

    def reports(self) -> Iterator[Event]:
        while True:
            try:
                yield self.queue.get_nowait()
            except Empty:
                return

    def close(self) -> None:
        self._thread.shutdown()

    def stop(self) -> None:
        self.stopped = True
        self._thread.shutdown(cancel_futures=True)
