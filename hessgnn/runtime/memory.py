"""Peak memory of a piece of work."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from hessgnn.runtime.machine import keep_freed_memory, release_freed_memory
from hessgnn.runtime.processes import Pool
from hessgnn.runtime.worker import Link

MIB = 2**20
RUNS = 2
"""The first run makes what stays, such as the state of the optimiser; the second finds it there."""


def peak_memory(
    pieces: Callable[[], Mapping[str, Callable[[], Callable[[], object]]]],
    name: str,
    *,
    device: str = "cpu",
    threads: int | None = None,
    keep_memory: bool = False,
) -> float:
    """Memory that a piece of work needs beyond what its potential and batch take, MiB.

    On a GPU, what torch's allocator handed out at most. On the CPU, how far the peak of the resident memory rises in
    a fresh process that does nothing else: in this one, memory that was freed before would hide it.

    Parameters
    ----------
    pieces
        Makes the pieces of work by name; it can be pickled.
    threads
        CPU threads of the fresh process; as many as torch uses in this one if absent.
    keep_memory
        Whether the fresh process keeps freed memory, see :func:`~hessgnn.runtime.machine.keep_freed_memory`.

    Raises
    ------
    WorkerDied
        When the system ends the fresh process, as it does when memory runs out.
    """
    if device != "cpu":
        return _on_gpu(pieces()[name]())
    threads = threads or torch.get_num_threads()
    work = partial(_in_fresh_process, pieces, name, threads, keep_memory)
    # Without `preload`: a fork of a server would begin with pages that this one shares.
    with Pool(1, threads=threads, keep_memory=keep_memory) as pool:
        hint = "ask for a smaller --batch-size, or leave out --memory"
        return pool.submit(work, where=f"memory of {name}", hint=hint).result()


def _on_gpu(work: Callable[[], object]) -> float:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(RUNS):
        work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def _in_fresh_process(
    pieces: Callable[[], Mapping[str, Callable[[], Callable[[], object]]]],
    name: str,
    threads: int,
    keep_memory: bool,
    _link: Link,
) -> float:
    torch.set_num_threads(threads)
    if keep_memory:
        keep_freed_memory()
    work = pieces()[name]()
    gc.collect()
    release_freed_memory()  # else the work would find room that the preparation has left, and need none
    _forget_peak()
    before = peak_resident()
    for _ in range(RUNS):
        work()
    return max(0, peak_resident() - before) / MIB


def _forget_peak() -> None:
    """Set the peak back to what is resident now: importing and building may have taken more. On Linux only."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_resident() -> int:
    """Largest resident memory of this process so far, bytes."""
    try:
        # getrusage would tell the peak of the parent too: Linux hands it on when a process is begun.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):
        import resource  # Windows has none

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
