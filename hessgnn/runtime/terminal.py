"""What commands show: exit statuses, one-line errors, progress bars, and a log line for each finished unit of work."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO, TypeVar

import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hessgnn.errors import UserError
from hessgnn.runtime.machine import wait_briefly

WRONG_INPUT = 2
INCOMPLETE = 3
"""Exit status of ``evaluate``: the record is written, but a task is missing."""
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

# Newer versions of typer bring a click of their own, whose errors are not those of the package `click`.
_UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "UsageError")


class Interrupted(Exception):
    """Ctrl-C, with the command that resumes. Versions of typer differ in what they make of a KeyboardInterrupt."""


def main(application: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: status 2 and one line for wrong input, 1 for a bug, with its traceback in a file.

    A sweep or a study of which no run could be trained has status 1, too.
    """
    wait_briefly()
    how = ", run the same command again"
    errors = Console(stderr=True, soft_wrap=True, emoji=False)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = application(args=arguments, standalone_mode=False)
    except UserError as error:
        errors.print(f"[red]error:[/red] {_plain(str(error))}", highlight=False)
        status = error.status
    except _UsageError as error:
        if message := error.format_message():  # without one, help was asked for and has been shown
            verb = error.ctx.command_path if error.ctx is not None else "hessgnn"
            wrong = UserError(message.rstrip("."), hint=f"see `{verb} --help`")
            errors.print(f"[red]error:[/red] {_plain(str(wrong))}", highlight=False)
        status = WRONG_INPUT
    except Interrupted as error:
        how, status = f": {error}", INTERRUPTED
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except Exception as error:
        errors.print(
            f"[red]this is a bug:[/red] {_plain(f'{type(error).__name__}: {error}')} ({_log()})", highlight=False
        )
        status = 1
    # Some versions of typer return the status, others raise. Of torchrun's processes, rank 0 reports it for all.
    if status == INTERRUPTED and os.environ.get("RANK", "0") == "0":
        say(errors, f"stopped; to resume{how}")
    sys.exit(status)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show what users are warned of in a line of its own; of other warnings, too, where they come from."""
    if issubclass(category, UserWarning):
        print(f"warning: {message}", file=file or sys.stderr)  # a progress bar makes room for it
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)


def _log() -> str:
    """Write the traceback of the current exception to a file; where that is impossible, return it."""
    path = Path("error.log").resolve()
    try:
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        return traceback.format_exc().replace("[", "\\[")
    return f"traceback in {path}"


def _plain(text: str) -> str:
    """One line, and no markup of ours."""
    return " ".join(text.split()).replace("[", "\\[")


def say(console: Console, text: str) -> None:
    """Print a line as it is: no markup, no highlighting, no line breaks."""
    console.print(text, highlight=False, soft_wrap=True, markup=False, emoji=False)


class ProgressLog:
    """One line for each finished unit of work, where the output is redirected, and in a log file.

    On a terminal a live display shows the same; only the file is written then. Each line is appended to the file at
    ``path``, if there is one, with the time. The file is created with the first line.
    """

    def __init__(self, console: Console, path: Path | None = None) -> None:
        self._console, self._path = console, path
        self._reached: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def line(self, title: str, text: str) -> None:
        """Write ``[title] text``: what the line is about, such as ``final ani E-F seed 1``, and what was finished."""
        line = " ".join(f"[{title}] {text}".splitlines())
        with self._lock:
            if not self._console.is_terminal:
                say(self._console, line)
            if self._path is not None and self._path.parent.is_dir():
                self._keep(self._path, line)

    def _keep(self, path: Path, line: str) -> None:
        """Append to the file; where that fails, say so once and go on without: a log is no reason to stop a run."""
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
        except OSError as error:
            self._path = None
            say(self._console, f"{path}: the log cannot be written ({error.strerror}); going on without it")

    def progress(self, title: str, what: str, done: int, total: int, text: str, *, parts: int = 10) -> None:
        """Write a line whenever another part of something long is done, and at its end; ``parts`` lines at most.

        ``what`` is counted: the same title may have several things to count. ``done`` of ``total`` units are done.
        """
        reached = parts * done // max(total, 1)
        if reached > self._reached.get((title, what), 0):
            self._reached[title, what] = reached
            self.line(title, text)


def work_bar(console: Console) -> Progress:
    """Make the bar of a long piece of work, shown on a terminal only; tasks have a field ``failed``, a number."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    more = TimeRemainingColumn(), TextColumn("{task.fields[failed]} failed")
    return Progress(*columns, *more, console=console, disable=not console.is_terminal)


def time_left(seconds: float, done: int, total: int) -> str:
    """Say ``, about 12 min left`` where ``done`` of ``total`` took so many seconds; nothing below a minute."""
    minutes = round(seconds / 60 * (total - done) / max(done, 1))
    hours = f"{minutes // 60} h " if minutes >= 60 else ""
    return f", about {hours}{minutes % 60} min left" if minutes else ""


T = TypeVar("T")

PATIENCE = 2.0
"""Seconds before a bar appears."""


def tracked(items: Sequence[T] | NDArray, description: str) -> Iterator[T]:
    """Yield items, with a progress bar on the terminal's error stream, once that takes longer than :data:`PATIENCE`."""
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
