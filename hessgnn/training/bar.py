"""The progress bar of a run: validation errors and the time left."""

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
    TimeRemainingColumn,
)

from hessgnn.training.run import ValidationPoint
from hessgnn.training.trainer import Observer


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Progress]:
    """A progress bar with a column for the errors of the last validation; nothing where output is redirected.

    Its tasks need the field ``errors``.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=14),
        MofNCompleteColumn(),
        TextColumn("{task.fields[errors]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    console = console or Console()
    with Progress(*columns, console=console, refresh_per_second=4, disable=not console.is_terminal) as progress:
        yield progress


def observe(progress: Progress, task: TaskID, also: Callable[[int], None] | None = None) -> Observer:
    """A callback for the trainer that advances a task of :func:`progress_bar`.

    ``also`` is called with the number of steps done, to advance another bar.
    """

    def observer(step: int, point: ValidationPoint | None) -> None:
        progress.update(task, completed=step)
        if point is not None:
            progress.update(task, errors=describe(point))
        if also is not None:
            also(step)

    return observer


def legend(*, hessian: bool) -> str:
    """Explain the numbers of :func:`describe`; those of Hessians where a validation has them."""
    units = "E in meV/atom, F in meV/Å" + (", H in eV/Å²" if hessian else "")
    return f"errors are root mean squares on the validation split: {units}"


def describe(point: ValidationPoint) -> str:
    """Validation errors on one short line, in the units of :func:`legend`; those on other stores follow."""
    text = _errors(point)
    return "  ".join([text, *(f"| {name} {_errors(other)}" for name, other in point.others.items())])


def _errors(point: ValidationPoint) -> str:
    errors = (("E", point.energy_rmse, 1e3), ("F", point.forces_rmse, 1e3), ("H", point.hessian_rmse, 1.0))
    return "  ".join(f"{title} {_short(value * factor)}" for title, value, factor in errors if value is not None)


def _short(value: float) -> str:
    return f"{value:.0f}" if 100 <= value < 1e5 else f"{value:.3g}"
