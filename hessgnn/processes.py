"""Worker processes that end with their parent, however it ends, and work that Ctrl-C must not cut in two."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


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
    if threading.current_thread() is not threading.main_thread():  # Ctrl-C is for the main thread alone
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
