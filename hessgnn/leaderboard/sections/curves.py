"""Learning curves: validation errors during training, a line per run."""

from __future__ import annotations

from math import ceil

import numpy as np
import plotly.graph_objects as go

from hessgnn.evaluation.tasks.accuracy import METRICS
from hessgnn.leaderboard.plotting import (
    COLOURS,
    DASHES,
    SYMBOLS,
    Panel,
    architecture_styles,
    figure_json,
    filter_meta,
    literal,
    log_axis,
)
from hessgnn.leaderboard.sections.base import FigureSection, PageData, section

CURVE_METRICS = ("hessian_rmse", "forces_rmse", "energy_rmse")
CURVE_POINTS = 20_000
"""In all learning curves together; longer ones are thinned evenly, so that the page stays small."""


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
                        line={"color": colour, "dash": DASHES[run.regime], "width": 1.6},
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
