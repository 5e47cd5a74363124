"""What Hessian labels change: ratios of errors and cost, with labels over without, and ranks of the architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from hessgnn.evaluation.record import Budget
from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.leaderboard.board import Gain, Leaderboard, Ratio, RegimeRanks
from hessgnn.leaderboard.gains import BUDGETS, gain_label
from hessgnn.leaderboard.plotting import (
    COLOURS,
    GUIDE,
    SYMBOLS,
    Panel,
    architecture_styles,
    error_bars,
    figure_json,
    literal,
    log_axis,
)
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.tables import (
    MAIN_METRICS,
    MISSING,
    Cell,
    MetricLine,
    TextTable,
    metric_lines,
    number,
    ratio_cell,
    score_cell,
)

ROUNDING = "curvature_asymmetry"
"""A number that is no error of a potential, but of arithmetic: a ratio of two says nothing."""
RATIOS_NOTE = (
    "Error with Hessian labels (E-F-H) over error without (E-F), with the 95 % interval over molecules; failed seeds "
    "(\\*) are left out."
)
TASK_RATIOS_NOTE = (
    "The same ratio for what else the tasks found, where lower is better. Means are over what succeeded: read them "
    "beside the shares that failed. The interval over molecules is there where none of them failed on either side."
)
RANKS_NOTE = (
    "Rank of each architecture among the others trained on the same labels for equal steps, with its overall score. "
    "Ties within noise share a rank."
)


@section("gains", order=20)
class Gains(Section):
    """Ratios for equal steps, and for equal time where such runs are."""

    heading = "What Hessian labels buy"
    link = "What Hessians buy"

    def context(self, data: PageData) -> dict[str, Any] | None:
        """See :meth:`Section.context`."""
        board = data.board
        if not board.gains:
            return None
        return {
            "board": board,
            "metrics": {name: METRICS[name] for name in MAIN_METRICS},
            "budgets": [
                (budget, title, gains, gain_panels(board, budget), gain_lines(board, gains))
                for budget, title, gains in _by_budget(board)
            ],
            "gain_cell": gain_cell,
            "gain_label": gain_label,
            "number": number,
            "task_ratios_note": TASK_RATIOS_NOTE,
        }

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`."""
        board, parts = data.board, []
        measured = [(split, name) for split in board.splits for name in MAIN_METRICS]
        for _, title, gains in _by_budget(board):
            labels = [gain_label(gain, gains) for gain in gains]
            table = TextTable(
                ["Architecture", *(f"{split} {METRICS[name][0]}" for split, name in measured), "Training cost"],
                [
                    [label, *(str(gain_cell(gain, *where)) for where in measured), number(gain.device_seconds)]
                    for label, gain in zip(labels, gains, strict=True)
                ],
            )
            parts += [f"## What Hessian labels buy: {title}", RATIOS_NOTE, table.markdown()]
            if lines := gain_lines(board, gains):
                table = TextTable(
                    ["Split", "Metric", *labels],
                    [[split, info.title, *map(str, cells)] for split, info, cells in lines],
                    [False, False] + [True] * len(gains),
                )
                parts += [f"### Task by task: {title}", TASK_RATIOS_NOTE, table.markdown()]
        return parts


def _by_budget(board: Leaderboard) -> list[tuple[Budget, str, list[Gain]]]:
    """Comparisons for equal steps and for equal time, each where there are any."""
    found = [
        (budget, title, [gain for gain in board.gains if gain.budget == budget]) for budget, title in BUDGETS.items()
    ]
    return [entry for entry in found if entry[2]]


def gain_cell(gain: Gain, split: str, name: str) -> Cell:
    """Print one ratio."""
    return ratio_cell(gain.ratios.get(split, {}).get(name))


def gain_lines(board: Leaderboard, gains: Sequence[Gain]) -> list[MetricLine]:
    """Return a line for each metric of the tasks besides accuracy that has a ratio, with a cell for each comparison."""
    return metric_lines(
        board, {*METRICS, ROUNDING}, lambda split, name: [gain_cell(gain, split, name) for gain in gains]
    )


def gain_panels(board: Leaderboard, budget: Budget) -> list[Panel]:
    """Draw the ratios E-F-H over E-F, a panel per split; no panel where all are missing."""
    panels = []
    gains = [gain for gain in board.gains if gain.budget == budget]
    for split in board.splits:
        traces = [_gain_trace(gains, split, name, position) for position, name in enumerate(MAIN_METRICS)]
        if all(value is None for trace in traces for value in trace.x):
            continue
        figure = figure_json(
            traces,
            height=130 + 64 * max(2, len(gains)),
            margin={"l": 12, "r": 12, "t": 12, "b": 48},
            xaxis=log_axis("error ratio, E-F-H / E-F", [1.0, *(value for trace in traces for value in trace.x)]),
            yaxis={
                "automargin": True,
                "range": [len(gains) - 0.5, -0.5],
                "tickvals": list(range(len(gains))),
                "ticktext": [literal(gain_label(gain, gains)) for gain in gains],
                "ticksuffix": "  ",
                "zeroline": False,
            },
            shapes=[{"type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper", "line": GUIDE}],
            legend={"orientation": "h", "yanchor": "top", "y": -0.3, "x": 0},
        )
        panels.append(
            Panel(
                title=f"Split {split}",
                description=f"Ratios of errors with over without Hessian labels per architecture on {split}, "
                f"for {BUDGETS[budget]}, as tabled",
                figure=figure,
            )
        )
    return panels


def _gain_trace(gains: Sequence[Gain], split: str, name: str, position: int) -> go.Scatter:
    ratios = [gain.ratios.get(split, {}).get(name) for gain in gains]
    offset = 0.16 * (position - (len(MAIN_METRICS) - 1) / 2)  # side by side, so that equal ratios stay visible
    return go.Scatter(
        name=METRICS[name][0],
        mode="markers",
        x=[None if ratio is None else ratio.value for ratio in ratios],
        y=[line + offset for line in range(len(gains))],
        error_x=_interval_bars(ratios),
        marker={"color": COLOURS[position], "symbol": SYMBOLS[position], "size": 10},
        text=[literal(gain_label(gain, gains)) for gain in gains],
        hovertemplate="%{text}: %{x:.3g}",
    )


def _interval_bars(ratios: Sequence[Ratio | None]) -> dict[str, Any]:
    """The interval over molecules, else the spread over seeds, to either side."""
    above, below = [], []
    for ratio in ratios:
        if ratio is not None and ratio.low is not None and ratio.high is not None:
            above.append(ratio.high - ratio.value)
            below.append(ratio.value - ratio.low)
        else:
            spread = 0.0 if ratio is None or ratio.std is None else ratio.std
            above.append(spread)
            below.append(spread)
    return {"type": "data", "array": above, "arrayminus": below, "symmetric": False, "thickness": 1, "width": 4}


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
    return TextTable(["Architecture", *regimes, "Places gained, E-F to E-F-H"], lines, caption=RANKS_NOTE)


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
