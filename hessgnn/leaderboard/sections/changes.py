"""Before and after fine-tuning: the errors of each start, and of the entries that were trained from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.leaderboard.board import Change, Leaderboard, Row
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.sections.gains import ROUNDING
from hessgnn.leaderboard.tables import (
    MAIN_METRICS,
    Cell,
    TextTable,
    markdown_text,
    metric_lines,
    ratio_cell,
    score_cell,
)

NOTE = (
    "The first line of each table is the start, evaluated with the weights it had before training; only the energy of "
    "each element was fitted to these data. Each line below is an entry that was trained from these weights: its mean "
    "error, and in brackets after over before with its 95 % interval over families and trainings (see Ratio in the "
    "definitions). Below 1 the error fell. The start was trained on other data: a ratio says what fine-tuning changed "
    "for these data, not that one model is better than the other. What is lost elsewhere is not on this page."
)


@dataclass(frozen=True)
class StartTable:
    """One start, and the entries that came from it."""

    start: Row
    entries: Sequence[tuple[Row, Change]]

    def table(self, board: Leaderboard) -> TextTable:
        """Errors of energies, forces and Hessians on every split."""
        places = [(split, name) for split in board.splits for name in MAIN_METRICS]
        headings = ["", "Labels", *(_heading(split, *METRICS[name]) for split, name in places)]
        before = [f"before: {self.start.entry}", self.start.regime, *(str(_before(self.start, *p)) for p in places)]
        after = [
            [f"after: {row.entry}", row.regime, *(str(_after(row, change, *p)) for p in places)]
            for row, change in self.entries
        ]
        return TextTable(headings, [before, *after], [False, False, *(True for _ in places)])

    def others(self, board: Leaderboard) -> TextTable | None:
        """Errors that the other tasks found, a line for each; none if there are none."""

        def cells(split: str, name: str) -> list[Cell]:
            changed = [_after(row, change, split, name) for row, change in self.entries]
            return [_before(self.start, split, name), *changed]

        lines = metric_lines(board, {*METRICS, ROUNDING}, cells)
        headings = ["Split", "Metric", "before", *(f"after: {row.entry}" for row, _ in self.entries)]
        shown = [[split, f"{info.title}, {info.unit}", *map(str, found)] for split, info, found in lines]
        return TextTable(headings, shown, [False, False] + [True] * (len(headings) - 2)) if shown else None


@section("changes", order=8)
class Changes(Section):
    """A table for each start."""

    heading = "Before and after fine-tuning"
    link = "Before → after"
    template = """
<p>{{ note }}</p>
{% for title, table, others in parts %}
<h3>{{ title }}</h3>
{{ text_table("Table: " ~ title, table) }}
{% if others %}
<details>
  <summary>Task by task: {{ title }}</summary>
  {{ text_table("Task by task: " ~ title, others) }}
</details>
{% endif %}
{% endfor %}
"""

    def context(self, data: PageData) -> dict[str, Any] | None:
        """See :meth:`Section.context`."""
        parts = _parts(data.board)
        return {"note": NOTE, "parts": parts} if parts else None

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`."""
        shown = []
        for title, table, others in _parts(data.board):
            shown += [f"### {markdown_text(title)}", table.markdown()]
            if others is not None:
                shown += [f"#### Task by task: {markdown_text(title)}", others.markdown()]
        return [f"## {self.heading}", markdown_text(NOTE), *shown] if shown else []


def start_tables(board: Leaderboard) -> list[StartTable]:
    """Join the entries that came from the same start, in the order of the page."""
    rows = {row.entry: row for row in board.rows}
    found: dict[str, list[tuple[Row, Change]]] = {}
    for change in board.changes:
        found.setdefault(change.before, []).append((rows[change.entry], change))
    return [StartTable(rows[before], sorted(some, key=lambda one: one[0].regime)) for before, some in found.items()]


def _parts(board: Leaderboard) -> list[tuple[str, TextTable, TextTable | None]]:
    return [
        (f"{one.start.architecture}: {one.start.start or one.start.entry}", one.table(board), one.others(board))
        for one in start_tables(board)
    ]


def _heading(split: str, title: str, unit: str) -> str:
    return f"{split} {title} / {unit}"


def _before(row: Row, split: str, name: str) -> Cell:
    return score_cell(row.scores.get(split, {}).get(name))


def _after(row: Row, change: Change, split: str, name: str) -> Cell:
    cell, ratio = score_cell(row.scores.get(split, {}).get(name)), change.ratios.get(split, {}).get(name)
    return cell if ratio is None else Cell(cell.value, str(cell), f"[{ratio_cell(ratio)}]")
