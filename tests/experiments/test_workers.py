"""Jobs that train, in worker processes and without any: how they can end, and what chains make of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from hessgnn.errors import DataError
from hessgnn.experiments.job import Job, JobFinished, JobProgress, JobResult
from hessgnn.experiments.workers import PRUNED, JobScheduler, Workers
from hessgnn.runtime.processes import WorkerDied
from hessgnn.runtime.worker import Link, Stopped
from hessgnn.training.config import RunConfig
from hessgnn.training.run import ValidationPoint


def point(step: int) -> ValidationPoint:
    return ValidationPoint(step, 1.0, 1e-3, 2.5, 7, 0.5, None, None, None, None, None, None, None)


# Work for children, which find it by its name.


def answer(job: Job, link: Link) -> JobResult:
    link.report(JobProgress(job.title, 1, 1, None))
    return JobResult(float(torch.get_num_threads()), reason=os.environ.get("CUDA_VISIBLE_DEVICES"))


def suicide(job: Job, link: Link) -> JobResult:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def bug(job: Job, link: Link) -> JobResult:
    raise ValueError("two\nlines")


def bad_data(job: Job, link: Link) -> JobResult:
    raise DataError("is damaged", where="some.h5")


def endless(job: Job, link: Link) -> JobResult:
    for step in range(100_000):
        link.report(JobProgress(job.title, step, 100_000, point(step)))
        if link.stopping:
            raise Stopped
        time.sleep(0.02)
    raise AssertionError


@pytest.fixture(params=[0, 2])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    """Without processes the same must come out."""
    found = Workers(request.param, threads=1)
    yield found
    found.stop()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(RunConfig(potential={"name": "schnet"}), tmp_path / "run", "schnet", "a job")


def test_a_job_gives_its_outcome_and_reports(workers: Workers, job: Job) -> None:
    result = workers.submit(job, work=answer).result()
    assert result == JobResult(1.0, reason=os.environ.get("CUDA_VISIBLE_DEVICES"))
    first, last = workers.reports()
    assert first == JobProgress(job.title, 1, 1)
    assert last == JobFinished(job.title, result)


def test_a_process_that_dies_takes_nothing_with_it(job: Job) -> None:
    workers = Workers(2, threads=1)
    other = workers.submit(job, work=answer)
    with pytest.raises(WorkerDied, match=r"run: worker was killed by SIGKILL \(out of memory\?\)"):
        workers.submit(job, work=suicide).result()
    assert other.result().score == 1.0
    workers.close()


def test_a_bug_is_an_outcome_with_its_reason_and_its_traceback_is_kept(workers: Workers, job: Job) -> None:
    outcome = workers.submit(job, work=bug).result()
    assert outcome.score is None
    assert outcome.reason == f"ValueError: two lines (traceback in {job.folder / 'error.log'})"
    assert "in bug" in (job.folder / "error.log").read_text()


def test_wrong_input_is_told_as_it_is(workers: Workers, job: Job) -> None:
    with pytest.raises(DataError, match=r"some\.h5: is damaged"):
        workers.submit(job, work=bad_data).result()


@pytest.mark.parametrize(
    ("why", "outcome"),
    [(PRUNED, JobResult(0.5, 2.5, 7, pruned=True)), ("it took too long", JobResult(None, 2.5, 7, "it took too long"))],
)
def test_a_watch_ends_a_job(workers: Workers, job: Job, why: str, outcome: JobResult) -> None:
    seen: list[ValidationPoint] = []

    def watch(found: ValidationPoint | None) -> str | None:
        seen.extend([] if found is None else [found])
        return why if len(seen) > 3 else None

    assert workers.submit(job, watch, work=endless).result() == outcome


@pytest.mark.parametrize("number", [0, 1])
def test_a_stop_ends_all_jobs_and_begins_none(job: Job, number: int) -> None:
    workers = Workers(number, threads=1)
    running = workers.submit(job, work=endless)
    waiting: Future[JobResult] = workers.submit(job, work=endless)
    while not list(workers.reports()):
        time.sleep(0.01)
    workers.stop()
    with pytest.raises(Stopped):
        running.result()
    assert waiting.cancelled()


def test_a_chain_that_fails_stops_the_others(job: Job) -> None:
    workers = Workers(2, threads=1)
    chains = JobScheduler(workers)
    ended = []

    def fails() -> None:
        chains.pause(0.5)
        raise DataError("is damaged")

    def goes_on() -> None:
        try:
            chains.submit(job, work=endless)
        finally:
            ended.append(True)

    with pytest.raises(DataError, match="is damaged"):
        chains.run([fails, goes_on], lambda report: None)
    assert ended == [True]
    with pytest.raises(Stopped):
        chains.submit(job, work=answer)
