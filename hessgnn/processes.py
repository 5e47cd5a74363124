"""Worker processes that end with their parent, however it ends."""

from __future__ import annotations

import os
import threading
import time


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
