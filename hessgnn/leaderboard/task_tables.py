"""One table for each task: every entry, every number of the task, split by split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hessgnn.evaluation.tasks.registry import ACCURACY, TASKS, task_of
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.tables import Cell, Column, column_groups, columns, heat, metric_column

OVERVIEW = "overview"

TASK_TEXTS = {
    ACCURACY: (
        "Accuracy",
        "Errors of energies, forces and Hessians, of curvature, and of energy profiles along paths.",
    ),
    "vibrations": ("Vibrations", "Frequencies at each potential's own minimum and at the reference one."),
    "relaxation": ("Relaxations", "Where relaxations end, in how many steps, and how often they fail."),
    "saddle": ("Saddle points", "Transition states recognised by their curvature, and searched for."),
    "neb": ("Reaction bands", "Barriers of climbing-image bands."),
    "md": ("Heated dynamics", "How hot a molecule may become before its dynamics break down."),
    "cost": ("Cost of a call", "Time and memory of gradients and Hessians."),
}
"""Heading and what it is about; docs/tasks.md defines each number."""

NOTE = "Mean ± standard deviation over seeds; what failed is counted in the columns on failures, and not in the means."


@dataclass(frozen=True)
class ScoreTable:
    """A table of entries that can be sorted and filtered."""

    key: str
    title: str
    caption: str
    columns: list[Column]
    cells: list[list[Cell]]
    """Line by line."""
    heats: list[list[float | None]]
    """Column by column."""

    @property
    def groups(self) -> list[tuple[Column, int]]:
        """The columns under each heading, see :func:`~hessgnn.leaderboard.tables.column_groups`."""
        return column_groups(self.columns)


def score_tables(board: Leaderboard) -> list[ScoreTable]:
    """Return the overview, and a table for each task that any entry was judged by.

    Parameters
    ----------
    board
        The leaderboard.

    Returns
    -------
    list of ScoreTable
        The overview first.
    """
    overview = columns(board.splits)
    caption = (
        "One line per entry, best first. Errors are mean ± standard deviation over seeds; lower is better, and the "
        "best of a column is bold. A dash is a missing number."
    )
    tables = [_table(board, OVERVIEW, "Overview", caption, overview)]
    leading = [column for column in overview if column.key in ("entry", "architecture", "regime")]
    for task in TASKS:
        shown = [
            metric_column(split, name, info)
            for split in board.splits
            for name, info in board.metrics.items()
            if task_of(name) == task and any(row.scores.get(split, {}).get(name) is not None for row in board.rows)
        ]
        if shown:
            title, about = TASK_TEXTS.get(task, (task, ""))
            tables.append(_table(board, task, title, f"{about} {NOTE}", [*leading, *shown]))
    return tables


def _table(board: Leaderboard, key: str, title: str, caption: str, shown: Sequence[Column]) -> ScoreTable:
    cells = [[column.cell(row) for column in shown] for row in board.rows]
    heats: list[list[float | None]] = [
        [None] * len(cells) if column.better is None else heat([line[k] for line in cells], column.better)
        for k, column in enumerate(shown)
    ]
    return ScoreTable(key, title, caption.strip(), list(shown), cells, heats)
