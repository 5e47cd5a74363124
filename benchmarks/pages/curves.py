"""The curve of the study of labels as an SVG file, for pages that are read without JavaScript."""

from __future__ import annotations

from pathlib import Path

from hessgnn.experiments.label_pages import SERIES, series_of
from hessgnn.experiments.label_value import METRIC, SPLIT, LabelValue
from hessgnn.leaderboard.plotting import COLOURS
from hessgnn.runtime.files import atomic_path
from pages.wording import ARCHITECTURES

_MARKERS = "osD^Pv*X"


def draw_curve(found: LabelValue, path: Path) -> None:
    """Draw Hessian errors against gradients spent on labels, at equal steps, a panel for each architecture.

    matplotlib comes with ASE. What it writes depends on its version, so the file is drawn when results are taken, and
    is not compared with a fresh one.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(point.architecture for point in found.points))
    with mpl.rc_context({"svg.hashsalt": "hessgnn", "font.size": 9}):
        figure = Figure(figsize=(4.0 * len(names), 4.6), layout="constrained")
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for panel, name in zip(panels, names, strict=True):
            mine = [point for point in found.points if (point.architecture, point.budget) == (name, "steps")]
            for place, series in enumerate(SERIES):
                points = sorted(
                    (point for point in mine if series_of(point.labels) == series), key=lambda one: one.label_gradients
                )
                errors = [point.errors[SPLIT][METRIC] for point in points]
                if not points:
                    continue
                values = [error.value or 0.0 for error in errors]
                lows = [value - (error.low or value) for value, error in zip(values, errors, strict=True)]
                highs = [(error.high or value) - value for value, error in zip(values, errors, strict=True)]
                panel.errorbar(
                    [point.label_gradients for point in points],
                    values,
                    yerr=[lows, highs],
                    label=series,
                    color=COLOURS[place % len(COLOURS)],
                    marker=_MARKERS[place % len(_MARKERS)],
                    markersize=5,
                    linewidth=1.2,
                    elinewidth=0.6,
                    capsize=2,
                )
            panel.set(
                title=ARCHITECTURES.get(name, name), xscale="log", yscale="log", xlabel="gradients spent on labels"
            )
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter("{x:g}")
            panel.grid(visible=True, which="both", linewidth=0.3)
        panels[0].set_ylabel(f"RMSE of Hessians on {SPLIT} / eV/Å²")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            figure.savefig(file, format="svg", metadata={"Date": None})
