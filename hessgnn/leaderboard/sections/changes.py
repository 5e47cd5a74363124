"""Before and after fine-tuning: the errors of each start, and of the entries that were trained from it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    "Before: the start, evaluated with the weights that it had. Where its origin is published, the energy of each "
    "element was fitted to these data; otherwise it is as its own training left it. After: each entry that was trained "
    "from these weights, and in brackets after over before with its 95 % interval over families and trainings (see "
    "Ratio in the definitions). Below 1 the error fell. The start was trained on other data: a ratio says what "
    "fine-tuning changed for these data, not which model is better. What is lost elsewhere is not on this page"
)


@dataclass(frozen=True)
class StartTable:
    """One start, and the entries that came from it."""

    start: Row
    entries: Sequence[tuple[Row, Change]]

    @property
    def title(self) -> str:
        """For headings."""
        architecture, name = self.start.architecture, self.entries[0][0].start
        return f"{architecture}, started from {'its published weights' if name == architecture else name}"

    def table(self, board: Leaderboard, metrics: Collection[str]) -> TextTable | None:
        """Lay out some metrics, a line for each and split; none where there is no number."""

        def cells(split: str, name: str) -> list[Cell]:
            before = score_cell(self.start.scores.get(split, {}).get(name))
            return [before, *(_after(row, change, split, name) for row, change in self.entries)]

        lines = metric_lines(board, board.metrics.keys() - set(metrics), cells)
        headings = [
            "Split",
            "Metric",
            f"before: {self.start.entry}",
            *(f"after: {row.entry}" for row, _ in self.entries),
        ]
        shown = [[split, f"{info.title}, {info.unit}", *map(str, found)] for split, info, found in lines]
        return TextTable(headings, shown, [False, False] + [True] * (len(headings) - 2)) if shown else None


@section("changes", order=4)
class Changes(Section):
    """A table for each start."""

    heading = "Before and after fine-tuning"
    link = "Before → after"
    template = """
<p>{{ note }}</p>
{% for title, table, others in parts %}
<h3>{{ title }}</h3>
{% if table %}{{ text_table("Table: " ~ title, table) }}{% endif %}
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
        return {"note": _note(data), "parts": parts} if parts else None

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`."""
        shown = []
        for title, table, others in _parts(data.board):
            shown.append(f"### {markdown_text(title)}")
            shown += [one.markdown() for one in (table, others) if one is not None]
        return [f"## {self.heading}", markdown_text(_note(data)), *shown] if shown else []


def start_tables(board: Leaderboard) -> list[StartTable]:
    """Join the entries that came from the same start, in the order of the page."""
    rows = {row.entry: row for row in board.rows}
    found: dict[str, list[tuple[Row, Change]]] = {}
    for change in board.changes:
        found.setdefault(change.before, []).append((rows[change.entry], change))
    return [StartTable(rows[before], sorted(some, key=lambda one: one[0].regime)) for before, some in found.items()]


def _parts(board: Leaderboard) -> list[tuple[str, TextTable | None, TextTable | None]]:
    others = board.metrics.keys() - {*METRICS, ROUNDING}
    return [
        (
            one.title,
            one.table(board, MAIN_METRICS),
            one.table(board, others),
        )
        for one in start_tables(board)
    ]


def _note(data: PageData) -> str:
    """The note, and where runs on several stores say what they lost on the others."""
    files = {
        f"metrics-{other.name}.csv": None
        for item in data.runs
        if item.record.origin == "fine-tuned"
        for other in item.record.sources[1:]
    }
    where = f": the run folders of runs with replay tell it at each validation, in {', '.join(files)}" if files else ""
    return f"{NOTE}{where}."


def _after(row: Row, change: Change, split: str, name: str) -> Cell:
    cell, ratio = score_cell(row.scores.get(split, {}).get(name)), change.ratios.get(split, {}).get(name)
    return cell if ratio is None else Cell(cell.value, str(cell), f"[{ratio_cell(ratio)}]")
