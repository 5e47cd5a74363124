"""The progress bar of a run: errors as they fall, and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hessgnn.training.run import Point
from hessgnn.training.trainer import Observer


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Progress]:
    """A bar with room for the errors of the last validation.

    Parameters
    ----------
    console
        Where to draw; the terminal by default.

    Yields
    ------
    rich.progress.Progress
        Whose tasks have the field ``errors``.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[errors]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        yield progress


def observe(progress: Progress, task: TaskID, also: Callable[[int], None] | None = None) -> Observer:
    """An observer for the trainer that moves a bar.

    Parameters
    ----------
    progress
        From :func:`progress_bar`.
    task
        Its task.
    also
        Called with the number of steps done, to move another bar.

    Returns
    -------
    Observer
        For :func:`hessgnn.training.trainer.train`.
    """

    def observer(step: int, point: Point | None) -> None:
        progress.update(task, completed=step)
        if point is not None:
            progress.update(task, errors=describe(point))
        if also is not None:
            also(step)

    return observer


def describe(point: Point) -> str:
    """Validation errors in the field's units, on one line."""
    parts = [
        f"{title} {value * factor:.3g} {unit}"
        for title, value, factor, unit in (
            ("E", point.energy_rmse, 1e3, "meV/atom"),
            ("F", point.forces_rmse, 1e3, "meV/Å"),
            ("H", point.hessian_rmse, 1.0, "eV/Å²"),
        )
        if value is not None
    ]
    return "  ".join(parts)
