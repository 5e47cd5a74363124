"""A progress bar for what may take long: on a terminal only, and only once it does take long."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds before a bar appears."""


def tracked(items: Sequence[T] | NDArray, description: str) -> Iterator[T]:
    """Go through items, with a bar on the terminal's error stream.

    Parameters
    ----------
    items
        What to go through.
    description
        What is done with them, a few words.

    Yields
    ------
    object
        Each item.
    """
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True)
    progress = Progress(*columns, console=console, transient=True)
    started = time.monotonic()
    shown = False
    task = progress.add_task(description, total=len(items))
    try:
        for done, item in enumerate(items):
            progress.update(task, completed=done)
            if not shown and console.is_terminal and time.monotonic() - started > PATIENCE:
                progress.start()
                shown = True
            yield item
    finally:
        if shown:
            progress.stop()
