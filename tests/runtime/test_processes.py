"""The process pool, with processes and without; and work that Ctrl-C does not cut in two."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from hessgnn.errors import DataError
from hessgnn.experiments.workers import PRELOAD
from hessgnn.runtime import processes
from hessgnn.runtime.machine import release_freed_memory
from hessgnn.runtime.processes import Pool, WorkerDied, each, uninterrupted
from hessgnn.runtime.worker import Link, Stopped

# Jobs, which workers find by their names.


def facts(link: Link) -> dict[str, object]:
    link.report("begun")
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HESSGNN_TEST")
    return {"pid": os.getpid(), "threads": torch.get_num_threads(), **{name: os.environ.get(name) for name in names}}


def suicide(link: Link) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(link: Link) -> None:
    os._exit(3)


def bug(link: Link) -> None:
    raise ValueError("wrong")


class Difficult(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("both")


def difficult(link: Link) -> None:
    raise Difficult(1, 2)


def endless(link: Link) -> None:
    for step in range(100_000):
        link.report(step)
        if link.stopping:
            raise Stopped
        time.sleep(0.01)


def deaf(link: Link) -> None:
    link.report("begun")
    time.sleep(600)


def keep(link: Link) -> float:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    block = torch.zeros(200 * 2**18)  # 200 MiB, which glibc would give back at once
    full = resident()
    del block
    return full - resident()


def total(tensors: list[torch.Tensor], link: Link) -> float:
    return float(sum(tensors))


def half(number: int) -> float:
    if number % 2:
        raise DataError(f"{number} is odd")
    return number / 2


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(params=[0, 2])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with Pool(request.param, threads=1, preload=PRELOAD) as found:
        yield found


@pytest.fixture
def children() -> Iterator[Pool]:
    with Pool(1, threads=1, preload=PRELOAD, reuse=True) as found:
        yield found


def test_a_job_gives_its_result_and_reports(pool: Pool) -> None:
    found = pool.submit(facts, last=lambda result: ("done", result)).result()
    assert found["threads"] == 1
    assert (found["pid"] == os.getpid()) is (pool.number == 0)
    assert list(pool.reports()) == ["begun", ("done", found)]


def test_reports_come_until_the_jobs_are_done(pool: Pool) -> None:
    running = [pool.submit(facts, last=lambda _, k=k: k) for k in range(3)]
    assert sorted(map(str, pool.reports_until(running))) == ["0", "1", "2", "begun", "begun", "begun"]
    with pytest.raises(ValueError, match="wrong"):
        list(pool.reports_until([pool.submit(bug)]))


@pytest.mark.parametrize("reuse", [False, True])
def test_a_worker_does_one_job_or_many(reuse: bool) -> None:
    with Pool(1, threads=1, preload=PRELOAD, reuse=reuse) as pool:
        found = {pool.submit(facts).result()["pid"] for _ in range(3)}
    assert len(found) == (1 if reuse else 3)
    assert not any(Path(f"/proc/{pid}").exists() for pid in found)


def test_workers_have_the_environment_and_the_threads_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(1, threads=1, preload=PRELOAD, gpus=["3", "5"]) as pool:
        monkeypatch.setenv("HESSGNN_TEST", "set")
        found = pool.submit(facts).result()
        assert (found["OMP_NUM_THREADS"], found["CUDA_VISIBLE_DEVICES"], found["HESSGNN_TEST"]) == ("1", "3", "set")
        monkeypatch.delenv("HESSGNN_TEST")
        assert pool.submit(facts).result()["HESSGNN_TEST"] is None
        assert [pool._settings(lane).environment["CUDA_VISIBLE_DEVICES"] for lane in range(4)] == ["3", "5"] * 2


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (suicide, r"^it: worker was killed by SIGKILL \(out of memory\?\)\. .*: use fewer$"),
        (leave, "worker exited with status 3 without reporting an error"),
    ],
)
def test_a_process_that_dies_takes_nothing_with_it(children: Pool, job: object, message: str) -> None:
    with pytest.raises(WorkerDied, match=message):
        children.submit(job, where="it", hint="use fewer").result()  # type: ignore[arg-type]
    assert children.submit(facts).result()["threads"] == 1


def test_an_error_comes_with_its_place(children: Pool) -> None:
    with pytest.raises(ValueError, match="wrong") as caught:
        children.submit(bug).result()
    assert "in bug" in "".join(caught.value.__notes__)
    with pytest.raises(RuntimeError, match="Difficult: both"):  # which cannot be made again from what it keeps
        children.submit(difficult).result()
    with pytest.raises(Exception, match="pickle"):
        children.submit(lambda link: None).result()
    assert children.submit(facts).result()["threads"] == 1


def test_a_watch_ends_a_job_with_its_result(pool: Pool) -> None:
    assert pool.submit(endless, watch=lambda report: "enough" if report == 3 else None).result() == "enough"
    assert list(pool.reports())[:4] == [0, 1, 2, 3]


def test_a_job_that_does_not_listen_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.3)
    with Pool(1, threads=1, preload=PRELOAD) as pool:
        assert pool.submit(deaf, watch=lambda report: "too long").result() == "too long"
    running = []
    with pytest.raises(KeyboardInterrupt), Pool(1, threads=1, preload=PRELOAD) as pool:  # noqa: PT012
        running = [pool.submit(deaf), pool.submit(deaf)]
        while not list(pool.reports()):
            time.sleep(0.01)
        raise KeyboardInterrupt
    with pytest.raises(Stopped):
        running[0].result()
    assert running[1].cancelled()


def test_a_worker_that_was_stopped_in_time_is_used_again(children: Pool) -> None:
    before = children.submit(facts).result()["pid"]
    assert children.submit(endless, watch=lambda report: "enough" if report == 1 else None).result() == "enough"
    assert children.submit(facts).result()["pid"] == before


@pytest.mark.skipif(not release_freed_memory(), reason="the C library is not glibc")
def test_a_worker_keeps_freed_memory_for_its_next_tensors(children: Pool) -> None:
    assert children.submit(keep).result() < 50


def test_a_job_may_hold_many_tensors(children: Pool) -> None:
    """Passed as shared memory they would need a file descriptor each."""
    assert children.submit(partial(total, [torch.ones(()) for _ in range(1500)])).result() == 1500


def test_each_item_is_done_and_the_first_error_is_raised() -> None:
    assert sorted(each(half, [2, 4, 6], 2, preload=PRELOAD)) == [1, 2, 3]
    assert list(each(half, [], 2)) == []
    assert list(each(half, [8], 0)) == [4]
    with pytest.raises(DataError, match="3 is odd"):
        list(each(half, [2, 3, 4], 1, preload=PRELOAD))
    with pytest.raises(WorkerDied, match=r"here: worker was killed by SIGKILL.*what is finished is kept"):
        list(each(die, [1], 1, where="here", preload=PRELOAD))


ORPHAN = """
import os, time
from functools import partial
from hessgnn.runtime.processes import Pool

