"""What a process takes of its machine: cores, GPUs, waiting threads, freed memory.

Imports neither torch nor numpy: :func:`wait_briefly` has to come before them.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SPINS = 10_000
"""Turns of the loop in which an OpenMP thread waits before it sleeps: some tens of microseconds."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
PAD = 64 * 2**20


class BusyWaitingWarning(UserWarning):
    """OpenMP threads of this process wait busily, which makes training very slow if other processes need the cores."""


class _Waiting:
    """Whether torch was imported before :func:`wait_briefly` could set how long its threads wait."""

    too_late = False


def wait_briefly() -> None:
    """Let OpenMP threads that wait for others sleep soon; what the user has set in the environment stays.

    A training step on small molecules has thousands of short parallel regions, and at the end of each the threads wait
    for the last. GNU's library, which torch's wheels for Linux hold, waits busily for a millisecond or so before it
    sleeps (``GOMP_SPINCOUNT``). Where other processes want the same cores, the thread that is waited for is not running
    meanwhile, and a step may take a hundred times as long. Sleeping at once costs two or three times the step of a
    quiet machine. ``import hessgnn`` calls this; torch reads the variable once, when it is imported.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)  # child processes read it even if this one cannot
    _Waiting.too_late = "torch" in sys.modules


def warn_of_busy_waiting() -> None:
    """Warn once if torch was imported before :func:`wait_briefly`, and has threads that wait for each other.

    The warning is a :class:`BusyWaitingWarning`, with torch on GNU's OpenMP and more than one thread. What torch has
    read cannot be changed afterwards.
    """
    torch = sys.modules.get("torch")
    if not _Waiting.too_late or torch is None or torch.get_num_threads() < 2 or not _has_libgomp():
        return
    _Waiting.too_late = False
    warnings.warn(
        "torch was imported before hessgnn, so its threads wait busily for each other: training may be many times "
        "slower while other processes use the cores. Hint: import hessgnn before torch, or set the environment "
        f"variable GOMP_SPINCOUNT={SPINS} (or OMP_WAIT_POLICY, which also silences this)",
        BusyWaitingWarning,
        stacklevel=3,
    )


def _has_libgomp() -> bool:
    from threadpoolctl import threadpool_info  # reads all loaded libraries, and is needed here only

    return any(library["prefix"] == "libgomp" for library in threadpool_info())


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let the linear algebra behind numpy and scipy use one thread inside the block.

    OpenBLAS divides even the matrices of a small molecule between all cores, and its threads wait busily for the next
    one: an optimisation then costs several times what it needs, most of all where other processes want the same cores.
    """
    from threadpoolctl import threadpool_limits  # not with `import hessgnn`

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def shared_threads(processes: int) -> int:
    """Divide the cores that this process may use: CPU threads for each of several processes, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, processes))


def visible_gpus() -> list[str]:
    """CUDA devices that may be used, as CUDA names them."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return named.split(",")
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def keep_freed_memory() -> bool:
    """Let the process keep large freed blocks for its next tensors; return whether the system's allocator can.

    By default glibc returns them to the system and asks for them again, zeroed page by page: a Hessian step allocates
    thousands of blocks of about a megabyte, and each costs page faults again. The process then holds its peak memory
    until its end, so this is for processes that end with their job. To be called before the first large tensor is
    made; it cannot be undone. The allocators of musl and of other systems than Linux cannot do this.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, PAD))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)


def release_freed_memory() -> bool:
    """Give freed memory back to the system, so that what is resident is in use; return whether the allocator can."""
    trim = _glibc("malloc_trim")
    if trim is None:
        return False
    trim(0)
    return True


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc, ``None`` with another C library."""
    library = ctypes.util.find_library("c")
    return getattr(ctypes.CDLL(library), name, None) if library else None


def hardware() -> str:
    """The processor and, where there is one, the GPU."""
    import torch

    names = [_processor()]
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return ", ".join(names)


def _processor() -> str:
    """Model of the processor; the platform's own word where Linux does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
