"""What was the same for all entries, and what was not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.gains import BUDGETS
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.tables import markdown_text


@section("fairness", order=160)
class Fairness(Section):
    """Data, budgets, seeds, hardware and versions."""

    heading = "Fairness"
    template = "{{ facts(conditions) }}"

    def context(self, data: PageData) -> dict[str, Any]:
        """See :meth:`Section.context`."""
        return {"conditions": fairness(data.board)}

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`."""
        return ["## Fairness", "\n".join(f"- {name}: {markdown_text(text)}" for name, text in fairness(data.board))]


def fairness(board: Leaderboard) -> list[tuple[str, str]]:
    """List what was the same for all entries, and what was not."""
    trained = [row for row in board.rows if row.regime != "mean"]
    facts = [
        ("Data", board.data.name),
        ("Content hash", board.data.content_hash),
        ("Split hash", board.data.split_hash),
        ("Level of theory", board.data.level_of_theory),
        ("Budget", _each([(row.entry, BUDGETS[row.budget]) for row in trained])),
        ("Steps", _each([(row.entry, f"{row.steps:,}") for row in trained])),
        ("Seeds", _each([(row.entry, ", ".join(map(str, row.seeds))) for row in trained])),
        ("Loss weights", _each([(row.entry, _weights(row.weights)) for row in trained])),
        (
            "Sweep trials",
            _each([(row.entry, "none" if not row.sweep_trials else f"{row.sweep_trials:,.0f}") for row in trained]),
        ),
        ("Device", _each([(row.entry, row.device) for row in trained])),
        ("Hardware", "; ".join(board.hardware) or "not recorded"),
        ("Versions", ", ".join(f"{name} {' / '.join(found)}" for name, found in board.versions.items())),
    ]
    return [(name, text or "not recorded") for name, text in facts]


def _each(facts: Sequence[tuple[str, str]]) -> str:
    """Name entries only where they differ."""
    if len({fact for _, fact in facts}) <= 1:
        return "".join(fact for _, fact in facts[:1])
    return "; ".join(f"{entry}: {fact}" for entry, fact in facts)


def _weights(weights: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in weights.items())
