"""Workers of a sweep as one thread of this process: the same jobs without seconds of starting Python."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any

from hessgnn.sweep import worker
from hessgnn.sweep.worker import Report


class InlineWorkers:
    """One thread, since torch's generator is the process's. Job for job in the order in which they are asked for."""

    def __init__(self, number: int) -> None:
        self._reports: SimpleQueue[Report] = SimpleQueue()
        self._stopping = SimpleNamespace(value=0)
        self._thread = ThreadPoolExecutor(1)
        self.pool = self

    def submit(self, function: Any, job: Any) -> Future[Any]:
        def work() -> Any:
            worker._queue, worker._stopping = self._reports, self._stopping
            return function(job)

        return self._thread.submit(work)

    def reports(self) -> Iterator[Report]:
        while True:
            try:
                yield self._reports.get_nowait()
            except Empty:
                return

    def close(self) -> None:
        self._thread.shutdown()

    def stop(self) -> None:
        self._stopping.value = 1
        self._thread.shutdown(cancel_futures=True)
