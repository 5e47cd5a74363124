"""The scores of all entries: the overview, a table for each task, and notes. docs/tasks.md defines each number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.evaluation.tasks.base import all_tasks, task_of
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.origins import RANKED
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.tables import (
    Cell,
    Column,
    MetricLine,
    TextTable,
    column_groups,
    columns,
    heat,
    markdown_text,
    metric_column,
    metric_lines,
    score_cell,
    weights_text,
)

OVERVIEW = "overview"
OTHERS = ("others", "Other tasks", "Numbers of tasks that are not installed here.")

NOTE = "Mean ± standard deviation over seeds; what failed is counted in the columns on failures, and not in the means."


@section("scores", order=10)
class Scores(Section):
    """All entries, best first, and what a reader has to know of the comparison."""

    heading = "Scores"

    def context(self, data: PageData) -> dict[str, Any]:
        """See :meth:`Section.context`."""
        return {"board": data.board, "tables": score_tables(data.board)}

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`: the overview and the notes; :class:`Tasks` has the other numbers."""
        board = data.board
        shown = columns(board)
        table = TextTable(
            [column.heading for column in shown],
            [[str(column.cell(row)) for column in shown] for row in board.rows],
            [column.numeric for column in shown],
        )
        notes = ["## Notes", "\n".join(f"- {markdown_text(note)}" for note in board.notes)] if board.notes else []
        return [f"## {self.heading}", table.markdown(), *notes]


@section("tasks", order=15)
class Tasks(Section):
    """The numbers of the tasks besides accuracy, for Markdown: on the page they are tabs of the scores."""

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`."""
        board = data.board
        lines = [[split, f"{info.title}, {info.unit}", *map(str, cells)] for split, info, cells in task_lines(board)]
        headings = ["Split", "Metric", *(row.entry for row in board.rows)]
        numeric = [False, False] + [True] * len(board.rows)
        return ["## Tasks", TextTable(headings, lines, numeric).markdown()] if lines else []


def task_lines(board: Leaderboard) -> list[MetricLine]:
    """Return a line for each metric of the tasks besides accuracy, with a cell for each entry."""

    def cells(split: str, name: str) -> list[Cell]:
        return [score_cell(row.scores.get(split, {}).get(name)) for row in board.rows]

    return metric_lines(board, METRICS, cells)


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
    """Return the overview, then a table for each task that any entry was evaluated by."""
    overview = columns(board)
    origins = "; ranks and bold numbers are among entries of one origin" if board.origins else ""
    caption = (
        f"One line per entry, best first{origins}. Errors are mean ± standard deviation over seeds; lower is better, "
        "and the best of a column is bold, unless fewer than five structures are behind it. A dash is a missing "
        "number. "
        f"Overall: geometric mean of the parts, {weights_text(board)}; of the Hessian alone see its part. Entries "
        "share a rank unless one is shown to be worse than the best of it, see the definitions."
    )
    tables = [_table(board, OVERVIEW, "Overview", caption, overview)]
    leading = [column for column in overview if column.key in ("entry", "architecture", "regime", "origin")]
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
        _heat(board, column, [line[k] for line in cells]) for k, column in enumerate(shown)
    ]
    return ScoreTable(key, title, caption.strip(), list(shown), cells, heats)


def _heat(board: Leaderboard, column: Column, cells: Sequence[Cell]) -> list[float | None]:
    """Place numbers between the best and the worst of those that are ranked together, the baseline left out."""
    found: list[float | None] = [None] * len(cells)
    for group in (0, 1) if column.better is not None else ():
        places = [k for k, row in enumerate(board.rows) if RANKED[row.origin] == group and row.origin != "baseline"]
        for k, value in zip(places, heat([cells[k] for k in places], column.better or "lower"), strict=True):
            found[k] = value
    return found
