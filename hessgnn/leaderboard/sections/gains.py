"""What labels change: ratios of errors and cost, the main comparison first, and ranks of the architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.leaderboard.board import Gain, Leaderboard, Ratio, RegimeRanks
from hessgnn.leaderboard.comparisons import BUDGETS, COMPARISONS, Comparison
from hessgnn.leaderboard.gains import gain_label
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
    markdown_text,
    metric_lines,
    number,
    ratio_cell,
    score_cell,
)

ROUNDING = "curvature_asymmetry"
"""A number that is no error of a potential, but of arithmetic: a ratio of two says nothing."""
RATIOS_NOTE = (
    "Each cell has two numbers. First the geometric mean of the ratio of errors over families of molecules or "
    "reactions and over trainings, with its 95 % interval (mixed model); it weighs every family alike. Behind it, as "
    "means, the ratio of mean errors with its 95 % interval (bootstrap over families, then trainings, then frames); "
    "a few families with large errors may carry it. Where errors of single structures are not saved there is only the "
    "latter, ± over seeds. Below 1 the error fell. Intervals are of each number by itself and test nothing{tests}. "
    "Failed seeds (*) are left out. Not a force field: predicting no force at all has a smaller "
    "force MAE there than one of the two sides."
)
TASK_RATIOS_NOTE = (
    "The same for what else the tasks found, where lower is better. Means are over what succeeded: read them "
    "beside the shares that failed. There are intervals where nothing failed on either side."
)
RANKS_NOTE = (
    "Rank of each architecture among the others trained on the same labels for equal steps, with its overall score. "
    "Entries that are not shown to be worse than the best of a rank share it."
)


@section("gains", order=5)
class Gains(Section):
    """Ratios for each comparison, for equal steps, and for equal time where such runs are."""

    heading = "What Hessian labels buy"
    link = "What Hessians buy"

    def context(self, data: PageData) -> dict[str, Any] | None:
        """See :meth:`Section.context`."""
        board = data.board
        if not _parts(board):
            return None
        return {
            "board": board,
            "metrics": {name: METRICS[name] for name in MAIN_METRICS},
            "parts": [
                (key, title, gains, gain_panels(board, comparison, title, gains), gain_lines(board, gains))
                for key, title, comparison, gains in _parts(board)
            ],
            "gain_cell": gain_cell,
            "gain_label": gain_label,
            "number": number,
            "ratios_note": _ratios_note(board),
            "task_ratios_note": TASK_RATIOS_NOTE,
        }

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`."""
        board, parts = data.board, []
        measured = [(split, name) for split in board.splits for name in MAIN_METRICS]
        for _, title, _, gains in _parts(board):
            labels = [gain_label(gain, gains) for gain in gains]
            table = TextTable(
                ["Architecture", *(f"{split} {METRICS[name][0]}" for split, name in measured), "Training cost"],
                [
                    [label, *(str(gain_cell(gain, *where)) for where in measured), number(gain.device_seconds)]
                    for label, gain in zip(labels, gains, strict=True)
                ],
            )
            parts += [f"### Ratios: {title}", table.markdown()]
            if lines := gain_lines(board, gains):
                table = TextTable(
                    ["Split", "Metric", *labels],
                    [[split, info.title, *map(str, cells)] for split, info, cells in lines],
                    [False, False] + [True] * len(gains),
                )
                parts += [f"#### Task by task: {title}", TASK_RATIOS_NOTE, table.markdown()]
        return [f"## {self.heading}", markdown_text(_ratios_note(board)), *parts] if parts else []


def _ratios_note(board: Leaderboard) -> str:
    return RATIOS_NOTE.format(tests="; the table of claims has the tests" if board.claims else "")


