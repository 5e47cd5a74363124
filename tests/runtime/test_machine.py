"""Cores, GPUs, waiting threads and freed memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from hessgnn.runtime import machine
from hessgnn.runtime.machine import SPINS, one_blas_thread, shared_threads, visible_gpus, wait_briefly

LINES = """
import sys
from pathlib import Path
from hessgnn.runtime.machine import {function}

def resident():
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

{before}
blocks = [bytearray(100_000) for _ in range(2000)]  # 190 MiB, each below the size that is mapped on its own
last = bytearray(100_000)
full = resident()
del blocks
{after}
print(full - resident())
"""


def python(code: str) -> str:
    """What a new interpreter prints, where the user has set nothing about OpenMP."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    return done.stdout


def freed(function: str, before: str = "", after: str = "") -> float:
    """MiB that go back to the system, in a process of its own."""
    return float(python(LINES.format(function=function, before=before, after=after)))


@pytest.mark.skipif(not machine.release_freed_memory(), reason="the C library is not glibc")
def test_freed_memory_goes_back_when_asked_to() -> None:
    assert freed("release_freed_memory") < 50
    assert freed("release_freed_memory", after="assert release_freed_memory()") > 150


def test_another_c_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.ctypes.util, "find_library", lambda name: None)
    assert not machine.keep_freed_memory()
    assert not machine.release_freed_memory()


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_one_blas_thread_inside_and_the_old_number_behind() -> None:
    assert np.linalg.eigvalsh(np.eye(3)).sum() == 3  # so that the library is loaded
    before = blas_threads()
    if not before:
        pytest.skip("numpy and scipy have no BLAS whose threads can be set")
    with one_blas_thread():
        assert set(blas_threads()) == {1}
    assert blas_threads() == before


def test_cores_are_shared_out() -> None:
    cores = len(os.sched_getaffinity(0))
    assert shared_threads(0) == shared_threads(1) == cores
    assert shared_threads(10 * cores) == 1


def test_gpus_are_those_that_the_user_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]


@pytest.fixture
def _state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    before = machine._Waiting.too_late
    yield
    machine._Waiting.too_late = before


@pytest.mark.usefixtures("_state")
@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, str(SPINS)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_what_the_user_has_set_stays(given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


@pytest.mark.parametrize("module", ["hessgnn", "hessgnn.cli"])
def test_importing_hessgnn_sets_it_before_torch_is_loaded(module: str) -> None:
    code = f"import os, sys, {module}; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    assert python(code).split() == [str(SPINS), "False"]


@pytest.mark.usefixtures("_state")
@pytest.mark.parametrize(
    ("given", "late"), [({}, True), ({"GOMP_SPINCOUNT": "7"}, False), ({"OMP_WAIT_POLICY": "PASSIVE"}, False)]
)
def test_torch_is_late_unless_the_user_has_decided(
    given: dict[str, str], late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "torch" in sys.modules
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    machine._Waiting.too_late = False
    wait_briefly()
    assert machine._Waiting.too_late is late


WARNED = """
import warnings, {first}, {second}
from hessgnn.runtime.machine import warn_of_busy_waiting
for threads in (1, 2, 2):
    torch.set_num_threads(threads)
    with warnings.catch_warnings(record=True) as caught:
        warn_of_busy_waiting()
    print(*[w.category.__name__ for w in caught] or ["nothing"])
"""


@pytest.mark.skipif(not machine._has_libgomp(), reason="torch does not use GNU's OpenMP here")
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("torch", "hessgnn", ["nothing", "BusyWaitingWarning", "nothing"]),
        ("hessgnn", "torch", ["nothing", "nothing", "nothing"]),
    ],
)
def test_torch_before_hessgnn_is_warned_of_once_where_threads_wait(
    first: str, second: str, expected: list[str]
) -> None:
    assert python(WARNED.format(first=first, second=second)).split() == expected
