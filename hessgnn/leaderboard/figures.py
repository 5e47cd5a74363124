"""Figures of the report: what Hessian labels buy, error against cost, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import plotly.graph_objects as go

from hessgnn.benchmark.record import METRICS
from hessgnn.leaderboard.board import Gain, Leaderboard
from hessgnn.leaderboard.collect import Loaded
from hessgnn.leaderboard.plotting import COLOURS, DASHES, SYMBOLS, Panel, architecture_styles, figure_json, literal
from hessgnn.leaderboard.tables import MAIN_METRICS

CURVE_METRICS = ("hessian_rmse", "forces_rmse", "energy_rmse")
CURVE_POINTS = 20_000
"""In all learning curves together; longer ones are thinned evenly, so that the page stays small."""

GUIDE: dict[str, Any] = {"color": "#808080", "width": 1, "dash": "dash"}
LOG: dict[str, Any] = {"type": "log", "automargin": True, "dtick": "D2", "tickformat": "~g"}


def gain_panels(board: Leaderboard) -> list[Panel]:
    """Draw the ratios E-F-H over E-F, a panel per split; no panel where all are missing."""
    panels = []
    for split in board.splits:
        traces = [_gain_trace(board.gains, split, name, position) for position, name in enumerate(MAIN_METRICS)]
        if all(value is None for trace in traces for value in trace.x):
            continue
        figure = figure_json(
            traces,
            height=130 + 64 * max(2, len(board.gains)),
            margin={"l": 12, "r": 12, "t": 12, "b": 48},
            xaxis={"title": {"text": "error ratio, E-F-H / E-F"}, **LOG},
            yaxis={
                "automargin": True,
                "range": [len(board.gains) - 0.5, -0.5],
                "tickvals": list(range(len(board.gains))),
                "ticktext": [literal(gain_label(gain, board.gains)) for gain in board.gains],
                "ticksuffix": "  ",
                "zeroline": False,
            },
            shapes=[{"type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper", "line": GUIDE}],
            legend={"orientation": "h", "yanchor": "top", "y": -0.3, "x": 0},
        )
        panels.append(
            Panel(
                title=f"Split {split}",
                description=f"Ratios of errors with over without Hessian labels per architecture on {split}, as tabled",
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
        error_x=_bars([None if ratio is None else ratio.std for ratio in ratios]),
        marker={"color": COLOURS[position], "symbol": SYMBOLS[position], "size": 10},
        text=[literal(gain_label(gain, gains)) for gain in gains],
        hovertemplate="%{text}: %{x:.3g}",
    )


def gain_label(gain: Gain, gains: Sequence[Gain]) -> str:
    """Name a comparison: by its architecture, or by its two entries where it has several; ``*`` marks failed seeds."""
    single = sum(other.architecture == gain.architecture for other in gains) == 1
    name = gain.architecture if single else f"{gain.with_hessian} over {gain.without_hessian}"
    return f"{name} *" if gain.n_failed else name


def _bars(stds: Sequence[float | None]) -> dict[str, Any]:
    return {"type": "data", "array": [0.0 if std is None else std for std in stds], "thickness": 1, "width": 4}


def cost_panels(board: Leaderboard) -> list[Panel]:
    """Draw the Hessian RMSE against the cost of training, a panel per split, the mean predictor as a level."""
    styles = architecture_styles(board.rows)
    panels = []
    for split in board.splits:
        traces = []
        levels = []
        for row in board.rows:
            score = row.scores[split].get("hessian_rmse")
            if score is None:
                continue
            if row.regime == "mean":
                levels.append((row.entry, score.mean))
            elif row.device_seconds:
                colour, symbol = styles[row.architecture]
                traces.append(
                    go.Scatter(
                        name=literal(row.entry),
                        mode="markers",
                        x=[row.device_seconds],
                        y=[score.mean],
                        error_y=_bars([score.std]),
                        marker={
                            "color": colour,
                            "symbol": symbol if row.regime == "E-F-H" else f"{symbol}-open",
                            "size": 11,
                            "line": {"width": 2, "color": colour},
                        },
                        hovertemplate="%{x:.3g} s, %{y:.3g} eV/Å²",
                    )
                )
        if not traces:
            continue
        seconds = [trace.x[0] for trace in traces]
        traces += [_level(entry, value, min(seconds) / 1.3, max(seconds) * 1.3) for entry, value in levels]
        figure = figure_json(
            traces,
            height=400,
            xaxis={"title": {"text": "training / device-seconds per seed"}, **LOG},
            yaxis={"title": {"text": "H RMSE / eV/Å²"}, **LOG},
            showlegend=True,
        )
        panels.append(Panel(f"Split {split}", f"Hessian RMSE on {split} against device-seconds, as tabled", figure))
    return panels


def _level(entry: str, value: float, start: float, stop: float) -> go.Scatter:
    return go.Scatter(
        name=literal(entry),
        mode="lines",
        x=[start, stop],
        y=[value, value],
        line=GUIDE,
        hovertemplate="%{y:.3g} eV/Å²",
    )


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
                )
            )
            named.add(run.entry)
        if traces:
            title, unit = METRICS[name]
            figure = figure_json(
                traces,
                height=420,
                xaxis={"title": {"text": "training step"}},
                yaxis={"title": {"text": f"validation {title} / {unit}"}, **LOG},
                showlegend=True,
            )
            panels.append(Panel(title, f"Validation {title} against the training step, a line per run", figure))
    return panels


def _fate(status: str) -> str:
    return " (failed later)" if status == "failed" else ""