def _parts(board: Leaderboard) -> list[tuple[str, str, Comparison, list[Gain]]]:
    """Anchor, title and gains of each comparison, for equal steps and for equal time, each where there are any."""
    found = []
    for comparison in COMPARISONS:
        for budget, name in BUDGETS.items():
            gains = [
                gain
                for gain in board.gains
                if (gain.budget, *gain.regimes) == (budget, comparison.without, comparison.having)
            ]
            # A page about fine-tuning begins with before and after; there, dashes alone say nothing.
            if gains and not (board.changes and all(_is_empty(gain) for gain in gains)):
                key = f"{comparison.without}-{comparison.having}-{budget}".replace("+", "p")
                found.append((key, f"{comparison.title}, {name}", comparison, gains))
    return found


def _is_empty(gain: Gain) -> bool:
    return all(ratio is None for ratios in gain.ratios.values() for ratio in ratios.values())


def gain_cell(gain: Gain, split: str, name: str) -> Cell:
    """Print one ratio, or why there is none."""
    if name.startswith("forces_") and split in gain.withheld:
        return Cell(None, gain.withheld[split])
    return ratio_cell(gain.ratios.get(split, {}).get(name))


def gain_lines(board: Leaderboard, gains: Sequence[Gain]) -> list[MetricLine]:
    """Return a line for each metric of the tasks besides accuracy that has a ratio, with a cell for each comparison."""
    return metric_lines(
        board, {*METRICS, ROUNDING}, lambda split, name: [gain_cell(gain, split, name) for gain in gains]
    )


def gain_panels(board: Leaderboard, comparison: Comparison, title: str, gains: Sequence[Gain]) -> list[Panel]:
    """Draw the ratios of a comparison, a panel per split; no panel where all are missing."""
    panels = []
    for split in board.splits:
        traces = [_gain_trace(gains, split, name, position) for position, name in enumerate(MAIN_METRICS)]
        if all(value is None for trace in traces for value in trace.x):
            continue
        label = f"error ratio, {comparison.having} / {comparison.without}"
        figure = figure_json(
            traces,
            height=130 + 64 * max(2, len(gains)),
            margin={"l": 12, "r": 12, "t": 12, "b": 48},
            xaxis=log_axis(label, [1.0, *_bounds(gains, split)]),
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
                description=f"Ratios of errors per architecture on {split}, {title}, as tabled",
                figure=figure,
            )
        )
    return panels


def _bounds(gains: Sequence[Gain], split: str) -> list[float]:
    """Ends of all intervals of a panel."""
    shown = [gain.ratios.get(split, {}).get(name) for gain in gains for name in MAIN_METRICS]
    return [end for ratio in shown if ratio is not None for end in _interval(ratio)]


def _gain_trace(gains: Sequence[Gain], split: str, name: str, position: int) -> go.Scatter:
    ratios = [gain.ratios.get(split, {}).get(name) for gain in gains]
    offset = 0.16 * (position - (len(MAIN_METRICS) - 1) / 2)  # side by side, so that equal ratios stay visible
    return go.Scatter(
        name=METRICS[name][0],
        mode="markers",
        x=[None if ratio is None else _interval(ratio)[1] for ratio in ratios],
        y=[line + offset for line in range(len(gains))],
        error_x=_interval_bars(ratios),
        marker={"color": COLOURS[position], "symbol": SYMBOLS[position], "size": 10},
        text=[literal(gain_label(gain, gains)) for gain in gains],
        hovertemplate="%{text}: %{x:.3g}",
    )


def _interval(ratio: Ratio) -> tuple[float, float, float]:
    """The geometric mean with its interval; else the ratio of means with its spread over seeds."""
    if ratio.geometric is not None and ratio.geometric_low is not None and ratio.geometric_high is not None:
        return ratio.geometric_low, ratio.geometric, ratio.geometric_high
    spread = ratio.std or 0.0
    return ratio.value - spread, ratio.value, ratio.value + spread


def _interval_bars(ratios: Sequence[Ratio | None]) -> dict[str, Any]:
    found = [(1.0, 1.0, 1.0) if ratio is None else _interval(ratio) for ratio in ratios]
    above, below = [high - middle for _, middle, high in found], [middle - low for low, middle, _ in found]
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
    return TextTable(
        ["Architecture", *regimes, f"Places gained, {ranks[0].places_from} to E-F-H"], lines, caption=RANKS_NOTE
    )


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
