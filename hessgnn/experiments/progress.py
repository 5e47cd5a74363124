"""Log lines of a sweep or a study, and the leaderboard at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hessgnn.experiments.job import Event, JobFinished, JobProgress
from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.report import write_board
from hessgnn.leaderboard.scores import score
from hessgnn.leaderboard.sections.base import Section
from hessgnn.leaderboard.tables import terminal_table
from hessgnn.runtime.terminal import ProgressLog, say
from hessgnn.training.bar import describe

_PARTS_OF_A_TASK = 4  # lines for each task and split at most: a run has many of them


class JobLog:
    """Writes a line for what workers finish: each tenth of a training, each evaluation task and split, each run.

    Parameters
    ----------
    log
        Where lines go.
    """

    def __init__(self, log: ProgressLog) -> None:
        self.log = log
        self._reached: dict[str, str] = {}

    def observe(self, event: Event) -> None:
        """Take in an event; those of other kinds are left to others."""
        if isinstance(event, JobProgress):
            self._progress(event)
        elif isinstance(event, JobFinished):
            self._finished(event)

    def _progress(self, event: JobProgress) -> None:
        title, done = str(event.title), f"{event.step}/{event.total}"
        if event.task is not None:
            text = f"{event.task} {done}"
            self.log.progress(title, event.task, event.step, event.total, text, parts=_PARTS_OF_A_TASK)
        elif event.point is not None:
            self._reached[title] = f"{done} steps  {describe(event.point)}"
            self.log.progress(title, "steps", event.step, event.total, self._reached[title])

    def _finished(self, event: JobFinished) -> None:
        title, result = str(event.title), event.result
        reached = self._reached.pop(title, "")
        if result is None:
            self.log.line(title, "worker ended without a result")
        elif result.score is None:
            self.log.line(title, f"failed: {result.reason}")
        else:
            facts = [f"score {result.score:.4g}", reached, f"{result.device_seconds:.1f} device-seconds"]
            failure = f"; evaluation failed: {result.reason}" if result.reason else ""
            self.log.line(title, f"finished: {', '.join(filter(None, facts))}{failure}")


def compare(
    runs: Sequence[Path],
    folder: Path,
    title: str,
    console: Console,
    *,
    trials: Path | None = None,
    sections: Sequence[Section | str] = (),
) -> None:
    """Rank finished runs, write the leaderboard, and print its table.

    Parameters
    ----------
    runs
        Run folders with a record, or record files.
    folder
        For the page and the tables.
    title
        Heading of the page.
    console
        For the table.
    trials
        A sweep's ``trials.csv``, for the landscape of the loss weights.
    sections
        Curves of a study.
    """
    loaded = collect(runs)
    board = score(loaded, title)
    page = write_board(board, loaded, folder, trials=trials, sections=sections)
    console.print(terminal_table(board.rows))
    say(console, f"leaderboard: {page}")
