"""Runs and structures without a result."""

from __future__ import annotations

from typing import Any

from hessgnn.evaluation.tasks.base import all_tasks
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.tables import TextTable, markdown_text

FAILURE_LINES = 100
"""Of the table of structures without a result; leaderboard.json holds all."""


@section("failures", order=150, markdown_order=12)
class Failures(Section):
    """Failed runs, and structures that a task could not finish, by reason."""

    heading = "Failures"

    def context(self, data: PageData) -> dict[str, Any] | None:
        """See :meth:`Section.context`."""
        board = data.board
        if not board.failures and not board.task_failures:
            return None
        return {
            "board": board,
            "task_failures": board.task_failures[:FAILURE_LINES],
            "task_titles": {task.name: task.title for task in all_tasks()},
        }

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`: right after the scores, which leave them out."""
        board, parts = data.board, []
        if board.failures:
            lines = [markdown_text(f"{item.entry}, seed {item.seed}: {item.reason}") for item in board.failures]
            parts += ["## Failed runs", "\n".join(f"- {line}" for line in lines)]
        if board.task_failures:
            table = TextTable(
                ["Entry", "Task", "Split", "n", "Reason", "For example"],
                [
                    [item.entry, item.task, item.split, str(item.n), item.reason, ", ".join(item.examples)]
                    for item in board.task_failures
                ],
                [False, False, False, True, False, False],
            )
            parts += ["## Structures without a result", table.markdown()]
        return parts
