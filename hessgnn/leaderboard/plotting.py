"""What all figures share: colours, symbols, layout, and text that plotly shows as it is."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from hessgnn.leaderboard.board import Row
from hessgnn.training.regimes import has_curvature

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8529a", "#c48a00", "#4a9cd6", "#8c6d5a", "#7a7fd0")
"""After Okabe and Ito (2008), darkened where needed: told apart with any colour vision, on white and on black."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x", "hexagon")
DASHES = {"E": "dot", "E-F": "dash", "E-F+": "longdashdot", "E-F+H": "8px 2px", "E-H": "longdash", "E-F-H": "solid"}
DASHES |= {"mean": "dashdot", "published": "2px 4px"}
GUIDE: dict[str, Any] = {"color": "#808080", "width": 1, "dash": "dash"}
"""Line that marks a reference, such as a ratio of one."""


@dataclass(frozen=True)
class Panel:
    """One figure, with what a reader needs who cannot see it."""

    title: str
    description: str
    figure: dict[str, Any]
    entry: str = ""
    """Whose figure it is, where it is one entry's: the page's filters hide it with the entry."""
    regime: str = ""


@dataclass(frozen=True)
class PanelGroup:
    """Figures that are shown together, as one choice of a menu."""

    name: str
    panels: list[Panel]
    text: str = ""
    layout: str = "panels"
    """Class of the style sheet."""
    rows: int = 0
    """Of the layout ``parity-panels``."""


def literal(text: str) -> str:
    """Escape a name for plotly, which renders HTML-like tags in every text, or would read ``%{...}`` as a field."""
    return html.escape(text, quote=False).replace("%{", "%&#123;")


def filter_meta(entry: str, regime: str) -> dict[str, str]:
    """Return the ``meta`` of a trace, by which the filters of the page hide it."""
    return {"entry": entry, "regime": regime}


def marker_symbol(symbol: str, regime: str, budget: str = "steps") -> str:
    """Filled with Hessian labels, hollow without, hollow with a dot where the budget was equal time."""
    if has_curvature(regime):
        return symbol
    return f"{symbol}-open-dot" if budget == "seconds" else f"{symbol}-open"


def error_bars(stds: Sequence[float | None]) -> dict[str, Any]:
    """Bars of standard deviations; none where there is a single seed."""
    return {"type": "data", "array": [0.0 if std is None else std for std in stds], "thickness": 1, "width": 4}


def log_axis(title: str, values: Sequence[float | None], **style: Any) -> dict[str, Any]:
    """A logarithmic axis whose ticks are few and round, also where all values lie within one octave.

    Values that have no logarithm are ignored. ``style`` holds further settings of the axis.
    """
    axis: dict[str, Any] = {"type": "log", "automargin": True, "title": {"text": title}, **style}
    known = [value for value in values if value is not None and 0 < value < math.inf]
    if not known:
        return axis
    low, high = min(known), max(known)
    decades = math.log10(high / low)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    if decades > 3:
        ticks = [10.0**power for power in powers]
    elif decades > 0.7:
        ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    else:
        rough = max(high - low, 0.2 * high) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough)
        ticks = [step * k for k in range(max(1, math.floor(low / step) - 3), math.ceil(high / step) + 4)]
    return {**axis, "tickvals": ticks, "ticktext": [f"{tick:.6g}" for tick in ticks]}


def architecture_styles(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Give each architecture a colour and a symbol, the same in all figures."""
    names = sorted({row.architecture for row in rows if row.regime != "mean"})
    return {
        name: (COLOURS[position % len(COLOURS)], SYMBOLS[position % len(SYMBOLS)])
        for position, name in enumerate(names)
    }


def figure_json(traces: Sequence[Any], **layout: Any) -> dict[str, Any]:
    """Build a figure of Plotly traces with the layout of all figures, and further ``layout`` such as ``xaxis``.

    The result has ``data`` and ``layout``, free of NumPy objects. The page adds the colours of text and grid.
    """
    common = {
        "template": go.layout.Template(),
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 64, "r": 12, "t": 12, "b": 48},
        "hovermode": "closest",
        "height": 320,
        "autosize": True,
        "hoverlabel": {"namelength": -1},
        "legend": {"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0},
    }
    figure = go.Figure(data=list(traces), layout={**common, **layout})
    return dict(json.loads(figure.to_json()))
