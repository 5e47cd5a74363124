"""Worker processes that end with their parent, however it ends, and work that Ctrl-C must not cut in two."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from hessgnn.errors import DataError

X = TypeVar("X")
Y = TypeVar("Y")


def each(function: Callable[[X], Y], items: Sequence[X], processes: int, *, where: object) -> Iterator[Y]:
    """Call a function for each of some items, in processes of one thread each, and give what comes back as it comes.

    Parameters
    ----------
    function
        Keeps its result in a file, or gives one that can be pickled, as itself and the items must.
    items
        What it is called with, in no certain order.
    processes
        At once.
    where
        Named when one of them dies.

    Yields
    ------
    object
        What the function gives.

    Raises
    ------
    DataError
        When a process dies. What a function raises is raised here.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
    number = min(processes, len(items))
    with (
        _one_thread_each(),
        ProcessPoolExecutor(number, mp_context=context, initializer=end_with, initargs=(os.getpid(),)) as pool,
    ):
        running = [pool.submit(function, item) for item in items]
        try:
            for done in as_completed(running):
                yield done.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died (out of memory, or killed)",
                where=where,
                remedy="run the same command again: what is finished is kept; use fewer processes",
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def end_with(parent: int) -> None:
    """End this process when its parent is gone: an orphan would write into a folder that a new process resumes.

    Parameters
    ----------
    parent
        Process id of the parent. It is watched from a thread; this function returns at once.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until something short is done, such as a write that takes a lock.

    Raises
    ------
    KeyboardInterrupt
        At the end, if it was pressed meanwhile.
    """
    elsewhere = threading.current_thread() is not threading.main_thread()  # Ctrl-C is for the main thread alone
    if elsewhere or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
        yield
        return
    pressed: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that are started meanwhile use one thread: molecules this small gain nothing from more."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(dict.fromkeys(variables, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
