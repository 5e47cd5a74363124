"""Figures of the report: what Hessian labels buy, ranks by labels, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import plotly.graph_objects as go

from hessgnn.evaluation.record import Budget
from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.leaderboard.board import Gain, Leaderboard, Ratio
from hessgnn.leaderboard.collect import Loaded
from hessgnn.leaderboard.gains import BUDGETS, gain_label
from hessgnn.leaderboard.plotting import (
    COLOURS,
    DASHES,
    SYMBOLS,
    Panel,
    architecture_styles,
    figure_json,
    literal,
    log_axis,
    whose,
)
from hessgnn.leaderboard.tables import MAIN_METRICS

CURVE_METRICS = ("hessian_rmse", "forces_rmse", "energy_rmse")
CURVE_POINTS = 20_000
"""In all learning curves together; longer ones are thinned evenly, so that the page stays small."""

GUIDE: dict[str, Any] = {"color": "#808080", "width": 1, "dash": "dash"}


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


def rank_panel(board: Leaderboard) -> Panel | None:
    """Draw the overall score of each architecture against the kinds of labels; None where nothing can change."""
    if not board.ranks:
        return None
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
                error_y=bars([score.std for _, score, _ in found]),
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


def bars(stds: Sequence[float | None]) -> dict[str, Any]:
    """Bars of standard deviations; none where there is a single seed."""
    return {"type": "data", "array": [0.0 if std is None else std for std in stds], "thickness": 1, "width": 4}


def curve_panels(board: Leaderboard, loaded: Sequence[Loaded]) -> list[Panel]:
    """Draw the validation errors during training, a panel per quantity and a line per run, failed ones included."""
    styles = architecture_styles(board.rows)
    runs = [item.record for item in loaded if item.record.curve]
    total = sum(len(run.curve) for run in runs) * len(CURVE_METRICS)
    stride = max(1, ceil(total / CURVE_POINTS))
    panels = []
    for name in CURVE_METRICS:
        traces, named = [], set()
        for run in runs:
            points = [point for point in run.curve[::-stride][::-1] if getattr(point, name) is not None]
            if not points:
                continue
            colour, symbol = styles.get(run.architecture, (COLOURS[0], SYMBOLS[0]))
            traces.append(
                go.Scatter(
                    name=literal(run.entry),
                    legendgroup=literal(run.entry),
                    showlegend=run.entry not in named,
                    mode="lines+markers" if len(points) == 1 else "lines",
                    x=np.array([point.step for point in points], dtype=np.int32),
                    y=np.array([getattr(point, name) for point in points], dtype=np.float32),
                    line={"color": colour, "dash": DASHES[run.regime], "width": 1.6},
                    marker={"symbol": symbol},
                    hovertemplate=f"step %{{x}}: %{{y:.3g}}, seed {run.seed}{_fate(run.status)}",
                    meta=whose(run.entry, run.regime),
                )
            )
            named.add(run.entry)
        if traces:
            title, unit = METRICS[name]
            figure = figure_json(
                traces,
                height=420,
                xaxis={"title": {"text": "training step"}},
                yaxis=log_axis(f"validation {title} / {unit}", [float(value) for trace in traces for value in trace.y]),
                showlegend=True,
            )
            panels.append(Panel(title, f"Validation {title} against the training step, a line per run", figure))
    return panels


def _fate(status: str) -> str:
    return " (failed later)" if status == "failed" else ""
