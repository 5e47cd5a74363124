"""Training: how it ended, the error of each entry against its cost, with the Pareto front, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import plotly.graph_objects as go

from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.leaderboard.board import Leaderboard, Row
from hessgnn.leaderboard.plotting import (
    COLOURS,
    DASHES,
    GUIDE,
    SYMBOLS,
    Panel,
    PanelGroup,
    architecture_styles,
    error_bars,
    figure_json,
    filter_meta,
    literal,
    log_axis,
    marker_symbol,
)
from hessgnn.leaderboard.sections.base import FigureSection, PageData, Section, section
from hessgnn.leaderboard.tables import MAIN_METRICS, MISSING, TextTable, converged, integer, number
from hessgnn.training.regimes import UNTRAINED

CURVE_METRICS = ("hessian_rmse", "forces_rmse", "energy_rmse")
TRAINING_NOTE = (
    "Converged: training stopped because the validation error was flat; otherwise its steps were used up, and a longer "
    "training may give other numbers. Costs are means over seeds. Label gradients: what the labels cost, in gradients "
    "of the engine; the labels that the checkpoint was chosen by apart."
)
STARTS_NOTE = (
    "Gradients of the start: what the labels cost that the start itself was trained, validated and tuned on, to be "
    "added to those of the entry. A dash: it started from nothing, or the cost of its labels is unknown, as for "
    "published weights."
)
CURVE_POINTS = 20_000
"""In all learning curves together; longer ones are thinned evenly, so that the page stays small."""


@section("training", order=42)
class Training(Section):
    """A table: whether each entry converged, and what its labels and its training cost."""

    heading = "Training"
    template = '{{ text_table("Table: training", table) }}'

    def context(self, data: PageData) -> dict[str, Any] | None:
        """See :meth:`Section.context`."""
        table = training_table(data.board)
        return {"table": table} if table.lines else None

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`."""
        table = training_table(data.board)
        return [f"## {self.heading}", table.caption, table.markdown()] if table.lines else []


def training_table(board: Leaderboard) -> TextTable:
    """Lay out how the training of each entry ended, and its cost."""
    headings = ["Entry", "Labels", "Converged", "Steps", "Label gradients", "Validation gradients"]
    headings += ["Tuning gradients", "Training / s"]
    starts = bool(board.origins)
    if starts:
        headings += ["Started from", "Gradients of the start"]
    lines = [
        [
            row.entry,
            row.regime,
            converged(row),
            ", ".join(f"{steps:,}" for steps in dict.fromkeys(row.run_steps)),
            integer(row.label_gradients),
            integer(row.validation_gradients),
            integer(row.tuning_gradients),
            number(row.device_seconds),
            *([row.start or MISSING, integer(row.start_gradients)] if starts else []),
        ]
        for row in board.rows
        if row.regime not in UNTRAINED
    ]
    numeric = [False] * 3 + [True] * 5 + ([False, True] if starts else [])
    return TextTable(headings, lines, numeric, f"{TRAINING_NOTE} {STARTS_NOTE}" if starts else TRAINING_NOTE)


