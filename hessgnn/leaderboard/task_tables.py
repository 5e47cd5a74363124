"""One table for each task: every entry, every number of the task, split by split. docs/tasks.md defines each number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hessgnn.evaluation.tasks.base import all_tasks, task_of
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.tables import Cell, Column, column_groups, columns, heat, metric_column

OVERVIEW = "overview"
OTHERS = ("others", "Other tasks", "Numbers of tasks that are not installed here.")

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
    """Return the overview, and a table for each task that any entry was evaluated by.

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
    owners = {name: task_of(name) for name in board.metrics}
    for task in [*all_tasks(), None]:
        shown = [
            metric_column(split, name, info)
            for split in board.splits
            for name, info in board.metrics.items()
            if owners[name] is task and any(row.scores.get(split, {}).get(name) is not None for row in board.rows)
        ]
        if shown:
            key, title, caption = OTHERS if task is None else (task.name, task.title, task.caption)
            tables.append(_table(board, key, title, f"{caption} {NOTE}", [*leading, *shown]))
    return tables


def _table(board: Leaderboard, key: str, title: str, caption: str, shown: Sequence[Column]) -> ScoreTable:
    cells = [[column.cell(row) for column in shown] for row in board.rows]
    heats: list[list[float | None]] = [
        [None] * len(cells) if column.better is None else heat([line[k] for line in cells], column.better)
        for k, column in enumerate(shown)
    ]
    return ScoreTable(key, title, caption.strip(), list(shown), cells, heats)