def wait(link):
    link.report(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    pool = Pool(1, threads=1, {preload})
    job = pool.submit(wait)
    while not (found := list(pool.reports())):
        time.sleep(0.01)
    print(*found, flush=True)
    job.result()
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
@pytest.mark.parametrize("preload", ["", "preload=('hessgnn.runtime.processes',)"])
def test_a_worker_ends_with_its_parent(tmp_path: Path, preload: str) -> None:
    (tmp_path / "orphan.py").write_text(ORPHAN.format(preload=preload))
    command = [sys.executable, str(tmp_path / "orphan.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        worker = Path("/proc") / parent.stdout.readline().strip()
        assert (worker / "stat").exists()
        parent.kill()
    while worker.exists() and (worker / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.05)


def test_the_pool_that_nobody_closed_does_not_keep_the_interpreter(tmp_path: Path) -> None:
    code = ORPHAN.format(preload="reuse=True").replace("time.sleep(600)", "pass")
    (tmp_path / "forgotten.py").write_text(code)
    subprocess.run([sys.executable, str(tmp_path / "forgotten.py")], check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert multiprocessing.active_children() == []


# Ctrl-C.


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """As in the foreground; a shell lets what it runs in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_for_what_is_short() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        done.append("the whole of it")
    assert done == ["the whole of it"]
    with uninterrupted():
        done.append("nothing was pressed")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(done) == 2


def test_an_error_inside_is_told_rather_than_the_key() -> None:
    with pytest.raises(ValueError, match="mine"), uninterrupted():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("mine")


def test_other_threads_are_left_alone() -> None:
    seen = []

    def work() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_what_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_server_that_is_killed_while_it_starts_a_worker_is_a_worker_that_died(
    children: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: object) -> None:
        raise EOFError("unexpected EOF")

    monkeypatch.setattr(children._context.Process, "start", start)
    with pytest.raises(WorkerDied, match="the server of the workers was killed"):
        children.submit(facts).result()
