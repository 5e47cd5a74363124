"""Ranks of the architectures within each kind of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from hessgnn.leaderboard.board import Leaderboard, RegimeRanks
from hessgnn.leaderboard.plotting import Panel, architecture_styles, error_bars, figure_json, literal, log_axis
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.tables import MISSING, TextTable, score_cell

CAPTION = (
    "Rank of each architecture among the others trained on the same labels for equal steps, with its overall score. "
    "Ties within noise share a rank."
)


@section("ranks", order=30)
class Ranks(Section):
    """A table of the ranks, and the overall scores that they come from."""

    heading = "Do Hessians change who is best?"
    link = "Ranks"
    template = """
<div class="beside">
{{ text_table("Table of ranks", table) }}
{{ panel(figure) }}
</div>
"""

    def context(self, data: PageData) -> dict[str, Any] | None:
        """See :meth:`Section.context`."""
        ranks = data.board.ranks
        return {"table": rank_table(ranks), "figure": rank_panel(data.board)} if ranks else None

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`."""
        ranks = data.board.ranks
        return ["## Ranks within each kind of labels", rank_table(ranks).markdown()] if ranks else []


def rank_table(ranks: Sequence[RegimeRanks]) -> TextTable:
    """Lay out the ranks of the architectures, a column for each kind of labels."""
    regimes = list(ranks[0].ranks)
    lines = []
    for item in ranks:
        gained = (
            MISSING if item.places_gained is None else "0" if not item.places_gained else f"{item.places_gained:+d}"
        )
        places = [
            MISSING if item.ranks[regime] is None else f"{item.ranks[regime]} ({score_cell(item.overall[regime])})"
            for regime in regimes
        ]
        lines.append([item.architecture, *places, gained.replace("-", "−")])
    return TextTable(["Architecture", *regimes, "Places gained, E-F to E-F-H"], lines, caption=CAPTION)


def rank_panel(board: Leaderboard) -> Panel:
    """Draw the overall score of each architecture against the kinds of labels."""
    styles = architecture_styles(board.rows)
    traces = []
    for item in board.ranks:
        colour, symbol = styles[item.architecture]
        found = [(regime, score, item.ranks[regime]) for regime, score in item.overall.items() if score is not None]
        traces.append(
            go.Scatter(
                name=literal(item.architecture),
                mode="lines+markers",
                x=[regime for regime, _, _ in found],
                y=[score.mean for _, score, _ in found],
                error_y=error_bars([score.std for _, score, _ in found]),
                text=[f"rank {rank}" for _, _, rank in found],
                line={"color": colour, "width": 2},
                marker={"symbol": symbol, "size": 10},
                hovertemplate="%{x}: %{text}, overall %{y:.3g}",
            )
        )
    figure = figure_json(
        traces,
        height=360,
        xaxis={"type": "category", "categoryarray": list(board.ranks[0].ranks), "title": {"text": "labels"}},
        yaxis=log_axis("overall, mean predictor = 1", [value for trace in traces for value in trace.y]),
        showlegend=True,
    )
    return Panel(
        "Overall score by labels", "Overall score of each architecture for each kind of labels, as tabled", figure
    )