@section("cost", order=50)
class Costs(FigureSection):
    """Figures of each error, to choose from."""

    heading = "Error against cost"
    link = "Cost"
    text = (
        "Filled symbols have Hessian labels, hollow ones have none; a dot inside marks runs for equal time. The line "
        "is the Pareto front: what no other entry beats in both. Bars are standard deviations over seeds."
    )
    choice = "Error"

    def figures(self, data: PageData) -> list[PanelGroup]:
        """Draw every main metric against the device-seconds of training, a panel per split."""
        board, groups = data.board, []
        for name in sorted(MAIN_METRICS, key=lambda name: name != "hessian_mae"):  # the most interesting one first
            panels = [panel for split in board.splits if (panel := _panel(board, split, name)) is not None]
            if panels:
                groups.append(PanelGroup(f"{METRICS[name][0]}, {METRICS[name][1]}", panels))
        return groups


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which points, of cost and error, no other one beats in both, from the cheapest to the dearest."""
    front: list[int] = []
    for position in sorted(range(len(points)), key=lambda k: points[k]):
        if not front or points[position][1] < points[front[-1]][1]:
            front.append(position)
    return front


def _panel(board: Leaderboard, split: str, name: str) -> Panel | None:
    title, unit = METRICS[name]
    shown: list[tuple[Row, float, float]] = []
    levels = []
    for row in board.rows:
        score = row.scores[split].get(name)
        if score is None:
            continue
        if row.regime in ("mean", "published"):
            levels.append((row.entry, score.mean))
        elif row.device_seconds:
            shown.append((row, row.device_seconds, score.mean))
    if not shown:
        return None
    start, stop = min(x for _, x, _ in shown) / 1.3, max(x for _, x, _ in shown) * 1.3
    front = pareto([(x, y) for _, x, y in shown])
    stairs = [(shown[k][1], shown[k][2]) for k in front]
    traces: list[Any] = [
        go.Scatter(
            name="Pareto front",
            mode="lines",
            x=[x for x, _ in stairs] + [stop],
            y=[y for _, y in stairs] + [stairs[-1][1]],
            line={"color": "#808080", "width": 1.5, "shape": "hv"},
            hoverinfo="skip",
        )
    ]
    styles = architecture_styles(board.rows)
    traces += [_point(row, x, name, split, styles[row.architecture]) for row, x, _ in shown]
    traces += [
        go.Scatter(
            name=literal(entry),
            mode="lines",
            x=[start, stop],
            y=[value, value],
            line=GUIDE,
            hovertemplate=f"%{{y:.3g}} {unit}",
        )
        for entry, value in levels
    ]
    figure = figure_json(
        traces,
        height=420,
        xaxis=log_axis("training / device-seconds per seed", [x for _, x, _ in shown]),
        yaxis=log_axis(f"{title} / {unit}", [y for _, _, y in shown] + [value for _, value in levels]),
        showlegend=True,
    )
    best = ", ".join(shown[k][0].entry for k in front)
    return Panel(
        f"Split {split}", f"{title} on {split} against device-seconds, as tabled. On the Pareto front: {best}", figure
    )


def _point(row: Row, seconds: float, name: str, split: str, style: tuple[str, str]) -> go.Scatter:
    score = row.scores[split][name]
    assert score is not None  # only entries with a number are drawn
    colour, symbol = style
    step = "" if row.seconds_per_step is None else f"{row.seconds_per_step:.3g} s per step<br>"
    return go.Scatter(
        name=literal(row.entry),
        mode="markers",
        x=[seconds],
        y=[score.mean],
        error_y=error_bars([score.std]),
        marker={
            "color": colour,
            "symbol": marker_symbol(symbol, row.regime, row.budget),
            "size": 11,
            "line": {"width": 2, "color": colour},
        },
        hovertemplate=f"%{{y:.3g}} {METRICS[name][1]} for %{{x:.3g}} s<br>{row.steps:,} steps, {step}"
        f"{row.parameters:,} parameters, n={score.n}",
        meta=filter_meta(row.entry, row.regime),
    )


@section("curves", order=60)
class Curves(FigureSection):
    """A figure for each quantity."""

    heading = "Learning curves"
    text = (
        "Validation errors, a line per run. A line that ends early is a failed run; choose entries in the legend, or "
        "with the filters above."
    )

    def figures(self, data: PageData) -> list[Panel]:
        """Draw the validation errors during training, a panel per quantity and a line per run, failed ones included."""
        styles = architecture_styles(data.board.rows)
        runs = [item.record for item in data.runs if item.record.curve]
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
                        line={"color": colour, "dash": DASHES.get(run.regime, "dashdot"), "width": 1.6},
                        marker={"symbol": symbol},
                        hovertemplate=f"step %{{x}}: %{{y:.3g}}, seed {run.seed}{_fate(run.status)}",
                        meta=filter_meta(run.entry, run.regime),
                    )
                )
                named.add(run.entry)
            if traces:
                title, unit = METRICS[name]
                figure = figure_json(
                    traces,
                    height=420,
                    xaxis={"title": {"text": "training step"}},
                    yaxis=log_axis(
                        f"validation {title} / {unit}", [float(value) for trace in traces for value in trace.y]
                    ),
                    showlegend=True,
                )
                panels.append(Panel(title, f"Validation {title} against the training step, a line per run", figure))
        return panels


def _fate(status: str) -> str:
    return " (failed later)" if status == "failed" else ""
