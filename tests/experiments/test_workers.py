"""A child process for each job: how it can end, and what the others have of it."""

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
from hessgnn.experiments import workers as workers_module
from hessgnn.experiments.job import Job, JobFinished, JobProgress, JobResult, Link, Stopped
from hessgnn.experiments.workers import PRUNED, Chains, WorkerDied, Workers, shared_threads
from hessgnn.runtime.allocator import release_freed_memory
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


def leave(job: Job, link: Link) -> JobResult:
    os._exit(3)


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


def deaf(job: Job, link: Link) -> JobResult:
    time.sleep(600)
    raise AssertionError


def keep(job: Job, link: Link) -> JobResult:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    block = torch.zeros(200 * 2**18)  # 200 MiB, which glibc would give back at once
    full = resident()
    del block
    return JobResult(full - resident())


@pytest.fixture
def pair() -> Iterator[Workers]:
    workers = Workers(2, threads=1)
    yield workers
    workers.stop()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(RunConfig(potential={"name": "schnet"}), tmp_path / "run", "schnet", "a job")


def test_a_job_gives_its_outcome_and_reports(pair: Workers, job: Job) -> None:
    result = pair.submit(job, work=answer).result()
    assert result == JobResult(1.0, reason=os.environ.get("CUDA_VISIBLE_DEVICES"))
    first, last = pair.reports()
    assert first == JobProgress(job.title, 1, 1)
    assert last == JobFinished(job.title, result)


@pytest.mark.parametrize(
    ("work", "message"), [(suicide, r"killed by SIGKILL \(out of memory\?\)"), (leave, "status 3 without a word")]
)
def test_a_process_that_dies_takes_nothing_with_it(pair: Workers, job: Job, work: object, message: str) -> None:
    other = pair.submit(job, work=answer)
    with pytest.raises(WorkerDied, match=message):
        pair.submit(job, work=work).result()  # type: ignore[arg-type]
    assert other.result().score == 1.0
    assert pair.submit(job, work=answer).result().score == 1.0


def test_a_bug_is_an_outcome_with_its_reason_and_its_traceback_is_kept(pair: Workers, job: Job) -> None:
    outcome = pair.submit(job, work=bug).result()
    assert outcome.score is None
    assert outcome.reason == f"ValueError: two lines (traceback in {job.folder / 'error.log'})"
    assert "in bug" in (job.folder / "error.log").read_text()


def test_wrong_input_is_told_as_it_is(pair: Workers, job: Job) -> None:
    with pytest.raises(DataError, match=r"some\.h5: is damaged"):
        pair.submit(job, work=bad_data).result()


@pytest.mark.parametrize(
    ("why", "outcome"),
    [(PRUNED, JobResult(0.5, 2.5, 7, pruned=True)), ("it took too long", JobResult(None, 2.5, 7, "it took too long"))],
)
def test_a_watch_ends_a_job(pair: Workers, job: Job, why: str, outcome: JobResult) -> None:
    seen: list[ValidationPoint] = []

    def watch(found: ValidationPoint | None) -> str | None:
        seen.extend([] if found is None else [found])
        return why if len(seen) > 3 else None

    assert pair.submit(job, watch, work=endless).result() == outcome


def test_a_job_that_does_not_listen_is_ended_too(pair: Workers, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_GRACE", 0.3)
    start = time.monotonic()
    assert pair.submit(job, lambda _: "too long", work=deaf).result().reason == "too long"
    assert time.monotonic() - start < 20


def test_a_stop_ends_all_jobs_and_begins_none(job: Job) -> None:
    workers = Workers(1, threads=1)
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
    chains = Chains(workers)
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


def test_cores_are_shared_out() -> None:
    cores = len(os.sched_getaffinity(0))
    assert shared_threads(1) == cores
    assert shared_threads(10 * cores) == 1
    assert Workers(1).threads == cores


def test_gpus_are_shared_out_by_worker(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    workers = Workers(3, threads=1)
    found = {workers.submit(job, work=answer) for _ in range(3)}
    seen = sorted(str(future.result().reason) for future in found)
    assert set(seen) <= {"3", "5"}
    assert workers_module._environment(2, ["3", "5"]) == {"CUDA_VISIBLE_DEVICES": "3"}
    assert workers_module._environment(1, ["3", "5"]) == {"CUDA_VISIBLE_DEVICES": "5"}
    assert workers_module._environment(1, []) == {}
    workers.close()


@pytest.mark.skipif(not release_freed_memory(), reason="the C library is not glibc")
def test_a_child_keeps_freed_memory_for_its_next_tensors(pair: Workers, job: Job) -> None:
    assert pair.submit(job, work=keep).result().score < 50
