"""The scores of all entries: the overview, a table for each task, and notes."""

from __future__ import annotations

from typing import Any

from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.tables import Cell, MetricLine, TextTable, columns, markdown_text, metric_lines, score_cell
from hessgnn.leaderboard.task_tables import score_tables


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
        shown = columns(board.splits)
        table = TextTable(
            [column.heading for column in shown],
            [[str(column.cell(row)) for column in shown] for row in board.rows],
            [column.numeric for column in shown],
        )
        notes = ["## Notes", "\n".join(f"- {markdown_text(note)}" for note in board.notes)] if board.notes else []
        return [table.markdown(), *notes]


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
